package template_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/tokenizer/template"
)

// Conditional expressions and methods of what is in parentheses, which templates of Gemma 3, gpt-oss, LFM2 and
// Nemotron use. What is wanted is what jinja2 3.1.6 renders.
func TestConditionsAndParentheses(t *testing.T) {
	t.Parallel()
	messages := []template.Message{{Role: "user", Content: "Hello /think, x"}, {Role: "assistant", Content: "<think>a</think> b "}}
	for source, want := range map[string]string{
		`{{ '<' + messages[0].role + (bos_token if messages[0].nope else "") + '>' }}`:                                                     "<user>",
		`{{ ('q' if true else 'b').upper() }}`:                                                                                             "Q",
		`{{ ('x' if messages[0].nope else 'y') | upper }}`:                                                                                 "Y",
		`{{ 'a' if false else 'b' if false else 'c' }}`:                                                                                    "c",
		`{% set x = 'a' if false else 'b' if true else 'c' %}{{ x }}`:                                                                      "b",
		`{% set x = 'a' if false %}[{{ x }}]`:                                                                                              "[]",
		`{{ [1 if true else 2, 3 if false else 4] }}`:                                                                                      "[1, 4]",
		`{{ {'k': 'a' if true else 'b'}['k'] }}`:                                                                                           "a",
		`{{ messages[0 if false else 1].role }}`:                                                                                           "assistant",
		`{{ (none if true else 1) is none }} {{ (nope if true else 1) is defined }}`:                                                       "True False",
		`{{ (0 if true else 1) + 5 }} {{ ([] if true else [1]) | length }}`:                                                                "5 0",
		`{{ (raise_exception('no') if false else 'fine') }}`:                                                                               "fine",
		`{% if ('a' if false else '') %}y{% else %}n{% endif %}`:                                                                           "n",
		`{%- macro f(a, b='x' if true else 'y') -%}{{ a }}{{ b }}{%- endmacro -%}{{ f('q') }}{{ f('q', b='w' if false else 'v') }}`:        "qxqv",
		`{% for m in (messages if true else []) if m.role == 'user' %}{{ m.role }}{% endfor %}`:                                            "user",
		`{# c if d else e ( #}{{ 'if else' }}{{ "a if (b else" }}{% raw %}{{ a if b else c }}{% endraw %}`:                                 "if elsea if (b else{{ a if b else c }}",
		"{{ 'x' if not messages else 'y' }}\r\n\n":                                                                                         "y\n",
		`{{ (messages[0].content | default('', true)).replace('/think', '').strip() }}`:                                                    "Hello , x",
		`{{ ((messages[0].content | trim) + 'z').split('/think')[1].strip() }}`:                                                            ", xz",
		`{{ '-' * 8 + "+" * 2 }}`:                                                                                                          "--------++",
		`{% filter trim %}  {{ 'a' }} {% endfilter %}`:                                                                                     "a",
		`{% if (messages[0].content | trim).startswith('H') %}yes{% endif %}`:                                                              "yes",
		`{% for x in (messages[0].content + ',').split(',') %}[{{ x }}]{% endfor %}`:                                                       "[Hello /think][ x][]",
		`{% set u = messages | selectattr('role', 'equalto', 'user') | list %}{{ u[-1].role }}{{ u[ -1 ]['role'] }}{{ u[-2] is defined }}`: "useruserFalse",
		`{% set l = [] + ['a'] %}{{ l[-1] }}{{ (l + ['b', 'c'])[-2] }}{{ (l + ['b'])[-2] }}{{ (1,)[-1] }}{{ messages[-1].role }}`:          "aba1assistant",
		`{{ 1 if -1 in [-1] and [-1] else 2 }}{% for i in [-1] %}{{ i }}{% endfor %}{{ messages[1:][-1].role }}{{ 'a'.split('b')[-1] }}`:   "1-1assistanta",
		`{{ messages | reverse | map(attribute='role') | join(',') }} {{ [3, 1, 2] | reverse | join }} {{ 'aé' | reverse }}`:               "assistant,user 213 éa",
		`{{ not (messages[0].content).startswith('x') }} {{ (messages|last).content.strip().upper() }}`:                                    "True <THINK>A</THINK> B",
	} {
		compiled, err := template.Compile(source, map[string]string{"bos_token": "<s>"})
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := compiled.Render(messages, true, nil); err != nil || got != want {
			t.Errorf("%s renders %q, %v; want %q", source, got, err, want)
		}
	}
}

