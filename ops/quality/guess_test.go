//go:build cgo && (linux || darwin)

package quality_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/quality"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/grammar"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/sampler"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker/batch"
)

var every = flag.Int("every", 4, "nth prompts that BenchmarkGuesses takes")

// guessTokens is how long the answers of BenchmarkGuesses are.
const guessTokens = 128

// answer collects what a sequence generates.
type answer struct {
	tokens []int32
	done   chan error
}

func (*answer) Prefilled(int, time.Time)     {}
func (a *answer) Token(_ int, t batch.Token) { a.tokens = append(a.tokens, t.ID) }
func (a *answer) Ended(_ int, e batch.End)   { a.done <- e.Err }
func (a *answer) start(l *batch.Loop, p []int32, temperature float32, h held) {
	params := sampler.Params{Temperature: temperature, Seed: 1}
	if h.form != nil {
		params.Constraint = h.form.Matcher(h.vocabulary)
	}
	l.Add(batch.NewSequence(batch.Spec{Prompt: p, MaxTokens: guessTokens, EOS: h.ends, Sampler: sampler.New(params, p), Sink: a}))
}

// held is the form of answers, if they have one.
type held struct {
	form       *grammar.Grammar
	vocabulary *grammar.Vocabulary
	ends       []int32
}

// order is a form as many want it: six properties with long names.
const order = `{"type":"object","properties":{"customer_full_name":{"type":"string","maxLength":40},"customer_email_address":{"type":"string","format":"email"},
	"shipping_address_street":{"type":"string","maxLength":60},"number_of_items_ordered":{"type":"integer","minimum":1,"maximum":99},
	"preferred_payment_method":{"enum":["credit_card","bank_transfer","paypal"]},"is_returning_customer":{"type":"boolean"}},
	"required":["customer_full_name","customer_email_address","shipping_address_street","number_of_items_ordered","preferred_payment_method","is_returning_customer"]}`

// BenchmarkGuesses has SmolLM2 answer the evaluation prompts, streams of them at a time, with guesses and
// without by turns, and prints how much sooner the same tokens come.
func BenchmarkGuesses(b *testing.B) {
	dir, _, err := hub.Ensure(b.Context(), model.Store{Root: model.DefaultRoot()}, hub.Default, "", nil)
	if err != nil {
		b.Fatal(err)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		b.Fatal(err)
	}
	all, err := quality.Prompts()
	if err != nil {
		b.Fatal(err)
	}
	prompts, err := quality.Tokenize(tok, all)
	if err != nil {
		b.Fatal(err)
	}
	library, err := hub.Library(b.Context(), "", nil)
	if err != nil {
		b.Fatal(err)
	}
	e, err := onnx.OpenModel(onnx.Config{ModelDir: dir, Library: library})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = e.Shutdown() }()
	end, ok := tok.Special("<|im_end|>")
	form, err := grammar.Schema(order)
	if err != nil || !ok {
		b.Fatal(err, ok)
	}
	toForm := held{form, grammar.NewVocabulary(e.Info().Vocab, tok.Text, []int32{end}), []int32{end}}
	fmt.Fprintf(os.Stderr, "\n| streams | temperature | form | tokens/s without | with | | guessed rightly | guessed |\n")
	for _, c := range []struct {
		streams     int
		temperature float32
		held        held
	}{{1, 0, held{}}, {2, 0, held{}}, {4, 0, held{}}, {8, 0, held{}}, {1, 0.8, held{}}, {4, 0.8, held{}}, {1, 0, toForm}, {2, 0, toForm}, {1, 0.8, toForm}} {
		var took [2]time.Duration
		var drafted, accepted, tokens int
		for at := 0; at+c.streams*(*every) <= len(prompts); at += c.streams * (*every) {
			var said [2][][]int32
			for turn := range 2 {
				with := (turn + at/(c.streams*(*every))) % 2
				var driven engine.Engine = struct{ engine.Engine }{e} // hides that it takes guesses
				if with == 1 {
					driven = e
				}
				start := time.Now()
				said[with] = answers(b, driven, c.temperature, c.held, prompts[at:at+c.streams], func(s batch.Step) { drafted, accepted = drafted+s.Drafted, accepted+s.Accepted })
				took[with] += time.Since(start)
			}
			for i := range c.streams {
				if !slices.Equal(said[0][i], said[1][i]) {
					b.Errorf("prompt %s is answered otherwise with guesses", prompts[at+i].ID)
				}
				tokens += len(said[0][i])
			}
		}
		speed := func(d time.Duration) float64 { return float64(tokens) / d.Seconds() }
		fmt.Fprintf(os.Stderr, "| %d | %.1f | %v | %.0f | %.0f | %.2fx | %d | %d |\n", c.streams, c.temperature, c.held.form != nil, speed(took[0]), speed(took[1]), took[0].Seconds()/took[1].Seconds(), accepted, drafted)
	}
}

// answers runs prompts side by side.
func answers(b *testing.B, e engine.Engine, temperature float32, h held, prompts []quality.Transcript, stepped func(batch.Step)) (said [][]int32) {
	b.Helper()
	l, err := batch.New(batch.Config{Engine: e, Stepped: stepped, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	var all []*answer
	for _, p := range prompts {
		a := &answer{done: make(chan error, 1)}
		a.start(l, p.Prompt, temperature, h)
		all = append(all, a)
	}
	go func() { done <- l.Run(ctx) }()
	for _, a := range all {
		if err := <-a.done; err != nil {
			b.Fatal(err)
		}
		said = append(said, a.tokens)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return said
}
