package scaler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/dispatcher/backlog"
)

// maxAnswer bounds what a dispatcher may say, in bytes.
const maxAnswer = 16 << 20

// Config says whom a [Watch] asks and how it plans.
type Config struct {
	Servers []string      // base URLs of all dispatchers of the fleet, each by itself: each counts what came to it
	Resolve bool          // ask every address that a server's name has, as those of a headless service
	Key     string        // an operator's key; "" where nobody is asked
	Client  *http.Client  // default http.DefaultClient
	Every   time.Duration // between looks; default 10 s
	Lead    time.Duration // from the start of a worker to its first job; default 60 s
	Use     float64       // share of a worker's time that may be planned for, 0 to 1; default 0.7
	Log     *slog.Logger  // default: discard
}

// Defaults is what a Config is filled up with.
func Defaults() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	c.Client = cmp.Or(c.Client, http.DefaultClient)
	if c.Resolve {
		c.Client = pinned(c.Client)
	}
	c.Every = cmp.Or(c.Every, 10*time.Second)
	c.Lead = cmp.Or(c.Lead, time.Minute)
	c.Use = cmp.Or(c.Use, 0.7)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return c
}

// Validate returns all problems of c at once.
func (c Config) Validate() error {
	var errs []error
	if len(c.Servers) == 0 {
		errs = append(errs, errors.New("no server: name every dispatcher"))
	}
	if c.Every < 0 || c.Lead < 0 {
		errs = append(errs, errors.New("durations must not be negative"))
	}
	if c.Use < 0 || c.Use > 1 {
		errs = append(errs, fmt.Errorf("use is %g, it must be above 0 and at most 1", c.Use))
	}
	return errors.Join(errs...)
}

// Decision is how many workers a model needs, and why. While its queue is paused these are the ones that run jobs.
type Decision struct {
	Workers  float64 // the larger of the next two, and 1 while there are jobs
	Now      float64 // workers that what arrives at the moment needs
	Forecast float64 // that what will arrive when a worker could be there needs
	Active   bool    // there are jobs, or will be
	Held     int     // jobs that dispatchers hold back
	Jobs     int     // jobs that wait, run or are held back
	Paused   bool    // an operator paused the queue: only what runs needs workers, and nothing counts that waits
	Demand   Demand  // what arrives at the moment
	Known    bool    // what a worker of the model can do
}

// Plan is the decision for a model whose workers at the moment are so many.
type Plan struct {
	Model string
	Ready int // workers that take jobs
	Decision
}

// ErrRefused: the dispatchers ask for a key that is not there, or not an operator's.
var ErrRefused = errors.New("an operator's key is needed (PELTON_API_KEY)")

// Watch looks at a fleet. Safe for concurrent use.
type Watch struct {
	cfg Config

	mu     sync.Mutex
	models map[string]*model
	ready  map[string]int  // workers of each model that take jobs
	before map[string]load // by dispatcher
	good   time.Time       // of the last look at which every dispatcher answered
	looked chan struct{}   // closed after each look
}

type model struct {
	forecast Forecast
	worker   Worker // as last known
	decision Decision
}

// queue is what all dispatchers say of a model's.
type queue struct {
	jobs, held int // all jobs, those that are held back of them
	paused     bool
}

// load is what a dispatcher says of itself.
type load struct {
	Dispatcher string                     `json:"dispatcher"`
	Models     map[string]backlog.Arrived `json:"models"`
	at         time.Time
}

// NewWatch makes a watch; [Watch.Run] looks.
func NewWatch(cfg Config) (*Watch, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Watch{cfg: cfg.withDefaults(), models: map[string]*model{}, before: map[string]load{}, looked: make(chan struct{})}, nil
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	for range tick.Now(ctx, w.cfg.Every) {
		if err := w.Look(ctx); err != nil && ctx.Err() == nil {
			w.cfg.Log.Warn("look at the fleet", "error", err)
		}
	}
	return ctx.Err()
}

// Looked is closed after the next look.
func (w *Watch) Looked() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looked
}

// Decision is the latest for a model; false when the fleet has not been seen for three looks. A model that
// nobody asked for needs no worker.
func (w *Watch) Decision(name string) (Decision, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.good.IsZero() || time.Since(w.good) > 3*w.cfg.Every {
		return Decision{}, false
	}
	if m := w.models[name]; m != nil {
		return m.decision, true
	}
	return Decision{}, true
}

// Plans are the latest decisions by model, also for models with workers and no jobs; none before there is one, for
// which two looks are needed.
func (w *Watch) Plans() (out []Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.good.IsZero() {
		return nil
	}
	out = []Plan{}
	for name, m := range w.models {
		out = append(out, Plan{name, w.ready[name], m.decision})
	}
	for name, n := range w.ready {
		if w.models[name] == nil {
			out = append(out, Plan{Model: name, Ready: n})
		}
	}
	slices.SortFunc(out, func(a, b Plan) int { return cmp.Compare(a.Model, b.Model) })
	return out
}

