package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pelton-run/pelton/ops/residence"
)

// Memory is what a worker's process holds and what it accounts for, in bytes.
type Memory struct {
	Limit    int64 // most resident bytes
	Budget   int64 // of models and KV caches; less than planned after a wrong prediction
	Reserved int64 // of the budget
	Resident int64 // as the operating system counts

	// Predicted parts of Resident.
	Process int64 // before the first model
	Heap    int64 // growth of the Go heap since
	Models  int64 // weights and activations
	KV      int64 // blocks that hold tokens

	Difference int64 // Resident less all predicted parts
}

type memoryMetrics struct {
	bytes      *prometheus.GaugeVec
	predicted  *prometheus.GaugeVec
	difference *prometheus.GaugeVec
	loaded     *prometheus.GaugeVec
	loads      *prometheus.CounterVec
	took       *prometheus.HistogramVec
}

func (r *Registry) newMemory() memoryMetrics {
	return memoryMetrics{
		bytes:      r.gauge("pelton_memory_bytes", "Memory of the worker's process: limit, budget (of models and KV caches), reserved (of the budget), resident.", "kind"),
		predicted:  r.gauge("pelton_memory_predicted_bytes", "What the process should hold, by part: process, heap, models, kv.", "part"),
		difference: r.gauge("pelton_memory_difference_bytes", "Resident memory less all predicted parts; beyond the reserve it shrinks the budget."),
		loaded:     r.gauge("pelton_model_loaded_bytes", "Weights and activations of a model, of all workers of the process; 0 while it is not in memory.", "model"),
		loads:      r.counter("pelton_model_loads_total", "Models loaded, unloaded, or failed to load.", "model", "event"),
		took:       r.histogram("pelton_model_load_seconds", "How long loading a model took.", ttftBuckets, "model"),
	}
}

// Memory records a look at the process's memory.
func (r *Registry) Memory(m Memory) {
	set := func(g *prometheus.GaugeVec, v int64, labels ...string) { g.WithLabelValues(labels...).Set(float64(v)) }
	set(r.memory.bytes, m.Limit, "limit")
	set(r.memory.bytes, m.Budget, "budget")
	set(r.memory.bytes, m.Reserved, "reserved")
	set(r.memory.bytes, m.Resident, "resident")
	set(r.memory.predicted, m.Process, "process")
	set(r.memory.predicted, m.Heap, "heap")
	set(r.memory.predicted, m.Models, "models")
	set(r.memory.predicted, m.KV, "kv")
	set(r.memory.difference, m.Difference)
}

// Residence is a trace that feeds the registry from those who load models.
func (r *Registry) Residence() residence.Trace {
	return residence.Trace{
		Loaded: func(model string, bytes int64, took time.Duration) {
			r.memory.loaded.WithLabelValues(model).Add(float64(bytes))
			r.memory.loads.WithLabelValues(model, "loaded").Inc()
			r.memory.took.WithLabelValues(model).Observe(took.Seconds())
		},
		Unloaded: func(model string, bytes int64) {
			r.memory.loaded.WithLabelValues(model).Sub(float64(bytes))
			r.memory.loads.WithLabelValues(model, "unloaded").Inc()
		},
		Failed: func(model string, _ error) { r.memory.loads.WithLabelValues(model, "failed").Inc() },
	}
}
