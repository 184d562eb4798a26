// Package metrics turns what dispatcher and worker say through their traces into Prometheus metrics.
//
// It stands beside the walk: dispatcher.Trace and worker.Trace feed it, the HTTP door serves it. It
// decides nothing. Every Registry is its own; nothing is a global. Safe for concurrent use.
//
// Latencies are in seconds and their names say where they were measured: pelton_gateway_… at the
// dispatcher, pelton_worker_… at the worker.
package metrics

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/gather"
)

// Buckets of the histograms; those of TTFT are vLLM's, so that its dashboards fit.
var (
	ttftBuckets = []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	itlBuckets  = []float64{0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5}
	unitSizes   = []float64{1, 4, 16, 32, 64, 96, 128, 192, 256, 512, 1024}
	batchSizes  = []float64{1, 2, 4, 8, 16, 32, 64, 128}
)

// Registry holds the metrics of one process.
type Registry struct {
	reg *prometheus.Registry

	jobs     *prometheus.CounterVec   // by outcome
	ttft     *prometheus.HistogramVec // at the worker, since submission
	queued   *prometheus.HistogramVec
	itl      *prometheus.HistogramVec
	tokens   *prometheus.CounterVec
	step     *prometheus.HistogramVec
	rows     *prometheus.HistogramVec
	units    *prometheus.HistogramVec // of calls
	waited   *prometheus.HistogramVec
	kv       *prometheus.GaugeVec
	resident *prometheus.GaugeVec
	running  *prometheus.GaugeVec
	left     *prometheus.CounterVec
	gateway  *prometheus.HistogramVec
	moved    *prometheus.CounterVec
	clock    *prometheus.GaugeVec
	overload overloadMetrics
	memory   memoryMetrics
}

// New makes a registry with the process's own metrics in it.
func New() *Registry {
	r := &Registry{reg: prometheus.NewRegistry()}
	r.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.jobs = r.counter("pelton_jobs_total", "Jobs by what became of them.", "model", "class", "outcome")
	r.ttft = r.histogram("pelton_worker_time_to_first_token_seconds", "From submission to the first token, measured at the worker.", ttftBuckets, "model", "class")
	r.gateway = r.histogram("pelton_gateway_time_to_first_token_seconds", "From submission to the first piece, measured at the dispatcher.", ttftBuckets, "model", "class")
	r.queued = r.histogram("pelton_worker_queue_seconds", "From submission to the claim of a worker.", ttftBuckets, "model", "class")
	r.itl = r.histogram("pelton_worker_inter_token_seconds", "Between the tokens of a stream, measured at the worker as records are accepted.", itlBuckets, "model", "class")
	r.tokens = r.counter("pelton_tokens_total", "Tokens of finished jobs (prompt, output); of steps: shared, drafted (guessed), accepted (guessed rightly).", "model", "kind")
	r.step = r.histogram("pelton_step_seconds", "One forward pass over a batch.", itlBuckets, "model")
	r.rows = r.histogram("pelton_batch_rows", "Sequences in one forward pass, or calls of jobs joined in one.", batchSizes, "model")
	r.units = r.histogram("pelton_call_units", "Work in one call of an embedding or tensor model: tokens, or rows.", unitSizes, "model")
	r.waited = r.histogram("pelton_call_wait_seconds", "How long the first of the joined calls waited for the model.", itlBuckets, "model")
	r.kv = r.gauge("pelton_kv_bytes", "KV cache by state: total, reserved, used.", "worker", "model", "state")
	r.resident = r.gauge("pelton_worker_resident_bytes", "Resident memory of the worker's process.", "worker")
	r.running = r.gauge("pelton_running_jobs", "Jobs that a worker holds.", "worker", "model")
	r.left = r.counter("pelton_handed_back_total", "Jobs that left a worker before their end: drain, preempt, unfit, failed, or lease_lost (another worker has it).", "model", "cause")
	r.moved = r.counter("pelton_dispatcher_moves_total", "Jobs that a dispatcher took from their worker: dead (handed over), preempt (asked to give way); rest counts workers told to take none for a while.", "cause")
	r.clock = r.gauge("pelton_dispatcher_clock_ahead_seconds", "How much the clock of the dispatcher's machine is ahead of the broker's.")
	r.overload = r.newOverload()
	r.memory = r.newMemory()
	zero(r.moved, []string{"dead", "preempt", "rest"})
	return r
}

// zero makes the series of all combinations of labels: rate and increase see nothing of an event that makes its series.
func zero(c *prometheus.CounterVec, labels ...[]string) {
	all := [][]string{nil}
	for _, values := range labels {
		var next [][]string
		for _, before := range all {
			for _, v := range values {
				next = append(next, append(slices.Clone(before), v))
			}
		}
		all = next
	}
	for _, l := range all {
		c.WithLabelValues(l...)
	}
}

// texts are values as labels.
func texts[T ~string](values ...T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

func (r *Registry) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.reg.MustRegister(c)
	return c
}

func (r *Registry) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	r.reg.MustRegister(g)
	return g
}

