package worker_test

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

func TestAnswer(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	f.hire("w", newFake())
	f.submit(order("a", "why is the sky blue?", 50))
	final := f.final("a")
	f.empty()
	got := f.read("a")
	if len(got.tokens[0]) != 50 || got.text[0] != f.tok.Decode(got.tokens[0]) || final.Finish != contracts.FinishLength || final.Code != "" {
		t.Errorf("got %q of %d tokens, final %+v", got.text, len(got.tokens[0]), final)
	}
	if c := final.Claim; c.Worker != "w" || c.Attempt != 1 || c.Model != "m" || c.Class != contracts.P2 || c.Digest != "d-a" || c.Submitted == 0 {
		t.Errorf("claim in the final record: %+v", c)
	}
	if u := final.Usage; u.PromptTokens != 20 {
		t.Errorf("usage %+v", u)
	}
	if m := final.Timings; m.FirstToken <= 0 || m.Prefill <= 0 || m.Decode <= 0 || m.FirstToken < m.Queued {
		t.Errorf("timings %+v", m)
	}
}
