package worker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/emit"
	"github.com/pelton-run/pelton/worker/resume"
)

// How generations end, one line a case: what is asked, and what the stream must hold.
func TestEndings(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	f.hire("w", newFake())
	f.submit(order("whole", "tell me more", 60))
	f.final("whole")
	whole := f.read("whole")
	text := whole.text[0]

	tests := []struct {
		name   string
		change func(*contracts.Params)
		text   string
		tokens int
		finish string
	}{
		{"length", func(p *contracts.Params) { p.MaxTokens = ptr(7) }, text[:7], 7, "length"},
		{"stop string", func(p *contracts.Params) { p.Stop = []string{text[20:25]} }, text[:20], 25, "stop"},
		{"stop string at the very end", func(p *contracts.Params) { p.Stop = []string{text[57:60]} }, text[:57], 60, "stop"},
		{"stop string that never completes is emitted", func(p *contracts.Params) { p.Stop = []string{text[57:60] + "x"} }, text, 60, "length"},
		{"the first of two stop strings", func(p *contracts.Params) { p.Stop = []string{text[30:34], text[10:16]} }, text[:10], 16, "stop"},
	}
	for _, tt := range tests {
		id := strings.ReplaceAll(tt.name, " ", ".")
		f.submit(order(id, "tell me more", 60, params(tt.change)))
		f.final(id)
		got := f.read(id)
		if got.text[0] != tt.text || len(got.tokens[0]) != tt.tokens || got.finish[0] != tt.finish || got.final.Code != "" {
			t.Errorf("%s: got %q of %d tokens, finish %s %s; want %q of %d, %s", tt.name, got.text[0], len(got.tokens[0]), got.finish[0], got.final.Code, tt.text, tt.tokens, tt.finish)
		}
	}
	f.empty()
}

func TestEndToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.ends = 6
	f.hire("w", e)
	f.submit(order("ends", "go on", 400))
	f.submit(order("goes.on", "go on", 40, params(func(p *contracts.Params) { p.IgnoreEOS = true })))
	f.final("ends")
	f.final("goes.on")
	a, b := f.read("ends"), f.read("goes.on")
	if a.finish[0] != "stop" || len(a.tokens[0]) >= 400 || contains(a.tokens[0], eos) {
		t.Errorf("ends: %d tokens, finish %s: %v", len(a.tokens[0]), a.finish[0], a.tokens)
	}
	if b.finish[0] != "length" || len(b.tokens[0]) != 40 || !contains(b.tokens[0], eos) || b.text[0] != f.tok.Decode(b.tokens[0]) {
		t.Errorf("ignore_eos: %d tokens, finish %s, %q", len(b.tokens[0]), b.finish[0], b.text[0])
	}
}

func contains(tokens []int32, id int32) bool {
	for _, t := range tokens {
		if t == id {
			return true
		}
	}
	return false
}

func TestChoices(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	f.hire("w", newFake())
	change := params(func(p *contracts.Params) {
		p.N, p.Temperature, p.Logprobs = ptr(3), ptr(1.5), ptr(2)
	})
	f.submit(order("one", "three of them", 30, change))
	f.submit(order("two", "three of them", 30, change))
	f.final("one")
	f.final("two")
	a, b := f.read("one"), f.read("two")
	f.same(a, b, "the same seed twice")
	if len(a.tokens) != 3 || a.text[0] == a.text[1] || a.text[1] == a.text[2] {
		t.Errorf("choices: %q", a.text)
	}
	for i := range a.tokens {
		if len(a.tokens[i]) != 30 || a.finish[i] != "length" {
			t.Errorf("choice %d: %d tokens, finish %q", i, len(a.tokens[i]), a.finish[i])
		}
	}
	finishes := 0
	for _, c := range f.records("one") {
		if len(c.Tokens) != len(c.Logprobs) {
			t.Errorf("%d logprobs for %d tokens", len(c.Logprobs), len(c.Tokens))
		}
		for i, l := range c.Logprobs {
			if l.Token != c.Tokens[i] || len(l.Top) != 2 || string(l.Bytes) != string(f.tok.TokenBytes(l.Token)) || l.Logprob > 0 {
				t.Errorf("logprob %+v of token %d", l, c.Tokens[i])
			}
		}
		if c.Finish != "" {
			finishes++
		}
	}
	if finishes != 3 {
		t.Errorf("%d records carry a finish, want 3", finishes)
	}
}