func (r *Registry) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	r.reg.MustRegister(h)
	return h
}

// Handler serves the metrics.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{})
}

// Worker is a trace that feeds the registry from a worker of one model.
func (r *Registry) Worker(model string) *worker.Trace {
	one := []string{model}
	zero(r.jobs, one, texts(contracts.Classes...), texts(contracts.OutcomeCompleted, contracts.OutcomeCanceled, contracts.OutcomeExpired, contracts.OutcomeFailed))
	left := append(texts(contracts.ReleaseDrain, contracts.ReleasePreempt, contracts.ReleaseUnfit, contracts.ReleaseFailed), string(contracts.CodeLeaseLost))
	zero(r.left, one, left)
	zero(r.tokens, one, []string{"prompt", "output", "shared", "drafted", "accepted"})
	wasted := texts(contracts.CodeCanceled, contracts.CodeDeadlineExceeded, contracts.CodeInternal)
	zero(r.overload.wasted, one, wasted)
	zero(r.overload.device, one, slices.Concat(wasted, left, []string{""}))
	return &worker.Trace{
		Claimed: func(j worker.Job, queued time.Duration, _ int) {
			r.queued.WithLabelValues(j.Model, string(j.Class)).Observe(queued.Seconds())
		},
		FirstToken: func(j worker.Job, since time.Duration) {
			r.ttft.WithLabelValues(j.Model, string(j.Class)).Observe(since.Seconds())
		},
		Emitted: r.emitted,
		Step: func(s batch.Step) {
			r.step.WithLabelValues(model).Observe(s.Duration.Seconds())
			r.rows.WithLabelValues(model).Observe(float64(s.Rows))
			r.tokens.WithLabelValues(model, "shared").Add(float64(s.SharedTokens))
			r.tokens.WithLabelValues(model, "drafted").Add(float64(s.Drafted))
			r.tokens.WithLabelValues(model, "accepted").Add(float64(s.Accepted))
		},
		Called: func(s gather.Step) {
			r.step.WithLabelValues(model).Observe(s.Duration.Seconds())
			r.rows.WithLabelValues(model).Observe(float64(s.Calls))
			r.units.WithLabelValues(model).Observe(float64(s.Units))
			r.waited.WithLabelValues(model).Observe(s.Waited.Seconds())
		},
		Finished: func(j worker.Job, final *contracts.Chunk) {
			r.jobs.WithLabelValues(j.Model, string(j.Class), string(contracts.FinalState(final).Outcome())).Inc()
			r.tokens.WithLabelValues(j.Model, "prompt").Add(float64(final.Usage.PromptTokens))
			r.tokens.WithLabelValues(j.Model, "output").Add(float64(final.Usage.CompletionTokens))
			if final.Code != "" && final.Usage.CompletionTokens > 0 { // one that never ran cost nothing
				r.overload.wasted.WithLabelValues(j.Model, string(final.Code)).Add(float64(final.Usage.TotalTokens))
			}
		},
		Spent: func(j worker.Job, device time.Duration, wasted string) {
			r.overload.device.WithLabelValues(j.Model, wasted).Add(device.Seconds())
		},
		HandedBack: func(j worker.Job, why contracts.Release, _ error) {
			r.left.WithLabelValues(j.Model, string(why)).Inc()
		},
		Fenced:    func(j worker.Job) { r.left.WithLabelValues(j.Model, string(contracts.CodeLeaseLost)).Inc() },
		Heartbeat: r.heartbeat,
	}
}

// Dispatcher is a trace that feeds the registry from a dispatcher of models.
func (r *Registry) Dispatcher(models ...string) *dispatcher.Trace {
	zero(r.jobs, models, texts(contracts.Classes...), texts(contracts.OutcomeAdmitted, contracts.OutcomeHeld, contracts.OutcomeEvicted, contracts.OutcomeExpired, contracts.OutcomeCanceled, contracts.OutcomeFailed))
	zero(r.jobs, []string{""}, []string{""}, texts(contracts.OutcomeRejected, contracts.OutcomeShed))
	zero(r.overload.changes, []string{"ladder"}, []string{"down", "up"})
	zero(r.overload.changes, []string{"broker", "class", "worker"}, []string{"open", "half-open", "closed"})
	return &dispatcher.Trace{
		Admitted: func(j *contracts.Admitted, _ contracts.Size, _ time.Duration) {
			r.jobs.WithLabelValues(j.Job.Model, string(j.Job.Class), string(contracts.OutcomeAdmitted)).Inc()
		},
		Refused: func(_, _ string, err *contracts.Error) { r.Refused(err) },
		FirstChunk: func(j *contracts.Admitted, ttft time.Duration) {
			r.gateway.WithLabelValues(j.Job.Model, string(j.Job.Class)).Observe(ttft.Seconds())
		},
		Ended: func(final *contracts.Chunk) {
			r.jobs.WithLabelValues(final.Claim.Model, string(final.Claim.Class), string(contracts.FinalState(final).Outcome())).Inc()
		},
		Moved: r.moves,
		Top:   func(model string, rung float64) { r.overload.top.WithLabelValues(model).Set(rung) },
		Held: func(j *contracts.Admitted) {
			r.jobs.WithLabelValues(j.Job.Model, string(j.Job.Class), string(contracts.OutcomeHeld)).Inc()
		},
		Predicted: func(model string, class contracts.Class, predicted, actual time.Duration) {
			r.overload.wrong.WithLabelValues(model, string(class)).Observe((actual - predicted).Abs().Seconds())
		},
		HandedOver: func(string, string, string) { r.moved.WithLabelValues("dead").Inc() },
		Clock:      func(ahead time.Duration) { r.clock.WithLabelValues().Set(ahead.Seconds()) },
		Rested:     func(string) { r.moved.WithLabelValues("rest").Inc() },
		Preempted:  func(string, string, string) { r.moved.WithLabelValues("preempt").Inc() },
	}
}