// Look asks every dispatcher once. When one does not answer nothing is decided: its part would look like a
// load that went away.
func (w *Watch) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Every)
	defer cancel()
	all, err := w.targets(ctx)
	if err != nil {
		return err
	}
	loads := make([]load, len(all))
	for i, one := range all {
		if err := w.get(ctx, one, "/v1/load", &loads[i]); err != nil {
			return err
		}
		loads[i].at = time.Now()
	}
	var workers struct{ Data []contracts.Heartbeat }
	var queues struct {
		Data []struct {
			Model                  string
			State                  contracts.QueueState
			Pending, Running, Held int
		}
	}
	if err := errors.Join(w.get(ctx, all[0], "/v1/workers", &workers), w.get(ctx, all[0], "/v1/queues", &queues)); err != nil {
		return err
	}
	waits := map[string]queue{}
	for _, q := range queues.Data {
		has := waits[q.Model]
		waits[q.Model] = queue{has.jobs + q.Pending + q.Running + q.Held, has.held + q.Held, has.paused || q.State == contracts.QueuePaused}
	}
	ready := map[string]int{}
	for _, h := range workers.Data {
		if h.State == contracts.WorkerReady {
			ready[h.Model]++
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = ready
	demands, known := w.demands(loads)
	if !known && len(w.models) == 0 { // nothing was ever decided: that is not the same as no worker
		return nil
	}
	if known {
		for name, q := range waits { // also those of dispatchers that are gone
			if _, ok := demands[name]; q.jobs > 0 && !ok {
				demands[name] = Demand{}
			}
		}
		for name, d := range demands {
			w.decide(name, d, waits[name], workers.Data)
		}
	}
	w.good = time.Now()
	close(w.looked)
	w.looked = make(chan struct{})
	return nil
}

// demands is what arrived in a second since the look before; known is false at the first look, and while a
// dispatcher is new.
func (w *Watch) demands(loads []load) (out map[string]Demand, known bool) {
	out, known = map[string]Demand{}, true
	for name := range w.models {
		out[name] = Demand{}
	}
	now := map[string]load{}
	for _, l := range loads {
		now[l.Dispatcher] = l
		before, seen := w.before[l.Dispatcher]
		if !seen {
			known = false
			continue
		}
		seconds := max(l.at.Sub(before.at).Seconds(), 1e-3)
		for name, a := range l.Models {
			b, d := before.Models[name], out[name]
			out[name] = Demand{d.Jobs + float64(a.Jobs-b.Jobs)/seconds, d.Prompt + float64(a.Prompt-b.Prompt)/seconds, d.Output + float64(a.Output-b.Output)/seconds}
		}
	}
	w.before = now
	return out, known
}

func (w *Watch) decide(name string, d Demand, q queue, workers []contracts.Heartbeat) {
	m := w.models[name]
	if m == nil {
		m = &model{forecast: Forecast{Ahead: int(math.Ceil(float64(w.cfg.Lead) / float64(w.cfg.Every)))}}
		w.models[name] = m
	}
	if worker, ok := workerOf(workers, name); ok {
		m.worker = worker
	}
	need := Need(d, m.worker, w.cfg.Use)
	m.forecast.Add(need) // also while the queue is paused: it opens again
	upper := m.forecast.Upper()
	m.decision = Decision{Now: need, Forecast: upper, Active: q.jobs > 0 || d.Jobs > 0 || upper > 0, Workers: max(need, upper), Held: q.held, Jobs: q.jobs, Paused: q.paused, Demand: d, Known: m.worker.Fit.Known()}
	if q.paused {
		n := busy(workers, name)
		m.decision.Active, m.decision.Workers, m.decision.Held = n > 0, float64(n), 0
	} else if m.decision.Active {
		m.decision.Workers = max(1, m.decision.Workers)
	}
	w.cfg.Log.Info("plan", "model", name, "workers", m.decision.Workers, "now", need, "forecast", upper, "jobs", q.jobs, "paused", q.paused, "known", m.worker.Fit.Known())
}

// busy is how many workers of a model run jobs.
func busy(list []contracts.Heartbeat, name string) (n int) {
	for _, h := range list {
		if h.Model == name && h.State != contracts.WorkerStopped && len(h.Jobs) > 0 {
			n++
		}
	}
	return n
}

// workerOf is the mean worker of a model that takes jobs.
func workerOf(list []contracts.Heartbeat, name string) (Worker, bool) {
	var sums contracts.StepSums
	var out Worker
	n := 0.0
	for _, h := range list {
		if h.Model != name || h.State != contracts.WorkerReady {
			continue
		}
		n++
		out.Slots += float64(h.Slots)
		if h.KV.PerToken > 0 {
			out.Tokens += float64(h.KV.Total / h.KV.PerToken)
		}
		if h.Steps != nil && h.Steps.Sound() {
			sums.Sum(*h.Steps, 1)
		}
	}
	out.Fit = sums.Fit()
	out.Slots, out.Tokens = out.Slots/max(1, n), out.Tokens/max(1, n)
	return out, out.Fit.Known()
}

func (w *Watch) get(ctx context.Context, from target, path string, into any) error {
	if from.address != "" {
		ctx = context.WithValue(ctx, addressKey{}, from.address)
	}
	url := from.server + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if w.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+w.cfg.Key)
	}
	resp, err := w.cfg.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%s answers %s: %w", url, resp.Status, ErrRefused)
	default:
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into)
}
