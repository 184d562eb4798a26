package chaos

import (
	"slices"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
)

func claim(fence uint64, failures, preempted int) *contracts.Chunk {
	return &contracts.Chunk{Fence: fence, Claim: &contracts.Claim{Worker: "w", Failures: failures, Preempted: preempted}}
}

func released(fence uint64, why contracts.Release) *contracts.Chunk {
	return &contracts.Chunk{Fence: fence, Claim: &contracts.Claim{Worker: "w", Released: why}}
}

func piece(fence uint64, index int, text string) *contracts.Chunk {
	c := &contracts.Chunk{Fence: fence, Index: index, Text: text}
	for _, b := range []byte(text) {
		c.Tokens = append(c.Tokens, int32(b))
		c.Logprobs = append(c.Logprobs, contracts.TokenLogprob{Token: int32(b), Logprob: -1})
	}
	return c
}

// end is a final record that is right after records.
func end(fence uint64, records ...*contracts.Chunk) *contracts.Chunk {
	var sum stream.Checksum
	n := 0
	for _, c := range records {
		sum.Add(c)
		n += len(c.Tokens)
	}
	return &contracts.Chunk{Fence: fence, Index: n, Finish: contracts.FinishLength, Claim: &contracts.Claim{}, Checksum: sum.Sum(),
		Usage: &contracts.Usage{PromptTokens: 2, CompletionTokens: n, TotalTokens: n + 2}}
}

// ended is records and the final record that suits them.
func ended(fence uint64, records ...*contracts.Chunk) []*contracts.Chunk {
	return append(records, end(fence, records...))
}

// history is that of one job "j" whose calm answer is "abcd".
func history(records ...*contracts.Chunk) *History {
	h := &History{
		Kinds: map[string]string{"j": "k"}, Out: map[string][]Record{}, Received: map[string][]*Received{"j": {{}}}, Dead: map[string]bool{},
		References: map[string]*Answer{"k": {}}, Reserved: map[string]int64{"w": 0}, MaxFailures: 3,
	}
	for _, c := range ended(1, claim(1, 0, 0), piece(1, 0, "abcd")) {
		_ = h.References["k"].Add(c)
	}
	for _, c := range records {
		h.Out["j"] = append(h.Out["j"], Record{Chunk: c})
		if !c.IsClaim() {
			h.Received["j"][0].Take(c)
		}
	}
	return h
}

func TestGoodHistories(t *testing.T) {
	t.Parallel()
	for name, records := range map[string][]*contracts.Chunk{
		"calm":                  ended(1, claim(1, 0, 0), piece(1, 0, "ab"), piece(1, 2, "cd")),
		"crash":                 ended(2, claim(1, 0, 0), piece(1, 0, "ab"), claim(2, 1, 0), piece(2, 2, "cd")),
		"handed over":           ended(3, claim(1, 0, 0), piece(1, 0, "a"), released(2, contracts.ReleaseLost), claim(3, 1, 0), piece(3, 1, "bcd")),
		"died before the claim": ended(2, released(1, contracts.ReleaseLost), claim(2, 1, 0), piece(2, 0, "abcd")),
		"drained":               ended(2, claim(1, 0, 0), piece(1, 0, "a"), released(1, contracts.ReleaseDrain), claim(2, 0, 0), piece(2, 1, "bcd")),
		"preempted":             ended(2, claim(1, 0, 0), released(1, contracts.ReleasePreempt), claim(2, 0, 1), piece(2, 0, "abcd")),
	} {
		if wrong := history(records...).Check(); wrong != nil {
			t.Errorf("%s: %q", name, wrong)
		}
	}
}

// givenUp is the history of a job after failures deaths.
func givenUp(failures int, dead bool) *History {
	var records []*contracts.Chunk
	for i := range failures {
		records = append(records, claim(uint64(i+1), i, 0))
	}
	records = append(records, piece(uint64(failures), 0, "ab"))
	final := end(uint64(failures), records...)
	final.Code, final.Finish = contracts.CodeInternal, contracts.FinishError
	final.Claim = &contracts.Claim{}
	h := history(append(append(records, released(uint64(failures), contracts.ReleaseFailed)), final)...)
	final.Fence++
	h.Dead["j"] = dead
	return h
}