// Refused counts a job that was not taken. Its model is what the producer wrote: no label, or anybody could make any
// number of series.
func (r *Registry) Refused(err *contracts.Error) {
	r.jobs.WithLabelValues("", "", string(err.Outcome())).Inc()
}

// emitted spreads the time since the record before over the tokens of this one.
func (r *Registry) emitted(j worker.Job, tokens int, since time.Duration) {
	if since <= 0 {
		return
	}
	h := r.itl.WithLabelValues(j.Model, string(j.Class))
	for range tokens {
		h.Observe(since.Seconds() / float64(tokens))
	}
}

func (r *Registry) heartbeat(h *contracts.Heartbeat) {
	r.kv.WithLabelValues(h.Worker, h.Model, "total").Set(float64(h.KV.Total))
	r.kv.WithLabelValues(h.Worker, h.Model, "reserved").Set(float64(h.KV.Reserved))
	r.kv.WithLabelValues(h.Worker, h.Model, "used").Set(float64(h.KV.Used))
	r.resident.WithLabelValues(h.Worker).Set(float64(h.Stats.ResidentBytes))
	r.running.WithLabelValues(h.Worker, h.Model).Set(float64(len(h.Jobs)))
}

// Queues makes every scrape ask for the depths of the queues, where a failing look leaves them out, and for
// the workers of each model, wherever they run.
func (r *Registry) Queues(look func(context.Context) ([]contracts.QueueDepth, error), workers func() map[string]int) {
	r.reg.MustRegister(&queues{look: look, workers: workers,
		paused:   prometheus.NewDesc("pelton_queue_paused", "1 while an operator keeps the jobs of a model from workers, else 0.", []string{"model"}, nil),
		draining: prometheus.NewDesc("pelton_queue_draining", "1 while the queue of a model takes no new jobs by an operator's doing, else 0.", []string{"model"}, nil),
		ready:    prometheus.NewDesc("pelton_workers", "Live workers of a model that take jobs, as a dispatcher sees them.", []string{"model"}, nil),
		depth:    prometheus.NewDesc("pelton_queue_jobs", "Jobs by queue and state: waiting, running (given to a worker and not ended, also those that it handed back or that its death gave back), held (of no size: for their turn, as far as this dispatcher knows).", []string{"model", "class", "size", "state"}, nil)})
}

type queues struct {
	look             func(context.Context) ([]contracts.QueueDepth, error)
	workers          func() map[string]int
	depth            *prometheus.Desc
	ready            *prometheus.Desc
	paused, draining *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (q *queues) Describe(out chan<- *prometheus.Desc) {
	out <- q.depth
	out <- q.ready
	out <- q.paused
	out <- q.draining
}

// Collect implements prometheus.Collector.
func (q *queues) Collect(out chan<- prometheus.Metric) {
	for model, n := range q.workers() {
		out <- prometheus.MustNewConstMetric(q.ready, prometheus.GaugeValue, float64(n), model)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, err := q.look(ctx)
	if err != nil {
		return
	}
	paused, draining := map[string]float64{}, map[string]float64{}
	for _, d := range list {
		paused[d.Model] = max(paused[d.Model], one(d.State == contracts.QueuePaused))
		draining[d.Model] = max(draining[d.Model], one(d.State == contracts.QueueDraining))
		if d.Size == "" {
			out <- prometheus.MustNewConstMetric(q.depth, prometheus.GaugeValue, float64(d.Held), d.Model, string(d.Class), "", "held")
			continue
		}
		out <- prometheus.MustNewConstMetric(q.depth, prometheus.GaugeValue, float64(d.Pending), d.Model, string(d.Class), string(d.Size), "waiting")
		out <- prometheus.MustNewConstMetric(q.depth, prometheus.GaugeValue, float64(d.Running), d.Model, string(d.Class), string(d.Size), "running")
	}
	for model := range paused {
		out <- prometheus.MustNewConstMetric(q.paused, prometheus.GaugeValue, paused[model], model)
		out <- prometheus.MustNewConstMetric(q.draining, prometheus.GaugeValue, draining[model], model)
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
