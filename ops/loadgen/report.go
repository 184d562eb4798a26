package loadgen

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"
)

// WriteJSON writes r in the format of vLLM's benchmark (vllm bench serve --save-result), so that its
// readers take it, with all of r under "pelton". With details it adds the times of each request.
func (r *Report) WriteJSON(w io.Writer, details bool) error {
	a := r.All
	out := map[string]any{
		"date": r.Run.Date, "endpoint_type": r.Run.Target, "backend": r.Run.Target, "label": r.Run.Load, "model_id": r.Run.Model, "tokenizer_id": r.Run.Model,
		"request_rate": "inf", "burstiness": nil, "max_concurrency": nil,
		"num_prompts": a.Requests, "completed": a.Outcomes[Completed], "failed": a.Requests - a.Outcomes[Completed],
		"duration": r.Duration, "total_input_tokens": a.InputTokens, "total_output_tokens": a.OutputTokens,
		"request_throughput": r.PerSecond(a.Outcomes[Completed]), "request_goodput": r.PerSecond(a.GoodRequests),
		"output_throughput": r.PerSecond(a.OutputTokens), "total_token_throughput": r.PerSecond(a.InputTokens + a.OutputTokens),
		"pelton": r,
	}
	if t := r.Run.Traffic; t.Concurrency > 0 {
		out["max_concurrency"] = t.Concurrency
	} else if t.Rate > 0 {
		out["request_rate"] = t.Rate
	}
	if b := r.Run.Traffic.Burstiness; b > 0 {
		out["burstiness"] = b
	}
	for name, q := range map[string]Quantiles{"ttft": a.TTFT, "tpot": a.TPOT, "itl": a.ITL, "e2el": a.E2E} {
		maps.Copy(out, map[string]any{
			"mean_" + name + "_ms": q.Mean, "median_" + name + "_ms": q.P50, "std_" + name + "_ms": q.Std,
			"p50_" + name + "_ms": q.P50, "p90_" + name + "_ms": q.P90, "p95_" + name + "_ms": q.P95, "p99_" + name + "_ms": q.P99, "p99.9_" + name + "_ms": q.P999,
		})
	}
	if details {
		r.details(out)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// details adds vLLM's arrays, in seconds, one element for each request in the order of the plan.
func (r *Report) details(out map[string]any) {
	var inputs, outputs []int
	var ttfts, starts []float64
	var itls [][]float64
	var errs []string
	for i := range r.samples {
		s := &r.samples[i]
		ttft, gaps := 0.0, []float64{}
		if len(s.Pieces) > 0 {
			ttft = s.ttft().Seconds()
		}
		for j := 1; j < len(s.Pieces); j++ {
			gaps = append(gaps, (s.Pieces[j] - s.Pieces[j-1]).Seconds())
		}
		text := ""
		if s.Outcome != Completed {
			text = string(s.Outcome) + ": " + s.Message
		}
		inputs, outputs = append(inputs, s.InputTokens), append(outputs, s.tokens())
		ttfts, starts, itls, errs = append(ttfts, ttft), append(starts, s.At.Seconds()), append(itls, gaps), append(errs, text)
	}
	maps.Copy(out, map[string]any{
		"input_lens": inputs, "output_lens": outputs, "ttfts": ttfts, "itls": itls, "start_times": starts, "errors": errs,
	})
}

// PerSecond is n as a rate of the measured time.
func (r *Report) PerSecond(n int) float64 {
	if r.Duration == 0 {
		return 0
	}
	return float64(n) / r.Duration
}

// Warning says why the run may have measured this generator rather than the server, "" when there is
// no reason: requests that could not be sent, or one in a hundred sent more than 10 ms late. Lateness
// is part of the reported times, because they count from the planned moment.
func (r *Report) Warning() string {
	switch n := r.All.Outcomes[Unsent]; {
	case n > 0:
		return fmt.Sprintf("%d requests were not sent, because too many were open: raise --max-in-flight, lower the rate, or use more machines", n)
	case r.All.Slip.P99 > 10:
		return fmt.Sprintf("one request in a hundred was sent more than %.0f ms late: this machine is slow or busy for the load", r.All.Slip.P99)
	}
	return ""
}

// Failures lists the first messages of requests that failed, at most n different ones.
func (r *Report) Failures(n int) []string {
	var out []string
	seen := map[string]bool{}
	for _, s := range r.samples {
		if s.Outcome == Failed && !seen[s.Message] && len(out) < n {
			seen[s.Message] = true
			out = append(out, s.Message)
		}
	}
	return out
}

// String writes the limits for people.
func (o Objectives) String() string {
	text := ""
	for _, l := range []struct {
		name  string
		limit time.Duration
	}{{"TTFT", o.TTFT}, {"TPOT", o.TPOT}, {"E2E", o.E2E}} {
		if l.limit > 0 {
			text += fmt.Sprintf(", %s ≤ %s", l.name, l.limit)
		}
	}
	if text == "" {
		return "none: every completed request is good"
	}
	return text[2:]
}