// What cannot be parsed is refused, whatever it was respelled to.
func TestBrokenExpressions(t *testing.T) {
	t.Parallel()
	for _, source := range []string{
		`{{ ( }}`, `{{ a if }}`, `{{ (a if b else }}`, `{{ (a if b`, `{{ ) if ( }}`, `{% if (a].b %}{% endif %}`, `{{ 'a`, `{% set x = (a if b else c %}`,
		`{{ 'a' * 5000 }}`, `{{ 'a' * 9 * 9 }}`, `{{ ('a' * 9) * 9 }}`, `{{ 'a' * messages }}`, `{{ messages[0].role * 2 }}`, `{{ 'a' * 2 ** 9 }}`, `{{ 'a' * -1 }}`, `{{ 'a' *`, `{{ 2 * 'a' }}`, `{{ (a if b else c if d else) }}`, `{{ [a if b }}`, `{%`, `{{`, strings.Repeat(`{{ (a if `, 300),
	} {
		if compiled, err := template.Compile(source, nil); err == nil {
			if _, err := compiled.Render([]template.Message{{Role: "user"}}, true, nil); err == nil || errors.Is(err, template.ErrRaised) {
				t.Errorf("%.50q was rendered", source)
			}
		}
	}
}

// What macros, set blocks and filter blocks write is bounded while it is written, and not when it is all there.
func TestKeptTextIsBounded(t *testing.T) {
	messages := []template.Message{{Role: "user", Content: strings.Repeat("x", 1<<20)}}
	const m = "{{ messages[0].content }}"
	for name, source := range map[string]string{
		"macro":          "{% macro f() %}" + strings.Repeat(m, 1000) + "{% endmacro %}{{ f() | length }}",
		"set":            "{% set x %}" + strings.Repeat(m, 1000) + "{% endset %}{{ x | length }}",
		"filter":         "{% filter length %}" + strings.Repeat(m, 1000) + "{% endfilter %}",
		"loop in a set":  "{% set x %}{% for i in range(1000) %}" + m + "{% endfor %}{% endset %}{{ x | length }}",
		"many":           strings.Repeat("{% set x %}"+strings.Repeat(m, 10)+"{% endset %}", 100),
		"within another": strings.Repeat("{% filter length %}", 60) + strings.Repeat(m, 15) + strings.Repeat("{% endfilter %}", 60) + strings.Repeat("{% filter trim %}", 60) + strings.Repeat(m, 15) + strings.Repeat("{% endfilter %}", 60),
	} {
		c, err := template.Compile(source, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = c.Render(messages, false, nil)
		runtime.ReadMemStats(&after)
		if made := (after.TotalAlloc - before.TotalAlloc) >> 20; !errors.Is(err, template.ErrFailed) || made > 1000 {
			t.Errorf("%s: %v, after %d MiB were made", name, err, made)
		}
	}
}

// The texts are jinja2's.
func TestFormat(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{% set eos = '<eos{}>'.format(':x') %}{{ eos }}`:                                     "<eos:x>",
		`{{ '{0}{1}{0} {a} {{}} {{{a}}}'.format('p', 7, a=messages[0].role) }}`:               "p7p user {} {user}",
		`{{ '{}-{}'.format(true, [1, 'a']) }}{{ ''.format() }}{{ 'x'.format('y') }}`:          "True-[1, 'a']x",
		`{{ '{}' }}{{ 7 % 4 }}{% if messages[0].format %}{{ messages[0].format }}{% endif %}`: "{}3",
		`{{ '{}'.format() }}`: "", `{{ '{0:>5}'.format(1) }}`: "", `{{ '}'.format() }}`: "", `{{ '{'.format() }}`: "", `{{ '{-1}'.format(1) }}`: "",
	} {
		c, err := template.Compile(source, nil)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := c.Render([]template.Message{{Role: "user"}}, false, nil); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", source, got, err, want)
		}
	}
	if _, err := template.Compile(`{{ 'a %d' % 5 }}`, nil); err == nil || !strings.Contains(err.Error(), "format()") {
		t.Errorf("a text with %%: %v", err)
	}
	// A message that is a format could become a special token.
	for _, source := range []string{`{{ messages[0].content.format('') }}`, `{{ ('<' ~ messages[0].content).format('') }}`, `{{ x.format ('') }}`} {
		if _, err := template.Compile(source, nil); err == nil || !strings.Contains(err.Error(), "itself writes") {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// Set and filter blocks are jinja2's.
func TestBlocks(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"{% set x %}a{{ messages[0].role }}{% endset %}[{{ x }}]{{ x | upper }}":                               "[auser]AUSER",
		"{% filter upper | trim %} a{% if true %}b{% endif %} {% endfilter %}":                                 "AB",
		"{% macro f(a) %}{{ a }}{% set y %}<{{ a }}>{% endset %}{{ y }}{% endmacro %}{{ f('q') }}{{ f('r') }}": "q<q>r<r>",
		"{% for i in [1, 2] %}{% set x %}{{ i }}{% endset %}{{ x }},{% endfor %}{{ x is defined }}":            "1,2,False",
	} {
		c, err := template.Compile(source, nil)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := c.Render([]template.Message{{Role: "user", Content: "hi"}}, false, nil); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", source, got, err, want)
		}
	}
	if _, err := template.Compile("{% set ns = namespace(a=1) %}{% set ns.a %}x{% endset %}", nil); err == nil || !strings.Contains(err.Error(), "only a variable") {
		t.Errorf("a block for a field: %v", err)
	}
}