// What cannot run ends in one coded final record and leaves the queue; nothing else is disturbed.
func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	w := f.hire("w", newFake(), func(c *worker.Config) { c.MaxFailures = 2 })
	tests := []struct {
		name string
		make func(a *contracts.Admitted)
		code contracts.Code
	}{
		{"no prompt", func(a *contracts.Admitted) { a.Tokens = nil }, contracts.CodeInvalidArgument},
		{"token outside the vocabulary", func(a *contracts.Admitted) { a.Tokens[1] = 259 }, contracts.CodeInvalidArgument},
		{"negative token", func(a *contracts.Admitted) { a.Tokens[1] = -1 }, contracts.CodeInvalidArgument},
		{"temperature", func(a *contracts.Admitted) { a.Job.Params.Temperature = ptr(-1.0) }, contracts.CodeInvalidArgument},
		{"max tokens", func(a *contracts.Admitted) { a.Job.Params.MaxTokens = ptr(0) }, contracts.CodeInvalidArgument},
		{"bias", func(a *contracts.Admitted) { a.Job.Params.LogitBias = map[string]float64{"259": 1} }, contracts.CodeInvalidArgument},
		{"another's name", func(a *contracts.Admitted) { a.Job.Tenant = "mallory" }, contracts.CodeInvalidArgument},
		{"deadline", func(a *contracts.Admitted) { a.Job.Deadline = 1 }, contracts.CodeDeadlineExceeded},
	}
	for _, tt := range tests {
		a := order(strings.ReplaceAll(tt.name, " ", "."), "prompt", 5)
		tt.make(a)
		f.submit(a)
	}
	garbage := subject.Job{Model: "m", Class: contracts.P0, Size: contracts.SizeS, Tenant: tenant, Job: "garbage"}
	f.enqueue(garbage, []byte("\xc1\xffno msgpack"))
	for _, tt := range tests {
		id := strings.ReplaceAll(tt.name, " ", ".")
		if got := f.final(id); got.Code != tt.code || got.Finish != contracts.FinishError || got.Message == "" {
			t.Errorf("%s: got %q %q %q, want %q", tt.name, got.Code, got.Finish, got.Message, tt.code)
		}
		f.read(id)
	}
	for i := range 20 { // the memory is free when the final record appears
		a := order(fmt.Sprint("refused", i), "prompt", 5)
		a.Tokens = nil
		f.submit(a)
		f.final(a.Job.ID)
		for _, j := range w.Snapshot().Jobs {
			if j.Job == a.Job.ID && j.KV > 0 {
				t.Errorf("a refused job holds %d bytes behind its final record", j.KV)
			}
		}
	}
	if got := f.final("garbage"); got.Code != contracts.CodeInvalidArgument || got.Claim.Class != contracts.P0 {
		t.Errorf("garbage: %+v", got)
	}
	f.submit(order("good", "prompt", 5))
	if got := f.final("good"); got.Code != "" {
		t.Errorf("the next job: %+v", got)
	}
	f.empty()
}

// What the model cannot write, or not end, is refused by the first worker that has it.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	form := func(kind, schema string) func(*contracts.Admitted) {
		return params(func(p *contracts.Params) {
			p.ResponseFormat = &contracts.ResponseFormat{Type: kind}
			if schema != "" {
				p.ResponseFormat.Schema = &contracts.Schema{Schema: schema}
			}
		})
	}
	f := newFleet(t, 15*time.Second)
	w := f.hire("w", newFake(), func(c *worker.Config) { c.Tokenizer = lipogram{c.Tokenizer} })
	f.submit(order("enum", "prompt", 40, form(contracts.FormatSchema, `{"enum":["these"]}`)))
	f.submit(order("choice", "prompt", 40, form(contracts.FormatSchema, `{"enum":["these","tho"]}`)))
	refused := func(id, why string) {
		t.Helper()
		if got := f.final(id); got.Code != contracts.CodeInvalidArgument || got.Claim.Attempt != 1 || !strings.Contains(got.Message, why) {
			t.Errorf("%s: got %q %q in attempt %d", id, got.Code, got.Message, got.Claim.Attempt)
		}
	}
	refused("enum", `"e"`)
	if f.final("choice"); f.read("choice").text[0] != `"tho"` {
		t.Errorf("got %q", f.read("choice").text)
	}
	w.stop()
	<-w.done
	f.hire("endless", newFake(), func(c *worker.Config) { c.EOS = nil })
	f.submit(order("endless", "prompt", 40, form(contracts.FormatObject, "")))
	refused("endless", "ends an answer")
	f.empty()
}

// lipogram has no token with an e.
type lipogram struct{ emit.Vocabulary }

