package simulate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sim"
	serving "github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/emit"
)

// world is a simulation under way.
type world struct {
	clock
	cfg   Config
	info  engine.Info
	rng   *rand.Rand
	desk  *desk
	queue queue
	fleet []*worker // by place; a new one takes the place of one that died
	jobs  map[string]*job
	out   []loadgen.Sample
	open  int           // requests without an answer
	until time.Duration // when the simulation ends in any case
	hired int           // workers so far

	promise func(contracts.Size) int64 // what a job of a size class may need
	tally
}

// tally is what is counted on the way.
type tally struct {
	deaths, handedOver, preempted int
	busy, lost                    time.Duration // of devices: in steps, and for requests that did not complete
	steps, rows, prompts          int
	kv                            mean // share of the KV cache that is reserved
}

// mean is the mean of what was added.
type mean struct {
	sum float64
	n   int
}

func newWorld(c Config) *world {
	c.FlushInterval = cmp.Or(c.FlushInterval, emit.FlushInterval)
	c.FlushTokens = cmp.Or(c.FlushTokens, emit.FlushTokens)
	w := &world{cfg: c, rng: rand.New(rand.NewPCG(c.Seed, 17)), jobs: map[string]*job{}, out: make([]loadgen.Sample, len(c.Plan)), open: len(c.Plan),
		until: c.Plan[len(c.Plan)-1].At + patience}
	w.info = sim.New(sim.Config{Model: model, Profile: c.Profile, MaxSequences: c.Slots}).Info()
	var promises []int64
	for _, size := range contracts.Sizes {
		promises = append(promises, serving.Promise(w.info, size, c.Profile.KVMemory))
	}
	w.promise = func(s contracts.Size) int64 { return promises[slices.Index(contracts.Sizes, s)] }
	w.queue = queue{rng: w.rng}
	w.desk = newDesk(w)
	w.fleet = make([]*worker, c.Workers)
	for i := range w.fleet {
		w.hire(i)
	}
	w.arrive(0)
	for i := range c.Deaths {
		w.after(c.Plan[len(c.Plan)-1].At*time.Duration(i+1)/time.Duration(c.Deaths+1), func() { w.kill(w.rng.IntN(len(w.fleet))) })
	}
	return w
}

// arrive plans the request i and those after it.
func (w *world) arrive(i int) {
	if i == len(w.cfg.Plan) {
		return
	}
	r := &w.cfg.Plan[i]
	w.after(r.At-w.at, func() {
		j := w.newJob(i)
		w.after(w.cfg.Path.Submit, func() { w.desk.submit(j) })
		if r.CancelAfter > 0 {
			w.after(r.CancelAfter, func() {
				if !j.answered {
					w.giveUp(j)
				}
			})
		}
		w.arrive(i + 1)
	})
}

// hire puts a new worker in place i.
func (w *world) hire(i int) {
	w.hired++
	w.fleet[i] = newWorker(w, fmt.Sprintf("w%d.%d", i, w.hired))
}

// kill ends the worker in place i without a word, or the next that lives; another one starts in its place.
func (w *world) kill(i int) {
	for range w.fleet {
		if !w.fleet[i].dead {
			break
		}
		i = (i + 1) % len(w.fleet)
	}
	if w.fleet[i].dead {
		return // none has come back yet
	}
	w.deaths++
	w.fleet[i].die()
	w.after(w.cfg.Profile.Start(), func() { w.hire(i) })
}

// samples is what became of the plan.
func (w *world) samples() []loadgen.Sample {
	for i := range w.out {
		if s := &w.out[i]; s.Outcome == "" {
			s.Request, s.Sent = w.cfg.Plan[i], w.cfg.Plan[i].At
			s.Outcome, s.Message, s.End = loadgen.Expired, "not answered when the simulation ended", w.at
		}
	}
	return w.out
}

// use is what became of the devices.
func (w *world) use() loadgen.Fleet {
	f := loadgen.Fleet{Workers: w.cfg.Workers, Device: "sim:" + w.cfg.Profile.Name, Seconds: w.at.Seconds(), Steps: w.steps,
		Deaths: w.deaths, Handed: w.handedOver, Yielded: w.preempted}
	if w.steps > 0 {
		f.Busy = w.busy.Seconds() / (w.at.Seconds() * float64(w.cfg.Workers))
		f.Rows = float64(w.rows) / float64(w.steps)
		f.Prompt = float64(w.prompts) / float64(w.steps)
		f.StepMS = 1000 * w.busy.Seconds() / float64(w.steps)
		f.Lost = w.lost.Seconds() / w.busy.Seconds()
	}
	if w.kv.n > 0 {
		f.KV = w.kv.sum / float64(w.kv.n)
	}
	return f
}
