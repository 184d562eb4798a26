package worker_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker"
)

// A job of several choices is resumed of which most have ended already: their prompts are not fed any more, so they must
// not count as prompts that wait, or the worker takes nothing else until the job's end.
func TestEndedChoicesDoNotCountAsPrompts(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	const n = 4
	a := order("j", strings.Repeat("a", 128), 200, params(func(p *contracts.Params) { p.N = ptr(n) }))
	// What an earlier holder wrote: all choices but the first have ended.
	put := func(c *contracts.Chunk) {
		c.V, c.Job, c.Fence = contracts.Version, "j", 1
		data, err := contracts.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.js.Publish(t.Context(), subject.Out(tenant, "j"), data); err != nil {
			t.Fatal(err)
		}
	}
	put(&contracts.Chunk{Claim: &contracts.Claim{Worker: "earlier", Attempt: 1, Model: "m", Class: contracts.P2}})
	for i := 1; i < n; i++ {
		put(&contracts.Chunk{Choice: i, Tokens: []int32{'x'}, Text: "x", Finish: contracts.FinishStop})
	}
	put(&contracts.Chunk{Claim: &contracts.Claim{Worker: "earlier", Attempt: 1, Model: "m", Class: contracts.P2, Released: contracts.ReleaseDrain}})

	e := newFake()
	e.info.MaxStepTokens = 128 // two steps' worth of prompts fill the room: 256 tokens
	var fast atomic.Bool
	e.hook(func([]*engine.Row) error {
		if !fast.Load() {
			time.Sleep(150 * time.Millisecond) // half a minute for what is left of choice 0
		}
		return nil
	})
	pulled := make(chan string, 4)
	f.hire("w", e, func(c *worker.Config) {
		c.Trace = &worker.Trace{Pulled: func(j worker.Job) { pulled <- j.ID }}
	})
	f.submit(a)
	if got := receive(t, pulled); got != "j" {
		t.Fatalf("pulled %s", got)
	}
	f.await("a token", func() bool { return f.pieces["j"] > n-1 }) // choice 0 is fed
	f.submit(order("other", "hi", 4))
	select {
	case <-pulled:
	case <-time.After(patience):
		t.Errorf("with one sequence of %d running and nothing to feed, the worker takes no job", e.info.MaxSequences)
	}
	fast.Store(true)
	f.final("j")
	f.final("other")
}

// A job's goroutine panics while its sequence is in the engine: its memory is the job's until the engine gave it back.
func TestPanicKeepsMemoryUntilTheEngineLetsGo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	inStep, goOn := make(chan struct{}), make(chan struct{})
	steps := 0
	e.hook(func([]*engine.Row) error {
		if steps++; steps == 6 { // in the middle of the stream
			close(inStep)
			<-goOn
		}
		return nil
	})
	handed := make(chan error, 4)
	c := f.hire("w", e, func(c *worker.Config) {
		c.Tokenizer = &bomb{Tokenizer: f.tok, fuse: inStep}
		c.Trace = &worker.Trace{HandedBack: func(_ worker.Job, _ contracts.Release, err error) { handed <- err }}
		c.MaxFailures = 1
	})
	f.submit(order("j", "boom", 100, params(func(p *contracts.Params) { p.Logprobs = ptr(0) })))
	receive(t, inStep)
	time.Sleep(200 * time.Millisecond) // the job's goroutine has panicked; the sequence is still in a step
	if h, m := c.Snapshot(), e.Memory(); h.KV.Reserved < m.Reserved {
		t.Errorf("the engine holds %d bytes, of which %d are reserved", m.Reserved, h.KV.Reserved)
	}
	close(goOn)
	t.Log(receive(t, handed))
	f.final("j")
}

// bomb is a vocabulary that panics once the fuse has burned down.
type bomb struct {
	*tokenizer.Tokenizer
	fuse chan struct{}
}

func (b *bomb) TokenBytes(id int32) []byte {
	<-b.fuse
	panic("boom")
}