// TestBadHistories: whatever is broken, the check says so.
func TestBadHistories(t *testing.T) {
	t.Parallel()
	calm := func() *History { return history(ended(1, claim(1, 0, 0), piece(1, 0, "ab"), piece(1, 2, "cd"))...) }
	change := func(f func(h *History)) *History {
		h := calm()
		f(h)
		return h
	}
	for _, tt := range []struct {
		name string
		h    *History
		want string
	}{
		{"lost job", change(func(h *History) { delete(h.Out, "j") }), "no final record"},
		{"two finals", history(append(ended(1, piece(1, 0, "abcd")), end(1, piece(1, 0, "abcd")))...), "after the final"},
		{"nobody asked", change(func(h *History) { h.Out["x"] = h.Out["j"] }), "never acknowledged"},
		{"a gap", history(ended(1, piece(1, 0, "a"), piece(1, 2, "cd"))...), "goes on at token 2 after 1"},
		{"a repeat", history(ended(1, piece(1, 0, "ab"), piece(1, 1, "bcd"))...), "goes on at token 1 after 2"},
		{"a zombie", history(ended(2, claim(1, 0, 0), claim(2, 1, 0), piece(1, 0, "ab"), piece(2, 2, "cd"))...), "fence 1 after 2"},
		{"a claim without a higher fence", history(ended(1, claim(1, 0, 0), claim(1, 1, 0), piece(1, 0, "abcd"))...), "claim with fence 1 after 1"},
		{"writing after the release", history(ended(1, claim(1, 0, 0), released(1, contracts.ReleaseDrain), piece(1, 0, "abcd"))...), "after it gave the job back"},
		{"released twice", history(ended(3, claim(1, 0, 0), released(1, contracts.ReleaseDrain), released(2, contracts.ReleaseLost), claim(3, 1, 0), piece(3, 0, "abcd"))...), "while nobody held it"},
		{"a drain counted as failure", history(ended(2, claim(1, 0, 0), released(1, contracts.ReleaseDrain), claim(2, 1, 0), piece(2, 0, "abcd"))...), "counts 1 failures"},
		{"a preemption not counted", history(ended(2, claim(1, 0, 0), released(1, contracts.ReleasePreempt), claim(2, 0, 0), piece(2, 0, "abcd"))...), "0 preemptions"},
		{"other tokens", history(ended(1, piece(1, 0, "abce"))...), "differs at token 3"},
		{"a short answer", history(ended(1, piece(1, 0, "abc"))...), "differs at token 3"},
		{"other text", change(func(h *History) { h.References["k"].Choices[0].Text = "abcx" }), "has the text"},
		{"other logprobs", change(func(h *History) { h.References["k"].Choices[0].Logprobs[2].Logprob = -2 }), "other logprobs"},
		{"another finish", change(func(h *History) { h.References["k"].Final.Finish = contracts.FinishStop }), "ended"},
		{"no checksum", change(func(h *History) { h.Out["j"][3].Checksum = "" }), "checksum"},
		{"wrong usage", change(func(h *History) { h.Out["j"][3].Usage.CompletionTokens = 3 }), "usage"},
		{"no reference", change(func(h *History) { h.Kinds["j"] = "other" }), "no reference"},
		{"reader lost a token", change(func(h *History) { h.Received["j"][0].Choices[0].Tokens = []int32{'a', 'b', 'c'} }), "reader 0"},
		{"reader saw a repeat", change(func(h *History) { h.Received["j"][0].Wrong = []string{"twice"} }), "reader 0: twice"},
		{"reader without an end", change(func(h *History) { h.Received["j"] = append(h.Received["j"], &Received{}) }), "reader 1: no final"},
		{"a job left", change(func(h *History) { h.Queue = 1 }), "1 jobs are left"},
		{"memory left", change(func(h *History) { h.Reserved["w"] = 5 }), "5 bytes reserved"},
		{"given up too early", givenUp(2, true), "after 2 failures"},
		{"given up without a dead letter", givenUp(3, false), "dead letter false"},
	} {
		if wrong := tt.h.Check(); !slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(s, tt.want) }) {
			t.Errorf("%s: got %q, want %q", tt.name, wrong, tt.want)
		}
	}
	if wrong := givenUp(3, true).Check(); wrong != nil {
		t.Errorf("given up after three failures: %q", wrong)
	}
}
