package grammar_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pelton-run/pelton/runtime/grammar"
)

// letters is a vocabulary of all bytes, with an end token behind them.
var letters = grammar.NewVocabulary(257, func(id int32) string {
	if id == 256 {
		return ""
	}
	return string([]byte{byte(id)})
}, []int32{256})

// may tells which tokens may follow.
func may(m *grammar.Matcher, n int) []float32 {
	logits := make([]float32, n)
	m.Restrict(logits)
	return logits
}

// reads tells how much of a text a grammar reads, and whether it may end there.
func reads(g *grammar.Grammar, text string) (n int, ends bool) {
	m := g.Matcher(letters)
	for ; n < len(text) && may(m, 257)[text[n]] == 0; n++ {
		if !m.Accept(int32(text[n])) {
			return n, false
		}
	}
	return n, may(m, 257)[256] == 0
}

func schema(t testing.TB, text string) *grammar.Grammar {
	t.Helper()
	g, err := grammar.Schema(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return g
}

func TestSchema(t *testing.T) {
	t.Parallel()
	const any = `{}`
	for _, tt := range []struct {
		schema  string
		yes, no []string
	}{
		{any, []string{`{}`, `[]`, `"a"`, `-0.5e+12`, `0`, `true`, `null`, `[1, {"a": [ ]}]`, "{\n  \"a\": 1,\n  \"b\": \"\"\n}", `"\u00e9\ud83d\ude00\/\n"`, `"é水🙂"`},
			[]string{``, `{`, `[1,]`, `{"a"}`, `01`, `1.`, `.5`, `+1`, `"\ud83d"`, `"\ude00"`, `"\x"`, "\"\n\"", "\"\x80\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", `tru`, `nul1`, `{"a":1 "b":2}`, `[  1]`, `1e999`, ` 1`}},
		{`true`, []string{`{}`, `1`}, nil},
		{`{"type":"object"}`, []string{`{}`, `{"a":{"b":[1]}}`}, []string{`[]`, `1`}},
		{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{"type":"null"}},"required":["b"]}`,
			[]string{`{"b":""}`, `{"a":1,"b":"x"}`, `{"a": 1, "b": "x", "c": null}`, `{"b":"","c":null}`}, []string{`{}`, `{"a":1}`, `{"b":"","a":1}`, `{"b":"","d":1}`, `{"b":"",}`, `{"c":null}`, `{,"b":""}`}},
		{`{"properties":{"a":{}}}`, []string{`{}`, `{"a":[]}`}, []string{`{"b":1}`, `[]`}},
		{`{"properties":{"a":{"const":1}},"additionalProperties":{"type":"boolean"}}`,
			[]string{`{}`, `{"a":1}`, `{"a":1,"b":true}`, `{"b":true,"c":false}`, `{"aa":true}`, `{"":true}`, `{"é":true}`, `{"b\u0061":true}`}, []string{`{"a":true}`, `{"b":true,"a":true}`, `{"b":1}`, `{"\u0061":true}`}},
		{`{"properties":{"é":{"const":1},"a\"b":{"const":2}},"additionalProperties":true}`, []string{`{"é":1,"a\"b":2,"è":3}`[:0] + `{"é":1,"a\"b":2,"x":3}`, `{"a":3}`, `{"ab":3}`}, []string{`{"é":2}`, `{"a\"b":1}`}},
		{`{"type":"object","properties":{"a":{"type":"null"}},"required":["z"],"additionalProperties":{"type":"integer"}}`, []string{`{"z":1}`, `{"a":null,"z":1}`, `{"z":1,"y":2}`}, []string{`{}`, `{"z":null}`, `{"z":1,"z":2}`}},
		{`{"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":3}`, []string{`[true]`, `[true, false,true]`, "[\ntrue\n]"}, []string{`[]`, `[1]`, `[true,true,true,true]`}},
		{`{"items":{"items":{"items":{"items":{"type":"integer"}}}}}`, []string{`[]`, `[[[[1,2],[]]]]`}, []string{`[1]`}},
		{`{"prefixItems":[{"type":"string"},{"type":"integer"}]}`, []string{`[]`, `["a"]`, `["a",1]`}, []string{`[1]`, `["a",1,1]`}},
		{`{"prefixItems":[{"type":"string"},{"type":"integer"}],"minItems":2,"items":{"type":"null"}}`, []string{`["a",1]`, `["a",1,null,null]`}, []string{`["a"]`, `["a",1,1]`}},
		{`{"prefixItems":[{"type":"string"},{"type":"integer"}],"maxItems":1}`, []string{`[]`, `["a"]`}, []string{`["a",1]`}},
		{`{"prefixItems":[{"type":"string"}],"minItems":3,"maxItems":3}`, []string{`["a",1,{}]`}, []string{`["a"]`, `["a",1]`, `["a",1,2,3]`}},
		{`{"type":"array","maxItems":0}`, []string{`[]`, `[ ]`}, []string{`[1]`}},
		{`{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"abc"`, `"é🙂"`, `"\n\u0041"`}, []string{`"a"`, `"abcd"`, `""`}},
		{`{"type":"string","pattern":"^[a-c]{2}\\d+x?$"}`, []string{`"ab1"`, `"cc123x"`}, []string{`"a1"`, `"ab"`, `"ab1y"`, `"xab1"`}},
		{`{"type":"string","pattern":"b\"|\\\\|\n"}`, []string{`"ab\"c"`, `"\\"`, `"x\ny"`}, []string{`"b"`, `"a"`}},
		{`{"type":"string","pattern":"^(?i)ß?k$"}`, []string{`"k"`, `"K"`, `"ẞK"`}, []string{`"kk"`}},
		{`{"pattern":"^[^a]$"}`, []string{`"b"`, `"é"`, `"\u0000"`, `"\""`}, []string{`"a"`, `""`, `"bb"`}},
		{`{"type":["string","null"]}`, []string{`"a"`, `null`}, []string{`1`}},
		{`{"type":"number"}`, []string{`0`, `-1.5`, `1e10`, `1E-2`}, []string{`01`, `"1"`, `1.e1`}},
		{`{"type":"integer"}`, []string{`0`, `-12`}, []string{`1.0`, `1e2`, `--1`}},
		{`{"type":"integer","minimum":-12,"maximum":305}`, []string{`-12`, `-1`, `0`, `9`, `99`, `305`, `300`}, []string{`-13`, `306`, `-0`, `1000`, `007`, `400`}},
		{`{"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":11}`, []string{`10`}, []string{`9`, `11`, `1`, `100`}},
		{`{"type":"integer","minimum":1.5,"maximum":-0.5e1}`, nil, nil},
		{`{"type":"integer","minimum":0.5,"maximum":2.5}`, []string{`1`, `2`}, []string{`0`, `3`}},
		{`{"type":"integer","minimum":7}`, []string{`7`, `10`, `9999999999999999`}, []string{`6`, `-7`}},
		{`{"type":"integer","maximum":-7}`, []string{`-7`, `-10`}, []string{`-6`, `7`, `0`}},
		{`{"type":"number","exclusiveMinimum":0,"maximum":2}`, []string{`0.001`, `1.9`, `2`, `2.00`, `1`}, []string{`0`, `0.0`, `2.01`, `-1`, `3`}},
		{`{"type":"number","minimum":-2,"maximum":-1}`, []string{`-1`, `-1.0`, `-1.5`, `-2`, `-2.0`}, []string{`-2.1`, `-0.9`, `1`}},
		{`{"type":"number","minimum":0}`, []string{`0`, `0.5`, `12`}, []string{`-1`}},
		{`{"enum":["a","ab",1,12,null,{"x":[1,"y"]},true]}`, []string{`"a"`, `"ab"`, `1`, `12`, `null`, `{"x":[1,"y"]}`, `true`}, []string{`"b"`, `2`, `123`, `{"x":[1]}`, `"`}},
		{`{"type":"string","enum":["a",1]}`, []string{`"a"`}, []string{`1`}},
		{`{"const":"é\n<"}`, []string{`"é\n<"`}, []string{`"é"`}},
		{`{"anyOf":[{"type":"object","properties":{"a":{"const":1},"b":{"const":2}},"required":["a","b"]},{"type":"object","properties":{"a":{"const":1},"c":{"const":3}},"required":["a","c"]}]}`,
			[]string{`{"a":1,"b":2}`, `{"a": 1, "c": 3}`}, []string{`{"a":1}`, `{"b":2}`}},
		{`{"oneOf":[{"type":"integer"},{"type":"null"}]}`, []string{`1`, `null`}, []string{`true`}},
		{`{"allOf":[{"$ref":"#/definitions/x~1y"}],"definitions":{"x/y":{"type":"null"}}}`, []string{`null`}, []string{`1`}},
		{`{"$defs":{"n":{"properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["v","next"]}},"$ref":"#/$defs/n"}`,
			[]string{`{"v":1,"next":null}`, `{"v":1,"next":{"v":2,"next":{"v":3,"next":null}}}`}, []string{`{"v":1}`, `{"v":1,"next":{}}`}},
		{`{"items":{"$ref":"#"}}`, []string{`[]`, `[[],[[]]]`}, []string{`[1]`}},
		{`{"type":"string","format":"date-time"}`, []string{`"2026-11-27T21:10:52Z"`, `"2026-11-27T21:10:52.123+01:00"`}, []string{`"2026-13-27T21:10:52Z"`, `"2026-11-27"`}},
		{`{"type":"string","format":"uuid"}`, []string{`"01a21ef9-d3a2-7a9b-bc0e-5f37fb6191b7"`}, []string{`"01a21ef9"`}},
		{`{"type":"string","format":"ipv4"}`, []string{`"127.0.0.1"`, `"255.255.255.255"`}, []string{`"256.0.0.1"`, `"1.2.3"`}},
		{`{"type":"string","format":"ipv6"}`, []string{`"::1"`, `"1:2:3:4:5:6:7:8"`, `"fe80::1"`, `"::"`}, []string{`":1"`, `"1:2"`}},
		{`{"type":"string","format":"email"}`, []string{`"a.b@example.org"`}, []string{`"a@"`, `"@b"`, `"a"`}},
		{`{"type":"string","format":"duration"}`, []string{`"P1D"`, `"PT5M"`, `"P1Y2M3DT4H5M6S"`, `"P2W"`}, []string{`"P"`, `"PT"`, `"1D"`}},
		{`{"type":"string","format":"time"}`, []string{`"21:10:52Z"`}, []string{`"24:00:00Z"`}},
		{`{"type":"string","format":"hostname"}`, []string{`"a"`, `"a-b.example"`}, []string{`"-a"`, `"a."`}},
		{`{"type":"string","format":"date"}`, []string{`"2024-02-29"`, `"2000-02-29"`, `"2026-12-31"`, `"0001-01-01"`}, []string{`"2026-02-29"`, `"1900-02-29"`, `"2026-11-31"`, `"0000-01-01"`}},
		{`{"type":"string","format":"ipv6"}`, []string{`"2001:db8::8a2e:370:7334"`, `"::ffff:1:2"`, `"1::"`}, []string{`"1:2:3:4:5:6:7::8:9"`, `"1::2::3"`}},
		{`{"pattern":"^a$|^b+$"}`, []string{`"a"`, `"bb"`}, []string{`"aa"`, `"ab"`, `""`}},
		{`{"pattern":"(^a|b$)"}`, []string{`"a"`, `"ax"`, `"xb"`}, []string{`"xa"`, `"bx"`}},
		{`{"pattern":"^[a-z-]+$","minLength":2,"maxLength":4}`, []string{`"ab"`, `"a-bc"`}, []string{`"a"`, `"abcde"`}},
		{`{"pattern":"a","minLength":3}`, []string{`"xya"`, `"abcd"`, `"éaé"`}, []string{`"ab"`, `"xyz"`}},
		{`{"format":"date","type":"string","maxLength":10}`, []string{`"2026-11-27"`}, []string{`"2026-11-2"`}},
		{`{"pattern":"^[\\u0041-\\u0043]\\\\u$"}`, []string{`"A\\u"`}, []string{`"D\\u"`}},
		{`{"pattern":"^\\S+[\\S][^\\s]\\s[^\\S]$"}`, []string{`"ab水  "`, `"\\[x  "`}, []string{`"a\u000bb  "`, "\"aa\u00a0  \"", "\"a\u00a0a  \"", "\"aaa\u00a0 \""}},
		{`{"pattern":"^[\\]\\S]+\\[\\S$"}`, []string{`"]x[y"`}, []string{`"] [y"`, `"][ "`}},
		{`{"pattern":"^[[:digit:]]$"}`, []string{`"d]"`, `"[]"`}, []string{`"1"`, `"d"`}},
		{`{"pattern":"^\\[]$"}`, []string{`"[]"`}, nil},
		{`{"pattern":"^.$"}`, []string{`"a"`, `"水"`}, []string{`"\r"`, "\"\u2028\""}},
		{`{"pattern":"^\\p{L}{1,50}$"}`, []string{`"né水"`}, []string{`"1"`, `""`}},
		{`{"enum":["\u2028","\u007f"]}`, []string{"\"\u2028\"", "\"\u007f\""}, nil},
		{`{"enum":[{"a":[1,{}],"b":""},[]]}`, []string{`{"a": [1, {}], "b": ""}`, `[]`, "{\n  \"a\":[1,{}],\"b\":\"\"}"}, []string{`{"a":[1,{}]}`, `[1]`}},
		{`{"type":"string","const":"cat","enum":["cat"]}`, []string{`"cat"`}, []string{`"dog"`}},
		{`{"type":"string","anyOf":[{"minLength":3},{"type":["null","integer"]},{}]}`, []string{`"abc"`, `"a"`}, []string{`1`, `null`, `{}`}},
		{`{"type":"integer","anyOf":[{"type":"number"},true]}`, []string{`1`}, []string{`1.5`, `"a"`}},
		{`{"type":"array","$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"type":"string"},{"items":{"$ref":"#/$defs/a"}}]}}}`, []string{`[]`, `["a",["b"]]`}, []string{`"a"`, `[1]`}},
		{`{"$ref":"#/$defs/a%20b","$defs":{"a b":{"type":"null"}}}`, []string{`null`}, nil},
		{`{"type":"integer"}`, []string{`1234567890123456789`, `-9223372036854775808`, `9223372036854775807`}, []string{`9223372036854775808`, `01`}},
		{`{"properties":{"a\"b":{},"a\u0001":{}},"additionalProperties":{"type":"null"}}`, []string{`{"a\"b":1,"ab":null}`, `{"":null,"a":null}`}, []string{`{"a\x":null}`, `{"a\u00x":null}`}},
		{`{"exclusiveMinimum":5,"exclusiveMaximum":100}`, []string{`5.000000000001`, `99.999999999999`, `50.5`, `6`}, []string{`5.0000000000000001`, `99.9999999999999999`, `5`, `5.0`, `100`}},
		{`{"exclusiveMaximum":0}`, []string{`-0.00000000000001`, `-1`, `-12.5`}, []string{`0`, `-0`, `-0.0`}},
		{`{"type":"string","format":"color","title":"a","description":"b","default":1,"x-mine":{}}`, []string{`""`, `"red"`}, nil},
	} {
		g, err := grammar.Schema(tt.schema)
		if tt.yes == nil && tt.no == nil {
			if err == nil {
				t.Errorf("%s is taken", tt.schema)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.schema, err)
			continue
		}
		for _, text := range tt.yes {
			if n, ends := reads(g, text); n < len(text) || !ends {
				t.Errorf("%s does not take %s: read up to %q, complete: %v", tt.schema, text, text[:n], ends)
			}
		}
		for _, text := range tt.no {
			if n, ends := reads(g, text); n == len(text) && ends {
				t.Errorf("%s takes %s", tt.schema, text)
			}
		}
	}
}

func TestObject(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{`{}`: true, `{"a": {"b": [1, 2]}, "a": null}`: true, `[]`: false, `1`: false, `{"a"`: false} {
		if n, ends := reads(grammar.Object(), text); (n == len(text) && ends) != want {
			t.Errorf("%s: read up to %q, complete: %v", text, text[:n], ends)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"items":`, 70) + `{}` + strings.Repeat(`}`, 70)
	many := `{"type":"object","properties":{` + strings.TrimSuffix(strings.Repeat(`"%d":{},`, 3000), ",") + `}}`
	numbers := make([]any, 3000)
	for i := range numbers {
		numbers[i] = i
	}
	for _, tt := range []struct {
		schema string
		kind   error
		text   string
	}{
		{``, grammar.ErrSchema, "JSON"},
		{`{`, grammar.ErrSchema, "JSON"},
		{`{} {}`, grammar.ErrSchema, "follows"},
		{`{"type":"string","type":"null"}`, grammar.ErrSchema, "twice"},
		{`1`, grammar.ErrSchema, "a number"},
		{`false`, grammar.ErrSchema, "a boolean"},
		{deep, grammar.ErrSchema, "deeper"},
		{`"` + strings.Repeat("x", grammar.MaxSchema) + `"`, grammar.ErrSchema, "bytes"},
		{`{"type":"text"}`, grammar.ErrSchema, "#/type"},
		{`{"type":[]}`, grammar.ErrSchema, "no type"},
		{`{"type":7}`, grammar.ErrSchema, "no type"},
		{`{"enum":[]}`, grammar.ErrSchema, "#/enum"},
		{`{"enum":"a"}`, grammar.ErrSchema, "#/enum"},
		{`{"type":"null","enum":[1]}`, grammar.ErrSchema, "type"},
		{`{"anyOf":[]}`, grammar.ErrSchema, "#/anyOf"},
		{`{"allOf":[{},{}]}`, grammar.ErrUnsupported, "#/allOf"},
		{`{"anyOf":[{}],"minLength":1}`, grammar.ErrUnsupported, "minLength beside anyOf"},
		{`{"$ref":"#/$defs/a","enum":[1]}`, grammar.ErrUnsupported, "enum beside $ref"},
		{`{"$ref":"http://example.org/x"}`, grammar.ErrUnsupported, "within the schema"},
		{`{"$ref":"#/$defs/a"}`, grammar.ErrSchema, "there is no"},
		{`{"$ref":"#"}`, grammar.ErrSchema, "nothing satisfies"},
		{`{"anyOf":[{"$ref":"#"},{"type":"null"}]}`, grammar.ErrSchema, "refers to itself"},
		{`{"properties":{"a":{"$ref":"#"}},"required":["a"]}`, grammar.ErrSchema, "nothing satisfies"},
		{`{"properties":[]}`, grammar.ErrSchema, "properties"},
		{`{"required":[1]}`, grammar.ErrSchema, "names"},
		{`{"required":["a"],"additionalProperties":false}`, grammar.ErrSchema, "additionalProperties"},
		{`{"properties":{"a":{"not":{}}}}`, grammar.ErrUnsupported, "#/properties/a: the keyword not"},
		{`{"uniqueItems":true}`, grammar.ErrUnsupported, "uniqueItems"},
		{`{"items":[{}]}`, grammar.ErrUnsupported, "prefixItems"},
		{`{"minItems":2,"maxItems":1}`, grammar.ErrSchema, "minItems"},
		{`{"minItems":-1}`, grammar.ErrSchema, "#/minItems"},
		{`{"minItems":1.5}`, grammar.ErrSchema, "#/minItems"},
		{`{"maxItems":1e9}`, grammar.ErrUnsupported, "#/maxItems"},
		{`{"maxItems":1e999999999}`, grammar.ErrSchema, "#/maxItems"},
		{`{"prefixItems":[{}],"minItems":2,"items":false}`, grammar.ErrSchema, "nothing satisfies"},
		{`{"pattern":"("}`, grammar.ErrUnsupported, "regular expression"},
		{`{"pattern":"[^]a]"}`, grammar.ErrUnsupported, "begins with ]"},
		{`{"pattern":"a[]"}`, grammar.ErrUnsupported, "begins with ]"},
		{`{"pattern":"(?=a)"}`, grammar.ErrUnsupported, "regular expression"},
		{`{"pattern":"a\\b"}`, grammar.ErrUnsupported, "word boundaries"},
		{`{"pattern":"^[a-z]*$","minLength":8000,"maxLength":8000,"items":{"maxItems":8000}}`, grammar.ErrSchema, "large"},
		{`{"pattern":"` + strings.Repeat("[a-z]{1,1000}", 100) + `"}`, grammar.ErrSchema, "large"},
		{`{"pattern":"` + strings.Repeat("()", 30000) + `"}`, grammar.ErrSchema, "large"},
		{`{"enum":["` + strings.Repeat("a", 100000) + `","` + strings.Repeat("a", 100001) + `"]}`, grammar.ErrSchema, "large"},
		{`{"properties":{"` + strings.Repeat("a", 100000) + `":{}},"additionalProperties":{}}`, grammar.ErrSchema, "large"},
		{`{"anyOf":[` + strings.Repeat(`{},`, 20000) + `{}],"type":["string"` + strings.Repeat(`,"string"`, 10000) + `]}`, grammar.ErrSchema, "twice"},
		{`{"pattern":"(([a-z]{1,900}){1,900}){1,900}"}`, grammar.ErrUnsupported, "regular expression"},
		{`{"type":"string","pattern":7}`, grammar.ErrSchema, "#/pattern"},
		{`{"minimum":2,"maximum":1}`, grammar.ErrSchema, "minimum"},
		{`{"exclusiveMinimum":1,"exclusiveMaximum":2,"type":"integer"}`, grammar.ErrSchema, "nothing satisfies"},
		{`{"minimum":0.5}`, grammar.ErrUnsupported, "#/minimum"},
		{`{"minimum":1e15}`, grammar.ErrUnsupported, "#/minimum"},
		{`{"minimum":1e400}`, grammar.ErrSchema, "#/minimum"},
		{`{"minimum":1e-999999999}`, grammar.ErrSchema, "#/minimum"},
		{`{"multipleOf":2}`, grammar.ErrUnsupported, "multipleOf"},
		{`{"items":{"items":{"maxItems":8000},"maxItems":8000},"minItems":8000}`, grammar.ErrSchema, "large"},
		{fmt.Sprintf(many, numbers...), grammar.ErrSchema, "optional"},
	} {
		start := time.Now()
		_, err := grammar.Schema(tt.schema)
		if !errors.Is(err, tt.kind) || !strings.Contains(fmt.Sprint(err), tt.text) {
			t.Errorf("%.100s: %v", tt.schema, err)
		}
		if took := time.Since(start); took > 10*time.Second { // one processor, at its worst: a tenth of that
			t.Errorf("%.100s took %v", tt.schema, took)
		}
	}
}

// TestMany follows answers that could be read in very many ways, as soon as in one.
func TestMany(t *testing.T) {
	t.Parallel()
	chain := map[string]any{"a40": map[string]any{"type": "null"}, "b40": map[string]any{"type": "null"}}
	for i := range 40 {
		for _, c := range "ab" {
			chain[fmt.Sprintf("%c%d", c, i)] = map[string]any{"anyOf": []any{
				map[string]any{"$ref": fmt.Sprintf("#/$defs/a%d", i+1)}, map[string]any{"$ref": fmt.Sprintf("#/$defs/b%d", i+1)},
			}}
		}
	}
	chained, err := json.Marshal(map[string]any{"$ref": "#/$defs/a0", "$defs": chain})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ schema, answer string }{
		{string(chained), `null`},
		{`{"anyOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}},{"type":"null"}]}`, strings.Repeat("[", 60) + strings.Repeat("]", 60)},
		{`{"pattern":"^(a|b|ab|a(b|)|.*)*$"}`, `"` + strings.Repeat("ab", 500) + `"`},
		{`{"pattern":"^(.*[aeiou].{1,300}[xyz])*$"}`, `"` + strings.Repeat("aex", 200) + `"`},
	} {
		if n, ends := reads(schema(t, tt.schema), tt.answer); n < len(tt.answer) || !ends {
			t.Errorf("%.100s: read up to %q, complete: %v", tt.schema, tt.answer[:n], ends)
		}
	}
}

// TestDeep: what a matcher keeps does not grow without end, and what it allows stays the same.
func TestDeep(t *testing.T) {
	t.Parallel()
	m := grammar.Object().Matcher(letters)
	for i, c := range []byte(`{"a":` + strings.Repeat(`[[{"b":`, 6000)) {
		if i%500 == 0 && may(m, 257)[c] != 0 {
			t.Fatalf("%q may not follow at byte %d", c, i)
		}
		if !m.Accept(int32(c)) {
			t.Fatalf("%q is not taken at byte %d", c, i)
		}
	}
	if may(m, 257)['1'] != 0 || may(m, 257)['}'] == 0 {
		t.Error("a value does not follow")
	}
}

// TestVocabularies uses one grammar with several vocabularies.
func TestVocabularies(t *testing.T) {
	t.Parallel()
	for _, g := range []*grammar.Grammar{grammar.Object(), schema(t, `{"items":{"type":"integer"}}`)} {
		for _, texts := range [][]string{{"{", "[", "}", "]", "1", "[1", ",1]", "["}, {"x", "[", "{"}, {"["}} {
			v := grammar.NewVocabulary(len(texts), func(id int32) string { return texts[id] }, nil)
			m := g.Matcher(v)
			for id, l := range may(m, len(texts)+3) {
				if want := id < len(texts) && after(t, g, &words{v, texts}, nil).Accept(int32(id)); want != (l == 0) {
					t.Errorf("%q: token %d may follow: %v", texts, id, l == 0)
				}
			}
		}
	}
}

// TestIn: what a vocabulary cannot write to its end is refused, and nothing leads to where it would be wanted.
func TestIn(t *testing.T) {
	t.Parallel()
	lacks := func(without string, ends []int32, more ...string) *words {
		w := &words{texts: more}
		for c := range 256 {
			if !strings.Contains(without, string([]byte{byte(c)})) {
				w.texts = append(w.texts, string([]byte{byte(c)}))
			}
		}
		w.Vocabulary = grammar.NewVocabulary(len(w.texts), func(id int32) string { return w.texts[id] }, ends)
		return w
	}
	object := grammar.Object()
	for _, tt := range []struct {
		g    *grammar.Grammar
		v    *words
		want string // of the error
	}{
		{object, lacks("", nil), "ends an answer"},
		{object, lacks("", []int32{0}), ""},
		{object, lacks("{", []int32{0}), `"{"`},
		{object, lacks("{", []int32{0}, "end", "{\""), `"{"`}, // which does not write {} nor {x
		{object, lacks("\xc0x", []int32{0}), ""},
		{schema(t, `{"enum":["axe","é"]}`), lacks("x", []int32{0}), ""},
		{schema(t, `{"enum":["axe","bxe"]}`), lacks("xz", []int32{0}), `"x"`},
		{schema(t, `{"enum":["é"]}`), lacks("\xa9", []int32{0}), `"\xa9"`},
		{schema(t, `{"enum":["é"]}`), lacks("\xa9\xc3", []int32{0}, "end", "é"), ""},
		{schema(t, `{"properties":{"x":{}},"required":["x"]}`), lacks("x", []int32{0}), `"x"`},
		{schema(t, `{"properties":{"x":{}}}`), lacks("x", []int32{0}), ""},
	} {
		g, err := tt.g.In(tt.v.Vocabulary)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (!errors.Is(err, grammar.ErrVocabulary) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("got %v, want %q", err, tt.want)
		case err == nil && may(g.Matcher(tt.v.Vocabulary), 300)[0] == 0:
			t.Error("an answer of nothing")
		}
	}

	_, fresh, _ := smollm2(t) // has no token for the first byte of some characters that nobody uses
	v := fresh()
	if _, err := schema(t, "{\"const\":\"\U00050000\"}").In(v); !errors.Is(err, grammar.ErrVocabulary) {
		t.Errorf("what SmolLM2 cannot write: %v", err)
	}
	for _, g := range []*grammar.Grammar{object, schema(t, `{"type":"string","pattern":"^[^a]{1,9}$"}`)} {
		if in, err := g.In(v); in != g {
			t.Errorf("not all that SmolLM2 can write: %v", err)
		}
	}

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	full, refused := vocabulary(r), 0
	for range 150 {
		text, err := json.Marshal(randomSchema(r, 3))
		if err != nil {
			t.Fatal(err)
		}
		w := &words{texts: slices.Clone(full.texts)}
		for range 1 + r.IntN(4) {
			w.texts[`abxe1{[]":,.-0}`[r.IntN(15)]] = ""
		}
		w.Vocabulary = grammar.NewVocabulary(len(w.texts)+1, func(id int32) string { return append(w.texts, "")[id] }, []int32{int32(len(w.texts))})
		g, err := schema(t, string(text)).In(w.Vocabulary)
		if err != nil {
			refused++
			continue
		}
		for range 4 {
			generate(t, r, g, w) // fails where nothing may follow
		}
	}
	if refused < 5 || refused > 130 {
		t.Errorf("seed %d: %d of 150 are refused", seed, refused)
	}
}

// TestGenerated writes random answers and checks them by a reader of schemas of its own.
func TestGenerated(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	words, complete := vocabulary(r), 0
	for range 150 {
		s := randomSchema(r, 3)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		g := schema(t, string(text))
		for range 4 {
			answer, ended := generate(t, r, g, words)
			if !ended {
				continue
			}
			complete++
			var v any
			if err := json.Unmarshal([]byte(answer), &v); err != nil {
				t.Fatalf("seed %d: %s gives %q, which is not JSON: %v", seed, text, answer, err)
			}
			if why := s.check(v); why != "" {
				t.Fatalf("seed %d: %s gives %q: %s", seed, text, answer, why)
			}
		}
	}
	if complete < 300 {
		t.Errorf("%d of 600 answers came to an end", complete)
	}
}

// generate follows random tokens, which end where they may half of the time. It gives up an answer that gets long.
func generate(t *testing.T, r *rand.Rand, g *grammar.Grammar, words *words) (answer string, ended bool) {
	t.Helper()
	m := g.Matcher(words.Vocabulary)
	end := int32(len(words.texts))
	for range 200 {
		logits := may(m, len(words.texts)+1)
		if logits[end] == 0 && r.IntN(2) == 0 {
			return answer, true
		}
		var ids []int32
		for id, l := range logits {
			if l == 0 && int32(id) != end {
				ids = append(ids, int32(id))
			}
		}
		if len(ids) == 0 {
			if logits[end] != 0 {
				t.Fatalf("nothing may follow %q", answer)
			}
			return answer, true
		}
		id := ids[r.IntN(len(ids))]
		if closing := slices.IndexFunc(ids, func(id int32) bool { return strings.Contains(`"]}`, words.texts[id]) }); closing >= 0 && r.IntN(3) == 0 {
			id = ids[closing]
		}
		answer += words.texts[id]
		if !m.Accept(id) {
			t.Fatalf("%q may be the end of %q and is not taken", words.texts[id], answer)
		}
	}
	return answer, false
}

type words struct {
	*grammar.Vocabulary
	texts []string
}

// vocabulary has all bytes and random pieces of what answers look like; the last token ends.
func vocabulary(r *rand.Rand) *words {
	pieces := []string{`"`, `",`, `": `, `{"`, `"}`, `]`, `[`, `{`, `}`, ` `, "\n", "\n  ", `,`, `:`, `a`, `b`, `name`, `\`, `\u`, `d8`, `true`, `null`, `1`, `0`, `-`, `.`, `e`, `é`, "\xf0\x9f", "\x99\x82", `水`}
	w := &words{}
	for c := range 256 {
		w.texts = append(w.texts, string([]byte{byte(c)}))
	}
	for range 1000 {
		text := ""
		for range 2 + r.IntN(3) {
			text += pieces[r.IntN(len(pieces))]
		}
		w.texts = append(w.texts, text)
	}
	n := len(w.texts)
	w.Vocabulary = grammar.NewVocabulary(n+1, func(id int32) string {
		if int(id) == n {
			return ""
		}
		return w.texts[id]
	}, []int32{int32(n)})
	return w
}

// TestRestrict compares what may follow with what is taken when it does, token by token.
func TestRestrict(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	words := vocabulary(r)
	for range 20 {
		text, err := json.Marshal(randomSchema(r, 3))
		if err != nil {
			t.Fatal(err)
		}
		g := schema(t, string(text))
		var said []int32
		for range 25 {
			m := after(t, g, words, said)
			logits := may(m, len(words.texts)+1)
			var ids []int32
			for id := range words.texts {
				taken := after(t, g, words, said).Accept(int32(id))
				if taken != (logits[id] == 0) {
					t.Fatalf("seed %d: %s: behind %v token %q is taken: %v, may follow: %v", seed, text, said, words.texts[id], taken, !taken)
				}
				if taken {
					ids = append(ids, int32(id))
				}
			}
			if len(ids) == 0 {
				break
			}
			said = append(said, ids[r.IntN(len(ids))])
		}
	}
}

// TestExpect: what is expected may follow, and no byte but its own.
func TestExpect(t *testing.T) {
	t.Parallel()
	g := schema(t, `{"properties":{"name":{"enum":["abc","abd"]},"b":{}},"required":["name","b"]}`)
	for _, tt := range []struct{ said, want string }{
		{``, `{`}, {`{`, ``}, {`{"`, `name":`}, {`{"n`, `ame":`}, {`{"name":`, ``}, {`{"name":"`, `ab`}, {`{"name":"ab`, ``}, {`{"name":"abd`, `",`}, {`{"name":"abd","b":1`, ``}, {`{"name":"abd","b":1}`, ``},
	} {
		m := g.Matcher(letters)
		for _, c := range []byte(tt.said) {
			m.Accept(int32(c))
		}
		for _, n := range []int{99, 2, 0} {
			var got string
			for _, id := range m.Expect(n) {
				got += string(rune(id))
			}
			if want := tt.want[:min(n, len(tt.want))]; got != want {
				t.Errorf("behind %q %q is expected, want %q", tt.said, got, want)
			}
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	words, expected := vocabulary(r), 0
	for range 200 {
		text, err := json.Marshal(randomSchema(r, 3))
		if err != nil {
			t.Fatal(err)
		}
		g := schema(t, string(text))
		var said []int32
		for range 20 {
			m, twin := after(t, g, words, said), after(t, g, words, said)
			plain := g.Matcher(letters)
			for _, id := range said {
				for _, c := range []byte(words.texts[id]) {
					plain.Accept(int32(c))
				}
			}
			for _, id := range m.Expect(3) {
				if expected++; may(twin, len(words.texts)+1)[id] != 0 || !twin.Accept(id) {
					t.Fatalf("seed %d: %s: behind %v %q is expected and may not follow", seed, text, said, words.texts[id])
				}
				for _, c := range []byte(words.texts[id]) {
					for other, l := range may(plain, 257) {
						if l == 0 && other != int(c) {
							t.Fatalf("seed %d: %s: behind %v %q is expected, but %q may follow", seed, text, said, words.texts[id], rune(other))
						}
					}
					plain.Accept(int32(c))
				}
			}
			var ids []int32
			for id, l := range may(m, len(words.texts)) {
				if l == 0 {
					ids = append(ids, int32(id))
				}
			}
			if len(ids) == 0 {
				break
			}
			said = append(said, ids[r.IntN(len(ids))])
		}
	}
	if expected < 200 {
		t.Errorf("seed %d: only %d tokens were expected", seed, expected)
	}
}

func after(t *testing.T, g *grammar.Grammar, words *words, said []int32) *grammar.Matcher {
	m := g.Matcher(words.Vocabulary)
	for _, id := range said {
		if !m.Accept(id) {
			t.Fatal("not taken the second time")
		}
	}
	return m
}

// rule is a schema with what reads it.
type rule map[string]any

func randomSchema(r *rand.Rand, depth int) rule {
	kinds := []string{"string", "integer", "number", "boolean", "null", "enum", "pattern"}
	if depth > 0 {
		kinds = append(kinds, "object", "object", "array", "anyOf")
	}
	s := rule{}
	switch kind := kinds[r.IntN(len(kinds))]; kind {
	case "enum":
		s["enum"] = []any{"a", "ab", 1.0, nil, true, "é\"\\", []any{1.0, "x"}}[:1+r.IntN(7)]
	case "pattern":
		s["type"], s["pattern"] = "string", []string{`^[a-f]+$`, `b`, `^(x|yz){1,3}$`, `^[^\x00-\x1f"]*\\?$`, `\d{2,3}$`}[r.IntN(5)]
	case "anyOf":
		s["anyOf"] = []any{randomSchema(r, depth-1), randomSchema(r, depth-1)}
	case "object":
		s["type"] = "object"
		properties, required := map[string]any{}, []any{}
		for range r.IntN(4) {
			name := []string{"a", "ab", "b", "name", "é", "a\"b", ""}[r.IntN(7)]
			properties[name] = randomSchema(r, depth-1)
			if r.IntN(2) == 0 && !slices.Contains(required, any(name)) {
				required = append(required, name)
			}
		}
		s["properties"], s["required"] = properties, required
		if r.IntN(2) == 0 {
			s["additionalProperties"] = randomSchema(r, depth-1)
		}
	case "array":
		s["type"], s["items"] = "array", randomSchema(r, depth-1)
		if s["minItems"] = r.IntN(3); r.IntN(2) == 0 {
			s["maxItems"] = s["minItems"].(int) + r.IntN(3)
		}
		if r.IntN(3) == 0 {
			s["prefixItems"] = []any{randomSchema(r, depth-1)}
		}
	default:
		s["type"] = kind
		switch {
		case kind == "string" && r.IntN(2) == 0:
			s["minLength"] = r.IntN(3)
			s["maxLength"] = s["minLength"].(int) + r.IntN(5)
		case kind == "integer" || kind == "number":
			if r.IntN(2) == 0 {
				s[[]string{"minimum", "exclusiveMinimum"}[r.IntN(2)]] = r.IntN(300) - 150
			}
			if r.IntN(2) == 0 {
				s[[]string{"maximum", "exclusiveMaximum"}[r.IntN(2)]] = 152 + r.IntN(5000)
			}
		}
	}
	return s
}

// check says why a value is not what the schema describes.
func (s rule) check(v any) string {
	if list, ok := s["anyOf"].([]any); ok {
		if !slices.ContainsFunc(list, func(s any) bool { return s.(rule).check(v) == "" }) {
			return "none of anyOf"
		}
		return ""
	}
	if list, ok := s["enum"].([]any); ok {
		if !slices.ContainsFunc(list, func(w any) bool { return fmt.Sprintf("%#v", w) == fmt.Sprintf("%#v", v) }) {
			return "not in enum"
		}
		return ""
	}
	number := func(name string, otherwise float64) float64 {
		if n, ok := s[name].(int); ok {
			return float64(n)
		}
		return otherwise
	}
	within := func(x, lo, hi float64, what string) string {
		if x < lo || x > hi {
			return fmt.Sprintf("%s is %g, not from %g to %g", what, x, lo, hi)
		}
		return ""
	}
	inf := math.Inf(1)
	switch v := v.(type) {
	case nil:
		return is(s, "null")
	case bool:
		return is(s, "boolean")
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			return "does not match"
		}
		return is(s, "string") + within(float64(utf8.RuneCountInString(v)), number("minLength", 0), number("maxLength", inf), "length")
	case float64:
		if s["type"] == "integer" && !new(big.Float).SetFloat64(v).IsInt() {
			return "not whole"
		}
		if v <= number("exclusiveMinimum", -inf) || v >= number("exclusiveMaximum", inf) {
			return "not within"
		}
		if s["type"] != "integer" && s["type"] != "number" {
			return "a number"
		}
		return within(v, number("minimum", -inf), number("maximum", inf), "value")
	case []any:
		if s["type"] != "array" {
			return "an array"
		}
		for i, e := range v {
			item := s["items"]
			if p, ok := s["prefixItems"].([]any); ok && i < len(p) {
				item = p[i]
			}
			if why := item.(rule).check(e); why != "" {
				return why
			}
		}
		return within(float64(len(v)), number("minItems", 0), number("maxItems", inf), "count")
	}
	if s["type"] != "object" {
		return "an object"
	}
	return s.members(v.(map[string]any))
}

func (s rule) members(v map[string]any) string {
	properties, _ := s["properties"].(map[string]any)
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Sprintf("%q is missing", name)
		}
	}
	for name, e := range v {
		p, ok := properties[name]
		if !ok {
			if p, ok = s["additionalProperties"]; !ok {
				return fmt.Sprintf("%q is too much", name)
			}
		}
		if why := p.(rule).check(e); why != "" {
			return why
		}
	}
	return ""
}

func is(s rule, kind string) string {
	if s["type"] != kind {
		return "a " + kind
	}
	return ""
}
