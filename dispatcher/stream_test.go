package dispatcher_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/dispatcher"
)

// TestStreamAnywhere: several readers on two dispatchers, joining at different times, see the same.
func TestStreamAnywhere(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	d2, _ := startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	halfway, release := make(chan struct{}), make(chan struct{})
	job := textJob("j", "abcde")
	job.Params.MaxTokens = ptr(50)
	if _, err := d.Submit(ctx, job); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	follow := func(name string, d *dispatcher.Dispatcher) {
		wg.Go(func() {
			if text, _ := read(t, name, d.Stream(ctx, tenant, "j", -1)); text != expected("abcde", 50) {
				t.Errorf("%s: %q", name, text)
			}
		})
	}
	follow("queued, first", d)
	follow("queued, second", d2)
	startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
		w.step = func(ctx context.Context, _ *contracts.Admitted, index int) error {
			if index == 25 {
				close(halfway)
				<-release
			}
			return nil
		}
	})
	<-halfway
	follow("running, first", d)
	follow("running, second", d2)
	for c, err := range d.Stream(ctx, tenant, "j", 3) { // leaves: nobody minds
		if err != nil || c.Index != 4 {
			t.Errorf("after 3 came %+v %v", c, err)
		}
		break
	}
	close(release)
	wg.Wait()
	follow("finished, second", d2)
	wg.Wait()
	yields := 0
	for _, err := range d.Stream(ctx, tenant, "nobody", -1) {
		wantCode(t, err, contracts.CodeNotFound, "nobody")
		yields++
	}
	if yields != 1 {
		t.Errorf("the stream of an unknown job yielded %d times", yields)
	}
}

// TestStreamEnds: a reader's context, and the dispatcher's end, end a stream with a code.
func TestStreamEnds(t *testing.T) {
	t.Parallel()
	d, stop := startDispatcher(t, testConfig(contractstest.Server(t)))
	ctx, leave := context.WithCancel(testContext(t))
	_, chunks, err := d.Start(ctx, textJob("j", "abc"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, leave)
	for c, err := range chunks {
		wantCode(t, err, contracts.CodeCanceled)
		if c != nil {
			t.Errorf("chunk %+v with the error", c)
		}
	}
	_, chunks, err = d.Start(testContext(t), textJob("k", "abc"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, stop)
	for _, err := range chunks {
		wantCode(t, err, contracts.CodeUnavailable, "stopping")
	}
}

// TestSlowReader: a reader that stops reading for a while misses nothing, and others do not wait for it.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	refilled := make(chan string, 100)
	d, b := start(t, func(c *dispatcher.Config) {
		c.Buffer = 4
		c.Trace = &dispatcher.Trace{Refilled: func(_, job string) { refilled <- job }}
	})
	ctx := testContext(t)
	job := textJob("j", "abcdefg")
	job.Params.MaxTokens = ptr(190)
	_, slow, err := d.Start(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	fastDone := make(chan string, 1)
	go func() {
		text, _ := read(t, "fast", d.Stream(ctx, tenant, "j", -1))
		fastDone <- text
	}()
	startWorker(t, b.Conn(), "w", nil)
	first := true
	text, _ := read(t, "slow", func(yield func(*contracts.Chunk, error) bool) {
		for c, err := range slow {
			if !yield(c, err) {
				return
			}
			if first {
				first = false
				if got := <-fastDone; got != expected("abcdefg", 190) {
					t.Errorf("fast reader: %q", got)
				}
			}
		}
	})
	if text != expected("abcdefg", 190) {
		t.Errorf("slow reader: %q", text)
	}
	if got := <-refilled; got != "j" {
		t.Errorf("refilled %q", got)
	}
}

// TestNoJobIsLost submits 200 jobs over two dispatchers and both doors, some twice, some canceled: every job ends in exactly one final record, and every
// stream is whole.
func TestNoJobIsLost(t *testing.T) {
	t.Parallel()
	const jobs = 200
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d, b := start(t, nil)
	d2, _ := startDispatcher(t, testConfig(b.Conn()))
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for i := range 2 {
		startWorker(t, b.Conn(), fmt.Sprintf("w%d", i), nil)
	}
	c := client.New(b.Conn(), tenant, client.WithTimeout(patience))
	places := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i := range jobs {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			oneJob(ctx, t, i, r, []*dispatcher.Dispatcher{d, d2}, c)
		})
	}
	wg.Wait()
	nc := b.Conn()
	waitFor(t, "the queue to be empty", func() bool { return leftInQueue(t, nc) == 0 })
	for _, d := range []*dispatcher.Dispatcher{d, d2} {
		list, err := d.List(ctx, contracts.Filter{Limit: jobs})
		if err != nil || len(list) != jobs {
			t.Errorf("%d jobs are listed, %v, want %d", len(list), err, jobs)
		}
		for _, s := range list {
			if s.State != contracts.StateCompleted && s.State != contracts.StateCanceled {
				t.Errorf("job %s is %s", s.Job, s.State)
			}
		}
	}
}

func oneJob(ctx context.Context, t *testing.T, i int, r *rand.Rand, ds []*dispatcher.Dispatcher, c *client.Client) {
	job := textJob(id(i), "abc"[:1+r.IntN(3)])
	n := 1 + r.IntN(5)
	job.Params.MaxTokens = &n
	job.Class = contracts.Classes[r.IntN(4)]
	d := ds[r.IntN(2)]
	if r.IntN(4) == 0 { // an impatient producer: the same job again, through the other door
		again := *job // the client fills in what is missing
		var done sync.WaitGroup
		defer done.Wait()
		done.Go(func() {
			if _, err := c.Submit(ctx, &again); err != nil {
				t.Errorf("submit %d again: %v", i, err)
			}
		})
	}
	if r.IntN(3) == 0 {
		if _, err := d.Submit(ctx, job); err != nil {
			t.Errorf("submit %d: %v", i, err)
			return
		}
		if r.IntN(2) == 0 {
			if s, err := ds[r.IntN(2)].Cancel(ctx, tenant, job.ID); err != nil || (s.State != contracts.StateCanceled && s.State != contracts.StateCompleted) {
				t.Errorf("cancel %d: %+v %v", i, s, err)
			}
		}
		checkEnd(t, i, job, ds[r.IntN(2)].Stream(ctx, tenant, job.ID, -1))
		return
	}
	_, chunks, err := d.Start(ctx, job)
	if err != nil {
		t.Errorf("start %d: %v", i, err)
		return
	}
	checkEnd(t, i, job, chunks)
}

func checkEnd(t *testing.T, i int, job *contracts.Job, chunks func(func(*contracts.Chunk, error) bool)) {
	t.Helper()
	tokens, text, finals := 0, "", 0
	for c, err := range chunks {
		if err != nil {
			t.Errorf("job %d: %v", i, err)
			return
		}
		if c.Index != tokens || finals > 0 {
			t.Errorf("job %d: record at %d after %d tokens and %d final records", i, c.Index, tokens, finals)
		}
		if c.Final() {
			finals++
		}
		tokens += len(c.Tokens)
		text += c.Text
		if c.Final() && c.Code == "" && text != expected(job.Prompt, *job.Params.MaxTokens) {
			t.Errorf("job %d: text %q of prompt %q", i, text, job.Prompt)
		}
	}
	if finals != 1 {
		t.Errorf("job %d: %d final records", i, finals)
	}
}
