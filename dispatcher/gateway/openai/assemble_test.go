package openai_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// record is a chunk of one of a request's jobs.
type record struct {
	prompt int
	chunk  *contracts.Chunk
}

// streams draws the records of each prompt's job, as a worker writes them: claim, pieces, the finish of
// all choices but one, the final record with the finish (and maybe the last text) of that one.
func streams(t *rapid.T, prompts, n int) [][]record {
	text := rapid.SampledFrom([]string{"", "a", "é", "<b>&", "\n\n", "data: x", "\"\\", "\u2028", "你"})
	out := make([][]record, prompts)
	for p := range out {
		add := func(c *contracts.Chunk) { out[p] = append(out[p], record{p, c}) }
		add(&contracts.Chunk{Fence: 1, Claim: &contracts.Claim{Worker: "w"}})
		index := make([]int, n)
		for range rapid.IntRange(0, 12).Draw(t, "pieces") {
			c := rapid.IntRange(0, n-1).Draw(t, "choice")
			s := text.Draw(t, "text")
			add(&contracts.Chunk{Index: index[c], Choice: c, Tokens: []int32{7}, Text: s, Logprobs: []contracts.TokenLogprob{
				{Token: 7, Logprob: float32(math.Inf(-1)), Bytes: []byte(s), Top: []contracts.TokenLogprob{{Bytes: []byte("\xe2\x98"), Logprob: -1}}}}})
			index[c]++
		}
		last := rapid.IntRange(0, n-1).Draw(t, "last")
		total := 0
		for c := range n {
			total += index[c]
			if c != last {
				add(&contracts.Chunk{Index: index[c], Choice: c, Text: text.Draw(t, "rest"), Finish: contracts.FinishStop})
			}
		}
		add(&contracts.Chunk{Index: index[0], Choice: last, Text: text.Draw(t, "rest"), Finish: contracts.FinishLength,
			Usage: &contracts.Usage{PromptTokens: 3, CompletionTokens: total, TotalTokens: 3 + total, CachedTokens: 1}})
	}
	return out
}

// mixed merges the streams in a drawn order that keeps each stream's own.
func mixed(t *rapid.T, in [][]record) []record {
	var out []record
	for {
		var open []int
		for p := range in {
			if len(in[p]) > 0 {
				open = append(open, p)
			}
		}
		if len(open) == 0 {
			return out
		}
		p := rapid.SampledFrom(open).Draw(t, "next")
		out, in[p] = append(out, in[p][0]), in[p][1:]
	}
}

// TestStreamEqualsWhole: joined by choice, what a stream says is what the whole reply says: text,
// finish, logprobs, usage; each choice has its role before its text and one finish after it.
func TestStreamEqualsWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		chat := rapid.Bool().Draw(t, "chat")
		n := rapid.IntRange(1, 3).Draw(t, "n")
		req := &openai.Request{Kind: contracts.KindChat, Choices: n, Logprobs: rapid.Bool().Draw(t, "logprobs"), Stream: true, IncludeUsage: true}
		prompts := 1
		if !chat {
			req.Kind, prompts = contracts.KindText, rapid.IntRange(1, 3).Draw(t, "prompts")
			if !req.Logprobs && rapid.Bool().Draw(t, "echo") {
				req.Echo = []string{"one", "", "é"}[:prompts]
			}
		}
		for range prompts {
			req.Jobs = append(req.Jobs, &contracts.Job{Model: "m"})
		}
		s, w := openai.NewAssembler(req, openai.Meta{ID: "j"}), openai.NewAssembler(req, openai.Meta{ID: "j"})
		got := make([]joined, prompts*n)
		for _, r := range mixed(t, streams(t, prompts, n)) {
			events, err := s.Stream(r.prompt, r.chunk)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				join(t, got, e.JSON, chat)
			}
			if err := w.Collect(r.prompt, r.chunk); err != nil {
				t.Fatal(err)
			}
		}
		whole := w.Whole()
		for i, c := range whole.Choices {
			want := joined{finish: *c.Finish, finishes: 1}
			if chat {
				want.text, want.roles = c.Message.Content, 1
				if l, ok := c.Logprobs.(*openai.ChatLogprobs); ok {
					want.logprobs = len(l.Content)
				}
			} else {
				want.text = *c.Text
				if l, ok := c.Logprobs.(*openai.TextLogprobs); ok {
					want.logprobs = len(l.Tokens)
				}
			}
			if d := cmp.Diff(want, got[i], cmp.AllowUnexported(joined{})); d != "" {
				t.Fatalf("choice %d (whole, streamed): %s", i, d)
			}
		}
		var end struct{ Usage, Choices json.RawMessage }
		if err := json.Unmarshal(s.End(), &end); err != nil || string(end.Usage) != string(openai.Marshal(whole.Usage)) || string(end.Choices) != "[]" {
			t.Fatalf("the stream ends with %s (%v), want usage %+v", s.End(), err, whole.Usage)
		}
		if got := whole.Usage.PromptDetails.CachedTokens; got != len(req.Jobs) {
			t.Fatalf("%d cached tokens of %d jobs with one each", got, len(req.Jobs))
		}
	})
}

