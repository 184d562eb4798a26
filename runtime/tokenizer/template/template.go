// Package template compiles and renders the Jinja chat templates that come with models, in a sandbox.
//
// Previous step of the walk: runtime/tokenizer, which hides look-alikes of special tokens in the
// messages. Next step: it again, which cuts the rendered text at special tokens.
//
// Templates are as untrusted as the weights they come with. They reach no file and no other template;
// steps, time, depth, sizes of values and of the output are bounded; statements, filters, tests,
// methods and functions are a list of allowed ones. What the bounds cannot cover while a template runs
// is refused when it is compiled. The package knows nothing of tokens and keeps no state between
// renderings; a [Template] is immutable and safe for concurrent use.
package template

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// MaxSource is the most bytes of a template that are read.
const MaxSource = 64 << 10

// Bounds on one rendering and on one template.
const (
	maxRenderTime   = 5 * time.Second
	maxRenderSteps  = 1 << 20 // loop passes and macro calls
	maxRenderOutput = 8 << 20 // bytes, beyond eight times the size of the messages
	maxKept         = 8       // times that, of all texts that macros, sets and filters write
	maxMacroDepth   = 32
	maxNesting      = 64   // brackets inside each other
	maxBlockTokens  = 512  // between {{ and }} or {% and %}
	maxRepeated     = 4096 // bytes of a text that is multiplied
	maxMethodCalls  = 12   // in one such block: gonja evaluates what a method is called on twice
)

// Errors of Render.
var (
	// ErrRaised is returned, wrapped, when the template refuses the messages by raise_exception. The
	// text is what it says; the sender can change the messages.
	ErrRaised = errors.New("the model's template refuses the messages")
	// ErrFailed is returned, wrapped, when the template breaks or exceeds a bound. Only another
	// template helps.
	ErrFailed = errors.New("chat template failed")
)

// Template is a compiled template.
type Template struct {
	template *exec.Template
	config   *config.Config
	names    map[string]string
}

// Message is one turn as templates see it: message.role and so on.
type Message struct {
	Role    string
	Content string
	Name    string // empty: message.name is not defined
}

// Compile parses source. names are variables that the template sees besides messages,
// add_generation_prompt, tools and documents (the last two are none): bos_token and eos_token, where
// the model has them. A template that uses one of these two without having it is an error.
func Compile(source string, names map[string]string) (*Template, error) {
	if len(source) > MaxSource {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(source), MaxSource)
	}
	for _, name := range []string{"bos_token", "eos_token"} {
		if _, ok := names[name]; !ok && strings.Contains(source, name) {
			return nil, fmt.Errorf("it uses %s, which neither tokenizer_config.json nor the post_processor of tokenizer.json tells", name)
		}
	}
	cfg := config.New()
	cfg.TrimBlocks, cfg.LeftStripBlocks = true, true // as transformers sets jinja2 up
	if err := checkSource(source, cfg); err != nil {
		return nil, err
	}
	t, err := compile(respell(source, cfg), cfg)
	if err != nil {
		return nil, err
	}
	return &Template{template: t, config: cfg, names: names}, nil
}

// compile parses source in the sandbox's environment; the parser's panics become errors.
func compile(source string, cfg *config.Config) (t *exec.Template, err error) {
	defer func() {
		if r := recover(); r != nil {
			t, err = nil, fmt.Errorf("the parser broke on it: %.200v", r)
		}
	}()
	const path = "/chat_template.jinja"
	loader, err := loaders.NewMemoryLoader(map[string]string{path: source})
	if err != nil {
		return nil, err
	}
	t, err = exec.NewTemplate(path, cfg, loader, sandbox)
	if err != nil {
		return nil, shorten(err)
	}
	return t, nil
}

// shorten cuts the library's errors, which quote the whole template, to their last words.
func shorten(err error) error {
	s := err.Error()
	if len(s) > 300 {
		s = "…" + strings.ToValidUTF8(s[len(s)-300:], "")
	}
	return errors.New(s)
}

