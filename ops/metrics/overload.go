package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pelton-run/pelton/contracts"
)

// overloadMetrics are of predictions, of what is shed, and of what was computed for nothing.
type overloadMetrics struct {
	device  *prometheus.CounterVec
	changes *prometheus.CounterVec
	top     *prometheus.GaugeVec
	wrong   *prometheus.HistogramVec
	wasted  *prometheus.CounterVec
}

func (r *Registry) newOverload() overloadMetrics {
	return overloadMetrics{
		device:  r.counter("pelton_device_seconds_total", "Time of the device that jobs had, by why it was for nothing: the code of the last record, or why the job left its worker before (as in pelton_handed_back_total). Empty is time that led to an answer.", "model", "wasted"),
		changes: r.counter("pelton_overload_changes_total", "Steps of the ladders and breakers, by kind (ladder, broker, worker, class) and where to; of ladders down or up.", "kind", "to"),
		top:     r.gauge("pelton_ladder_rung", "Rung of a model's ladder below which jobs are let through: 512 is all, 128 is p0 alone.", "model"),
		wrong:   r.histogram("pelton_ttft_prediction_error_seconds", "How far the predicted time to a job's first token was off, either way.", ttftBuckets, "model", "class"),
		wasted:  r.counter("pelton_wasted_tokens_total", "Tokens that were fed and generated for jobs that ended without their answer, by why.", "model", "code"),
	}
}

// moves counts a step of a ladder or a breaker.
func (r *Registry) moves(e *contracts.Event) {
	to := e.To
	if e.Kind == "ladder" { // its steps are numbers
		from, _ := strconv.ParseFloat(e.From, 64)
		now, _ := strconv.ParseFloat(e.To, 64)
		if to = "up"; now < from {
			to = "down"
		}
	}
	r.overload.changes.WithLabelValues(e.Kind, to).Inc()
}