type joined struct {
	text, finish    string
	roles, finishes int
	logprobs        int
}

func join(t *rapid.T, got []joined, event []byte, chat bool) {
	var e struct {
		Choices []struct {
			Index int
			Text  *string
			Delta *struct {
				Role    string
				Content *string
			}
			Logprobs     *struct{ Content, Tokens []any }
			FinishReason *string `json:"finish_reason"`
		}
		Usage json.RawMessage
	}
	if err := json.Unmarshal(event, &e); err != nil || len(e.Choices) != 1 || string(e.Usage) != "null" || strings.ContainsAny(string(event), "\r\n") {
		t.Fatalf("event %q: %v", event, err)
	}
	c := e.Choices[0]
	j := &got[c.Index]
	if j.finishes > 0 {
		t.Fatalf("choice %d goes on after its finish: %s", c.Index, event)
	}
	if c.FinishReason != nil {
		j.finish = *c.FinishReason
		j.finishes++
	}
	if c.Logprobs != nil {
		j.logprobs += len(c.Logprobs.Content) + len(c.Logprobs.Tokens)
	}
	if !chat {
		j.text += *c.Text
		return
	}
	if c.Delta.Role != "" {
		j.roles++
	}
	if c.Delta.Content != nil {
		j.text += *c.Delta.Content
	}
	if j.roles != 1 {
		t.Fatalf("choice %d has %d roles: %s", c.Index, j.roles, event)
	}
}

func TestLogprobShapes(t *testing.T) {
	t.Parallel()
	lp := []contracts.TokenLogprob{
		{Logprob: -0.25, Bytes: []byte("né"), Top: []contracts.TokenLogprob{{Logprob: -0.25, Bytes: []byte("né")}, {Logprob: float32(math.Inf(-1)), Bytes: []byte("x")}}},
		{Logprob: float32(math.NaN()), Bytes: []byte("\xe2\x98")},
		{Logprob: -1, Bytes: []byte("\x83")},
		{Logprob: -2, Bytes: []byte("!")},
	}
	chunk := &contracts.Chunk{Tokens: []int32{1, 2, 3, 4}, Text: "né☃!", Logprobs: lp, Finish: "stop", Usage: &contracts.Usage{}}
	for kind, want := range map[contracts.Kind]string{
		contracts.KindChat: `{"content":[` +
			`{"token":"né","logprob":-0.25,"bytes":[110,195,169],"top_logprobs":[{"token":"né","logprob":-0.25,"bytes":[110,195,169]},{"token":"x","logprob":-9999,"bytes":[120]}]},` +
			`{"token":"\\xe2\\x98","logprob":-9999,"bytes":[226,152],"top_logprobs":[]},{"token":"\\x83","logprob":-1,"bytes":[131],"top_logprobs":[]},{"token":"!","logprob":-2,"bytes":[33],"top_logprobs":[]}],"refusal":null}`,
		contracts.KindText: `{"tokens":["né","bytes:\\xe2\\x98","bytes:\\x83","!"],"token_logprobs":[-0.25,-9999,-1,-2],` +
			`"top_logprobs":[{"né":-0.25,"x":-9999},{"bytes:\\xe2\\x98":-9999},{"bytes:\\x83":-1},{"!":-2}],"text_offset":[0,2,3,3]}`,
	} {
		req := &openai.Request{Kind: kind, Choices: 1, Logprobs: true, Jobs: []*contracts.Job{{Model: "m"}}}
		a := openai.NewAssembler(req, openai.Meta{})
		if err := a.Collect(0, chunk); err != nil {
			t.Fatal(err)
		}
		if got := string(openai.Marshal(a.Whole().Choices[0].Logprobs)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", kind, got, want)
		}
	}
	if got := openai.Finite(lp); got[1].Logprob != -9999 || got[0].Top[1].Logprob != -9999 || !math.IsInf(float64(lp[0].Top[1].Logprob), -1) {
		t.Errorf("Finite(%v) = %v, want a copy with -9999", lp, got)
	}
}

