//go:build cgo && (linux || darwin)

package onnx_test

import (
	"runtime"
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// begin opens a sequence of a scope and feeds it what of the prompt it does not get from others. It returns
// the last token's logits and how many tokens were fed.
func begin(t testing.TB, e *onnx.Engine, scope string, prompt []int32) (s engine.Seq, logits []float32, fed int) {
	t.Helper()
	s, err := e.Open(len(prompt) + 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(s) })
	for at := 0; at < len(prompt); {
		if at = max(at, e.Share(s, scope, prompt)); at >= len(prompt) {
			t.Fatalf("%d of %d tokens are shared: none is left to sample behind", at, len(prompt))
		}
		row := &engine.Row{Seq: s, Tokens: prompt[at:min(at+50, len(prompt))], Sample: true}
		if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
			t.Fatal(err, row.Err)
		}
		at, fed, logits = at+len(row.Tokens), fed+len(row.Tokens), row.Logits
	}
	return s, slices.Clone(logits), fed
}

// TestShare compares sequences that took a part of their prompt over from others with one that computed it
// all, and looks that none takes over from another tenant's.
func TestShare(t *testing.T) {
	e := open(t, nil)
	if e.Info().MinPrefill > 1 {
		t.Log("on this processor generated tokens differ from those of a prompt: nothing is shared")
		return
	}
	common := someTokens(e, 200)
	prompts := make([][]int32, 3)
	for i, n := range []int{200, 137, 16} { // in the middle of a panel, and at its edge
		prompts[i] = append(slices.Clone(common[:n]), int32(i+1), 2, 3)
	}
	var want [][]float32
	for _, p := range prompts {
		_, logits, fed := begin(t, e, "", p)
		if fed != len(p) {
			t.Errorf("without a scope %d of %d tokens were computed", fed, len(p))
		}
		want = append(want, logits)
	}
	source, _, _ := begin(t, e, "ann", common)
	step(t, e, &engine.Row{Seq: source, Tokens: []int32{1}}) // a generated token counts as well
	for i, p := range prompts {
		s, logits, fed := begin(t, e, "ann", p)
		shared := []int{201, 137, 16}[i]
		if fed != len(p)-shared {
			t.Errorf("%d of %d tokens were computed, want all but %d", fed, len(p), shared)
		}
		if !slices.Equal(logits, want[i]) {
			t.Errorf("logits behind %d shared tokens differ", shared)
		}
		if _, other, fed := begin(t, e, "bob", p); i == 0 && (fed != len(p) || !slices.Equal(other, want[i])) {
			t.Errorf("another tenant computed %d of %d tokens", fed, len(p))
		}
		e.Close(s)
	}
	if _, logits, _ := begin(t, e, "ann", common); !slices.Equal(logits, func() []float32 { _, l, _ := begin(t, e, "", common); return l }()) {
		t.Error("the source was changed by those that took over from it")
	}
}

// What closed sequences held is taken over as long as Keep allows it, then the system has the memory again.
func TestKeep(t *testing.T) {
	e := open(t, nil)
	prompt := append(someTokens(e, 100), 3)
	s, want, _ := begin(t, e, "ann", prompt)
	e.Close(s)
	if e.Info().MinPrefill > 1 {
		t.Log("on this processor generated tokens differ from those of a prompt: nothing is shared")
		return
	}
	again, _, fed := begin(t, e, "ann", prompt)
	e.Close(again)
	if fed != len(prompt) {
		t.Errorf("%d of %d tokens were computed although nothing may be kept", fed, len(prompt))
	}
	e.Keep(1 << 30)
	s, _, _ = begin(t, e, "", prompt) // takes a slot, so that the next has another one
	next, _, _ := begin(t, e, "eve", prompt)
	e.Close(next)
	kept := e.Memory().Kept
	if want := e.Info().KVBytes(len(prompt)); kept != want {
		t.Errorf("%d bytes are kept, want %d", kept, want)
	}
	again, got, fed := begin(t, e, "eve", prompt)
	if fed != 1 || !slices.Equal(got, want) {
		t.Errorf("%d tokens were computed behind what was kept, equal logits: %v; want 1 and equal ones", fed, slices.Equal(got, want))
	}
	e.Close(again)
	e.Close(s)
	before := anonymous(t)
	e.Keep(0)
	if m := e.Memory(); m.Kept != 0 {
		t.Errorf("after Keep(0) the account is %+v", m)
	}
	if given := before - anonymous(t); runtime.GOOS == "linux" && given < kept*9/10 {
		t.Errorf("Keep(0) gave %d of %d bytes back to the system", given, kept)
	}
}

// BenchmarkShare is the time to the first token of a prompt of 60 tokens behind 512 that another sequence
// holds, with and without sharing.
func BenchmarkShare(b *testing.B) {
	e := open(b, nil)
	prompt := someTokens(e, 572)
	begin(b, e, "ann", prompt[:512])
	for name, scope := range map[string]string{"alone": "", "shared": "ann"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s, _, _ := begin(b, e, scope, prompt)
				e.Close(s)
			}
		})
	}
}