// checkSource refuses, before the parser sees it, what the sandbox could not bound while it runs.
func checkSource(source string, cfg *config.Config) error {
	nesting, block, calls := 0, 0, 0
	own := false // the last name is behind a text that the template writes
	var before tokens.Type
	last := &tokens.Token{}
	stream := tokens.LexAll(source, cfg)
	for ; ; stream.Next() {
		tok := stream.Current()
		if tok == nil || tok.Type == tokens.EOF || tok.Type == tokens.Error {
			return nil // the parser reports errors better
		}
		block++
		switch tok.Type {
		case tokens.VariableBegin, tokens.BlockBegin:
			nesting, block, calls = 0, 0, 0
		case tokens.LeftParenthesis:
			nesting++
			if before == tokens.Dot && last.Type == tokens.Name {
				calls++
				if last.Val == "format" && !own {
					return fmt.Errorf("line %d: format() is only for texts that the template itself writes", tok.Line)
				}
			}
		case tokens.LeftBracket, tokens.LeftBrace:
			nesting++
		case tokens.RightParenthesis, tokens.RightBracket, tokens.RightBrace:
			nesting--
		case tokens.Power:
			return fmt.Errorf("line %d: powers are not allowed in templates", tok.Line)
		case tokens.Name:
			own = before == tokens.String
		case tokens.Modulo:
			if last.Type == tokens.String {
				return fmt.Errorf("line %d: %% puts nothing into texts in templates: use ~ or format()", tok.Line)
			}
		case tokens.Multiply:
			stream.Next()
			n, times := stream.Current(), 0
			if n != nil && n.Type == tokens.Integer {
				times, _ = strconv.Atoi(n.Val)
			}
			if last.Type != tokens.String || times < 1 || len(last.Val)*times > maxRepeated {
				return fmt.Errorf("line %d: only a short text is multiplied in templates, and by a number, such as '-' * 80", tok.Line)
			}
			block, tok = block+1, n
		}
		if nesting > maxNesting || block > maxBlockTokens || calls > maxMethodCalls {
			return fmt.Errorf("line %d: expression too large (at most %d brackets deep, %d tokens, %d method calls)",
				tok.Line, maxNesting, maxBlockTokens, maxMethodCalls)
		}
		before, last = last.Type, tok
	}
}

// Render runs the template over messages. addGenerationPrompt asks for the start of the assistant's
// answer. hide (nil for none) is given what replace and join make, and of what parts, and returns what to go
// on with. The errors are ErrRaised and ErrFailed.
func (t *Template) Render(messages []Message, addGenerationPrompt bool, hide func(made string, parts []string) string) (text string, err error) {
	turns, size := turnsOf(messages)
	b := &budget{limit: maxRenderOutput + 8*size, end: time.Now().Add(maxRenderTime), hide: hide}
	data := exec.EmptyContext()
	for name, v := range t.names {
		data.Set(name, v)
	}
	data.Set("messages", turns)
	data.Set("add_generation_prompt", addGenerationPrompt)
	data.Set(budgetName, b)
	defer func() {
		if r := recover(); r != nil { // the library panics on bad arithmetic, for example
			text, err = "", fmt.Errorf("%w: %.200v", ErrFailed, r)
		}
	}()
	out := &output{limit: b.limit}
	env := *sandbox
	env.Context = sandbox.Context.Inherit().Update(data)
	env.Methods.Str = exec.NewMethodSet(textMethods(b))
	err = exec.NewRenderer(&env, out, t.config, nil, t.template).Execute()
	switch {
	case b.raised != "":
		return "", fmt.Errorf("%w: %.300s", ErrRaised, b.raised)
	case b.err != nil:
		return "", fmt.Errorf("%w: %w", ErrFailed, b.err)
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrFailed, shorten(err))
	}
	return out.String(), nil
}

// turnsOf returns the messages as template values, and the bytes of their contents.
func turnsOf(messages []Message) (turns list, size int) {
	turns = make(list, len(messages))
	for i := range messages {
		m := map[string]any{"role": messages[i].Role, "content": messages[i].Content}
		if messages[i].Name != "" {
			m["name"] = messages[i].Name
		}
		turns[i] = m
		size += len(messages[i].Content)
	}
	return turns, size
}

// output collects the rendered text up to a limit.
type output struct {
	strings.Builder
	limit int
}

func (o *output) Write(p []byte) (int, error) { return o.WriteString(string(p)) }

func (o *output) WriteString(s string) (int, error) {
	if o.Len()+len(s) > o.limit {
		return 0, fmt.Errorf("more than %d bytes of output", o.limit)
	}
	return o.Builder.WriteString(s)
}

// budget is what one rendering may use. It lies in the template's context under a name that no
// template can spell.
type budget struct {
	limit  int // bytes of any one text
	end    time.Time
	steps  int
	depth  int    // of macro calls
	kept   int    // bytes that macros, sets and filters wrote
	raised string // what raise_exception was called with
	err    error  // the bound that was exceeded first
	hide   func(made string, parts []string) string
}

// made is what replace or join made of parts.
func (b *budget) made(text string, parts ...string) string {
	if b.hide == nil {
		return text
	}
	return b.hide(text, parts)
}

const budgetName = "budget of this rendering"

func budgetOf(ctx *exec.Context) *budget {
	v, _ := ctx.Get(budgetName)
	b, ok := v.(*budget)
	if !ok {
		return &budget{err: errors.New("no budget")}
	}
	return b
}

func (b *budget) fail(format string, args ...any) error {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
	return b.err
}

// step counts one loop pass or call and reports an exceeded bound.
func (b *budget) step() error {
	if b.err != nil {
		return b.err
	}
	if b.raised != "" {
		return errors.New(b.raised)
	}
	if b.steps++; b.steps > maxRenderSteps {
		return b.fail("more than %d steps", maxRenderSteps)
	}
	if b.steps%64 == 0 && time.Now().After(b.end) {
		return b.fail("took longer than %v", maxRenderTime)
	}
	return nil
}

// size refuses a text that is too long.
func (b *budget) size(n int) error {
	if n > b.limit {
		return b.fail("a text of more than %d bytes", b.limit)
	}
	return nil
}