// An offset is the number of characters that the text has of the tokens before, also of bytes that are none.
func TestTextOffsets(t *testing.T) {
	t.Parallel()
	vocabulary, err := tokenizer.Parse(sim.TokenizerJSON(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "é", "\xe2", "\x98\x83", "\x80", "\xc0", "\xf0\x9f", "\xe0\x80", "你b", "\ufffd", ""}), 0, 8).Draw(t, "tokens")
		job := &contracts.Job{Kind: contracts.KindText}
		a := openai.NewAssembler(&openai.Request{Kind: contracts.KindText, Jobs: []*contracts.Job{job}, Choices: 1, Logprobs: true}, openai.Meta{})
		said := ""
		var want []int
		for _, p := range parts {
			// A character that is only begun counts.
			d, characters := vocabulary.NewDecoder(), 0
			for i := range len(said) {
				characters += utf8.RuneCountInString(d.Push(int32(said[i])))
			}
			want = append(want, characters+utf8.RuneCountInString(d.Flush()))
			said += p
			a.Collect(0, &contracts.Chunk{Tokens: []int32{1}, Logprobs: []contracts.TokenLogprob{{Token: 1, Bytes: []byte(p)}}})
		}
		var got struct {
			Choices []struct {
				Logprobs struct {
					Offsets []int `json:"text_offset"`
				}
			}
		}
		raw, err := json.Marshal(a.Whole())
		if err == nil {
			err = json.Unmarshal(raw, &got)
		}
		if err != nil || len(got.Choices) != 1 || !slices.Equal(got.Choices[0].Logprobs.Offsets, want) {
			t.Fatalf("offsets %+v of %q, %v, want %v", got, parts, err, want)
		}
	})
}

func TestChunksNobodyAskedFor(t *testing.T) {
	t.Parallel()
	req := &openai.Request{Kind: contracts.KindChat, Choices: 1, Jobs: []*contracts.Job{{Model: "m"}}}
	for _, r := range []record{{0, &contracts.Chunk{Choice: 1}}, {0, &contracts.Chunk{Choice: -1}}, {1, &contracts.Chunk{}}, {-1, &contracts.Chunk{}}, {0, &contracts.Chunk{Code: contracts.CodeInternal}}} {
		a := openai.NewAssembler(req, openai.Meta{})
		if _, err := a.Stream(r.prompt, r.chunk); contracts.CodeOf(err) != contracts.CodeInternal {
			t.Errorf("Stream(%d, %+v) = %v, want internal", r.prompt, r.chunk, err)
		}
		if err := a.Collect(r.prompt, r.chunk); contracts.CodeOf(err) != contracts.CodeInternal {
			t.Errorf("Collect(%d, %+v) = %v, want internal", r.prompt, r.chunk, err)
		}
	}
}

func BenchmarkStream(b *testing.B) {
	req := &openai.Request{Kind: contracts.KindChat, Choices: 1, Stream: true, Jobs: []*contracts.Job{{Model: "m"}}}
	a := openai.NewAssembler(req, openai.Meta{ID: "0199f0c0-0000-7000-8000-000000000000", Fingerprint: "fp_0123456789"})
	c := &contracts.Chunk{Tokens: []int32{1}, Text: " sky"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Stream(0, c); err != nil {
			b.Fatal(err)
		}
	}
}
