package loadgen_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
)

// sample is a completed request planned at at, sent slip later, with pieces at these times after at (ms).
func sample(at, slip int, tokens int, pieces ...int) loadgen.Sample {
	s := loadgen.Sample{Request: loadgen.Request{At: millis(at), Class: "p1"}, Sent: millis(at + slip)}
	s.Outcome, s.InputTokens, s.OutputTokens = loadgen.Completed, 100, tokens
	for _, p := range pieces {
		s.Pieces = append(s.Pieces, millis(at+p))
	}
	s.End = s.Pieces[len(s.Pieces)-1]
	return s
}

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// TestReduce checks every figure of a small run against a reckoning by hand.
func TestReduce(t *testing.T) {
	t.Parallel()
	warm := sample(0, 0, 2, 900, 5000)
	a := sample(1000, 10, 3, 100, 120, 160) // TTFT 100, TPOT 30, E2E 160
	b := sample(2000, 0, 5, 200, 400)       // TTFT 200, TPOT 50 (5 tokens in 2 pieces), E2E 400
	c := sample(3000, 0, 1, 50)             // TTFT 50, no TPOT
	c.Class = "p3"
	refused := loadgen.Sample{Request: loadgen.Request{At: millis(3500), Class: "p3"}, Sent: millis(3500), End: millis(3507), Answer: loadgen.Answer{Outcome: loadgen.Refused}}
	failed := sample(4000, 0, 0, 100, 110)
	failed.Outcome, failed.Message, failed.End = loadgen.Failed, "broke off", millis(5000)
	r := loadgen.Reduce([]loadgen.Sample{warm, a, b, c, refused, failed}, loadgen.Measured{WarmUp: time.Second, Objectives: loadgen.Objectives{TTFT: millis(150), TPOT: millis(40)}})

	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.001*math.Abs(want)+1e-9 { // the histogram's precision
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	s := r.All
	near("requests", float64(s.Requests), 5)
	near("duration", r.Duration, 4) // 1 s to the last answer at 5 s
	near("TTFT count", float64(s.TTFT.Count), 3)
	near("TTFT mean", s.TTFT.Mean, 350.0/3)
	near("TTFT p50", s.TTFT.P50, 100)
	near("TTFT p99", s.TTFT.P99, 200)
	near("TPOT count", float64(s.TPOT.Count), 2)
	near("TPOT mean", s.TPOT.Mean, 40)
	near("ITL count", float64(s.ITL.Count), 3) // 20, 40, 200
	near("ITL mean", s.ITL.Mean, 260.0/3)
	near("E2E max", s.E2E.Max, 400)
	near("refusal", s.Refusals.Mean, 7)
	near("slip", s.Slip.Max, 10)
	near("input tokens", float64(s.InputTokens), 300)
	near("output tokens", float64(s.OutputTokens), 9)
	near("good requests", float64(s.GoodRequests), 2) // a and c; b is too late
	near("good tokens", float64(s.GoodTokens), 4)
	near("wasted tokens", float64(s.WastedTokens), 7) // b's 5 and the 2 pieces of the failed one
	near("attainment", s.Attainment(), 0.4)
	near("waste", s.Waste(), 7.0/11)
	near("goodput", r.PerSecond(s.GoodRequests), 0.5)
	if len(r.Classes) != 2 || r.Classes[0].Name != "p1" || r.Classes[0].Requests != 3 || r.Classes[1].Outcomes[loadgen.Refused] != 1 {
		t.Errorf("classes %+v", r.Classes)
	}
	if len(r.Seconds) != 4 || r.Seconds[2].Planned != 2 || r.Seconds[2].Refused != 1 || r.Seconds[0].TTFT50 < 99.9 {
		t.Errorf("timeline %+v", r.Seconds)
	}
	if f := r.Failures(3); len(f) != 1 || f[0] != "broke off" {
		t.Errorf("failures %q", f)
	}
}

// TestReports: the JSON has the keys of vLLM's benchmark, the page stands alone and escapes what it shows.
func TestReports(t *testing.T) {
	t.Parallel()
	r := loadgen.Reduce([]loadgen.Sample{sample(0, 0, 3, 100, 120, 160), sample(1500, 0, 3, 110, 130, 150)}, loadgen.Measured{})
	r.Run = loadgen.Header{Model: "<script>alert(1)</script>", Load: "poisson", Traffic: loadgen.Traffic{Rate: 1, Burstiness: 1}, Seed: 7, Settings: map[string]string{"rate": "1"}}
	var b bytes.Buffer
	if err := r.WriteJSON(&b, true); err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"date", "backend", "model_id", "num_prompts", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
		"request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "mean_ttft_ms", "median_tpot_ms", "std_itl_ms", "p99_e2el_ms", "tokenizer_id", "max_concurrency", "ttfts", "itls", "errors"} {
		if _, ok := out[key]; !ok {
			t.Errorf("the JSON lacks %s", key)
		}
	}
	if out["request_rate"] != 1. || out["burstiness"] != 1. {
		t.Errorf("the JSON has a rate of %v and burstiness %v, want 1 and 1", out["request_rate"], out["burstiness"])
	}
	if got := out["ttfts"].([]any)[1].(float64); got != 0.11 || out["median_ttft_ms"].(float64) < 99 {
		t.Errorf("ttfts[1] is %v s, median %v ms, want 0.11 and 100", got, out["median_ttft_ms"])
	}
	b.Reset()
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if strings.Contains(page, "<script") || strings.Contains(page, "http://") || strings.Contains(page, "NaN") || strings.Contains(page, "Inf") {
		t.Error("the page holds a script, an address or a number that is none")
	}
	if n := strings.Count(page, "<polyline"); n != 9 || !strings.Contains(page, "prefers-color-scheme: dark") || !strings.HasSuffix(strings.TrimSpace(page), "</html>") {
		t.Errorf("%d lines in the charts, want 9, and a dark look", n)
	}
	empty := loadgen.Reduce(nil, loadgen.Measured{})
	if err := empty.WriteHTML(&b); err != nil {
		t.Errorf("page of an empty report: %v", err)
	}
}