func (l lipogram) Text(id int32) string {
	return strings.ReplaceAll(l.Vocabulary.Text(id), "e", "")
}

// A top_p too small for a float32 leaves the likeliest token, as other small ones do.
func TestTinyTopP(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	f.hire("w", newFake())
	for id, p := range map[string]contracts.Params{
		"greedy": {Temperature: ptr(0.0)}, "tiny": {Temperature: ptr(2.0), TopP: ptr(1e-300), Seed: ptr(int64(3))},
	} {
		f.submit(order(id, "prompt", 40, params(func(to *contracts.Params) { to.Temperature, to.TopP, to.Seed = p.Temperature, p.TopP, p.Seed })))
		f.final(id)
	}
	f.same(f.read("tiny"), f.read("greedy"), "with a tiny top_p")
}

// A job that is too large for the workers that take it is no failure of theirs: it waits for a larger one.
func TestSmallWorkers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.budget = 2000 // 200 tokens
	back := make(chan error, 99)
	small := f.hire("small", e, func(c *worker.Config) {
		c.MaxFailures = 2
		c.Trace = &worker.Trace{HandedBack: func(_ worker.Job, why contracts.Release, cause error) {
			if why != contracts.ReleaseUnfit {
				t.Errorf("handed back as %s", why)
			}
			back <- cause
		}}
	})
	f.submit(order("big", "prompt", 300))
	for range 3 {
		if err := receive(t, back); contracts.CodeOf(err) != contracts.CodeResourceExhausted {
			t.Errorf("handed back for %v", err)
		}
	}
	small.stop()
	<-small.done
	f.hire("large", newFake(), func(c *worker.Config) { c.MaxFailures = 2 })
	if got := f.final("big"); got.Code != "" || got.Claim.Failures != 0 {
		t.Errorf("the large worker: %+v by %+v", got, got.Claim)
	}
	f.empty()
}

// Where contexts differ, a worker with a short one hands back what is too long for it: the prompt, or the answer behind it.
func TestShortContext(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.info.ContextLength = 64
	back := make(chan error, 99)
	short := f.hire("short", e, func(c *worker.Config) {
		c.Trace = &worker.Trace{HandedBack: func(_ worker.Job, _ contracts.Release, cause error) { back <- cause }}
	})
	f.submit(order("prompt", strings.Repeat("x", 64), 5))
	f.submit(order("answer", "prompt", 59))
	f.submit(order("fits", "prompt", 58))
	f.final("fits")
	for range 2 {
		if err := receive(t, back); contracts.CodeOf(err) != contracts.CodeResourceExhausted {
			t.Errorf("handed back for %v", err)
		}
	}
	short.stop()
	<-short.done
	f.hire("long", newFake())
	for _, id := range []string{"prompt", "answer"} {
		if got := f.final(id); got.Code != "" || got.Claim.Failures != 0 {
			t.Errorf("%s: %+v by %+v", id, got, got.Claim)
		}
	}
	f.empty()
}

