package batch_test

import (
	"slices"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker/batch"
)

// A context that ends in a prompt's last token, or behind it, ends the answer there, wherever it is resumed and with
// whatever the engine can do; a prompt as long as the context still has one token behind it.
func TestEndOfTheContext(t *testing.T) {
	t.Parallel()
	const whole = 64
	for name, fresh := range map[string]func() (engine.Engine, *fakeEngine){
		"pieces":  func() (engine.Engine, *fakeEngine) { e := newFake(); return e, e },
		"sharing": func() (engine.Engine, *fakeEngine) { e := newFake(); return sharing{e}, e },
		"guesses": func() (engine.Engine, *fakeEngine) { e := newDrafting(); return e, e.fakeEngine },
	} {
		for _, rest := range []int{0, 1, 2, 7} { // of the context behind the prompt
			for _, most := range []int{1, 2, 7, 50} {
				want := []int32(nil)
				for cut := 0; cut <= len(want); cut++ {
					e, f := fresh()
					f.info.ContextLength = whole
					if name == "sharing" {
						f.info.MinPrefill = 1
					}
					s := newSink()
					startLoop(t, e).Add(batch.NewSequence(batch.Spec{Prompt: prompt(3, whole-rest), Replay: want[:cut], MaxTokens: most, Scope: "t", Sampler: newGreedy(), Sink: s}))
					got, end := s.wait(t)
					if cut == 0 {
						want = got
					}
					if len(want) != max(1, min(rest, most)) || end.Finish != contracts.FinishLength || end.Err != nil || !slices.Equal(got, want[cut:]) {
						t.Errorf("%s, %d tokens behind the prompt, at most %d, resumed at %d of %v: %v, %+v", name, rest, most, cut, want, got, end)
					}
				}
			}
		}
	}
}