// While a fleet is upgraded, a job that a worker cannot read, or that a newer one began, waits for a newer one; if
// that began it and wrote its last record too, it is only taken off the queue.
func TestLaterVersions(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	back := make(chan error, 99)
	f.hire("old", newFake(), func(c *worker.Config) {
		c.MaxFailures = 2
		c.Trace = &worker.Trace{HandedBack: func(_ worker.Job, _ contracts.Release, cause error) { back <- cause }}
	})
	write := func(id string, c contracts.Chunk) {
		t.Helper()
		c.V, c.Job, c.Fence = contracts.Version+1, id, 7
		data, err := contracts.Encode(&c)
		if err == nil {
			_, err = f.js.Publish(t.Context(), subject.Out(tenant, id), data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("begun", contracts.Chunk{Claim: &contracts.Claim{Worker: "new", Attempt: 1}})
	write("begun", contracts.Chunk{Tokens: []int32{1}, Text: "a"})
	write("begun", contracts.Chunk{Index: 1, Claim: &contracts.Claim{Worker: "new", Attempt: 1, Released: contracts.ReleaseDrain}})
	write("over", contracts.Chunk{Claim: &contracts.Claim{Worker: "new", Attempt: 1}, Usage: &contracts.Usage{}})
	f.submit(order("over", "prompt", 5))
	f.submit(order("begun", "prompt", 5))
	f.submit(order("version", "prompt", 5, func(a *contracts.Admitted) { a.V = contracts.Version + 1 }))
	f.submit(order("kind", "prompt", 5, func(a *contracts.Admitted) { a.Job.Kind = "later" }))
	for range 6 {
		if err := receive(t, back); contracts.CodeOf(err) != contracts.CodeUnimplemented {
			t.Errorf("handed back for %v", err)
		}
	}
	for _, id := range []string{"begun", "version", "kind"} {
		last, err := resume.Last(t.Context(), f.nc, tenant, id)
		var c contracts.Chunk
		if err == nil {
			err = contracts.Decode(last.Data, &c)
		}
		if err != nil || c.Final() || c.Claim == nil || id == "begun" && c.Fence < 8 || c.Claim.Submitted == 0 || c.Claim.Digest != "d-"+id {
			t.Errorf("%s: last record %+v, %v; want one that gives the job back", id, c, err)
		}
	}
	last, err := resume.Last(t.Context(), f.nc, tenant, "over")
	if c := new(contracts.Chunk); err != nil || contracts.CodeOf(contracts.Decode(last.Data, c)) != contracts.CodeUnimplemented || !c.Final() {
		t.Errorf("over: last record %+v, %v; want the one that was there", c, err)
	}
}

// A job that is damaged ends, and was not queued since 1970.
func TestDamaged(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	over := make(chan *contracts.Chunk, 1)
	f.hire("w", newFake(), func(c *worker.Config) {
		c.Trace = &worker.Trace{Finished: func(_ worker.Job, final *contracts.Chunk) { over <- final }}
	})
	name := subject.Job{Model: "m", Class: contracts.P2, Size: contracts.SizeS, Tenant: tenant, Job: "damaged"}.String()
	if _, err := f.js.Publish(t.Context(), name, []byte("junk")); err != nil {
		t.Fatal(err)
	}
	final := receive(t, over)
	if final.Code != contracts.CodeInvalidArgument || final.Timings.Queued > float64(time.Hour.Milliseconds()) || final.Claim.Submitted == 0 {
		t.Errorf("ended with %+v, %+v, %+v", final, final.Timings, final.Claim)
	}
}

// A job is handed back by workers that cannot hold it, however many they were, and ends with one that can: that one may
// be busy for long.
func TestNeverFits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	unfit := func(id string, times int, then ...contracts.Release) {
		for i, released := range append(slices.Repeat([]contracts.Release{"", contracts.ReleaseUnfit}, times), then...) {
			c := contracts.Chunk{V: 1, Job: id, Fence: uint64(i/2 + 1), Claim: &contracts.Claim{Released: released}}
			if released != "" {
				c.Code, c.Message = contracts.CodeResourceExhausted, "too large"
			}
			data, err := contracts.Encode(&c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.js.Publish(t.Context(), subject.Out(tenant, id), data); err != nil {
				t.Fatal(err)
			}
		}
	}
	unfit("big", 100)
	unfit("many", 30)
	unfit("ran", 100, "", contracts.ReleaseDrain)
	e := newFake()
	e.budget = 2000 // 200 tokens
	back := make(chan string, 99)
	small := f.hire("small", e, func(c *worker.Config) {
		c.Trace = &worker.Trace{HandedBack: func(j worker.Job, _ contracts.Release, _ error) { back <- j.ID }}
	})
	for _, id := range []string{"big", "many", "ran"} {
		f.submit(order(id, "prompt", 300))
		if got := receive(t, back); got != id {
			t.Errorf("%s is handed back, want %s", got, id)
		}
	}
	small.stop()
	<-small.done
	f.hire("large", newFake())
	for _, id := range []string{"many", "ran"} { // the other one comes again in two minutes
		if got := f.final(id); got.Code != "" || got.Claim.Worker != "large" {
			t.Errorf("%s: %+v by %+v", id, got, got.Claim)
		}
	}
}

func TestDeadlineWhileRunning(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	wasted := make(chan time.Duration, 1)
	w := f.hire("w", e, func(c *worker.Config) {
		c.Trace = &worker.Trace{Spent: func(_ worker.Job, device time.Duration, why string) {
			if why == string(contracts.CodeDeadlineExceeded) {
				wasted <- device
			}
		}}
	})
	a := order("late", "prompt", 400)
	deadline := time.Now().Add(10 * time.Second) // a busy machine has begun by then
	a.Job.Deadline = deadline.UnixMilli()
	steps := 0
	e.hook(func([]*engine.Row) error {
		if time.Sleep(10 * time.Millisecond); steps == 20 {
			time.Sleep(time.Until(deadline))
		}
		steps++
		return nil
	})
	f.submit(a)
	got := f.final("late")
	answer := f.read("late")
	if n := len(answer.tokens[0]); got.Code != contracts.CodeDeadlineExceeded || n == 0 || n == 400 {
		t.Errorf("got %q after %d of 400 tokens", got.Code, n)
	}
	if device := receive(t, wasted); device < time.Duration(len(answer.tokens[0]))*10*time.Millisecond {
		t.Errorf("%v of the device are said to be wasted on %d tokens of at least 10 ms", device, len(answer.tokens[0]))
	}
	f.empty()
	if s := w.Snapshot().Stats; s.JobsDone != 1 || s.JobsFailed != 0 {
		t.Errorf("an expired job is no failure: %d done, %d failed", s.JobsDone, s.JobsFailed)
	}
}

// A cancel ends a job wherever it is; its memory is free when the final record appears.
func TestCancel(t *testing.T) {
	t.Parallel()
	stages := []struct {
		name   string
		prompt int
		after  int // steps before the cancel
		tokens bool
	}{
		{"in prefill", 300, 2, false},
		{"at the first token", 10, 1, false},
		{"in decode", 10, 20, true},
	}
	for _, tt := range stages {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 15*time.Second)
			e := newFake()
			heard := make(chan struct{})
			f.hire("w", e, func(c *worker.Config) {
				c.Trace = &worker.Trace{Told: func(worker.Job, contracts.Code) { close(heard) }}
			})
			var steps atomic.Int32
			e.hook(func([]*engine.Row) error {
				if steps.Add(1) == int32(tt.after) {
					f.cancel("c")
					<-heard
				}
				return nil
			})
			f.submit(order("c", strings.Repeat("x", tt.prompt), 180))
			got := f.final("c")
			if more := int(steps.Load()) - tt.after; more > 2 {
				t.Errorf("%d steps after the cancel, want 2 at most", more)
			}
			held := e.Memory().Reserved
			a := f.read("c")
			if got.Code != contracts.CodeCanceled || got.Finish != contracts.FinishCancelled || tt.tokens && (len(a.tokens) == 0 || len(a.tokens[0]) == 0) {
				t.Errorf("got %q %q after %v", got.Code, got.Finish, a.tokens)
			}
			if held != 0 {
				t.Errorf("the engine holds %d bytes when the final record is out", held)
			}
			f.empty()
		})
	}
}

// A job that the dispatcher canceled while it was queued has its final record already.
func TestCanceledInTheQueue(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	data, err := contracts.Encode(&contracts.Chunk{V: 1, Job: "q", Finish: contracts.FinishCancelled, Code: contracts.CodeCanceled, Usage: &contracts.Usage{}, Claim: &contracts.Claim{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.js.Publish(t.Context(), subject.Out(tenant, "q"), data); err != nil {
		t.Fatal(err)
	}
	f.submit(order("q", "prompt", 5))
	f.hire("w", newFake())
	f.empty()
	if n := len(f.records("q")); n != 1 {
		t.Errorf("%d records, want only the dispatcher's", n)
	}
}

// echo is a graph that gives back what it gets.
type echo struct{}

func (echo) Info() engine.GraphInfo {
	port := []engine.Port{{Name: "x", Type: "FP32", Shape: []int64{1}}}
	return engine.GraphInfo{Model: "m", Variant: "fp32", Backend: "fake", Fingerprint: "f", Inputs: port, Outputs: port, Limit: 1}
}
func (echo) Run(_ context.Context, in []engine.Tensor) ([]engine.Tensor, error) { return in, nil }
func (echo) Shutdown() error                                                    { return nil }

// The memory of a job that is one call is free when its final record appears.
func TestCallsFreeMemoryFirst(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	w := f.hire("w", newFake(), func(c *worker.Config) {
		c.Engine, c.Tokenizer, c.EOS, c.Memory = nil, nil, nil, memory.NewBudget(1<<20)
		c.Calls = &worker.Calls{Graph: echo{}, Kind: contracts.KindTensor}
	})
	for i := range 30 {
		a := order(fmt.Sprint("call", i), "", 1)
		a.Job.Kind, a.Job.Params = contracts.KindTensor, contracts.Params{}
		a.Job.Tensors = []contracts.Tensor{{Name: "x", Type: "FP32", Shape: []int64{1}, Data: make([]byte, 4)}}
		f.submit(a)
		if got := f.final(a.Job.ID); got.Code != "" || len(got.Outputs) != 1 {
			t.Fatalf("%s: %s", got.Code, got.Message)
		}
		for _, j := range w.Snapshot().Jobs {
			if j.Job == a.Job.ID && j.KV > 0 {
				t.Errorf("a job holds %d bytes behind its final record", j.KV)
			}
		}
	}
}
