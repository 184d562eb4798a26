package loadgen

import (
	"cmp"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Objectives are the limits that a good request meets, all of them; 0 is none.
type Objectives struct {
	TTFT time.Duration `json:"ttft_ns,omitempty"`
	TPOT time.Duration `json:"tpot_ns,omitempty"`
	E2E  time.Duration `json:"e2e_ns,omitempty"`
}

// Measured says what of a run counts.
type Measured struct {
	WarmUp     time.Duration // requests planned earlier are left out
	Until      time.Duration // and so are those planned at this time or later; 0 is none
	Objectives Objectives
}

// Times of one completed request. All count from the planned time.
func (s *Sample) ttft() time.Duration { return s.Pieces[0] - s.At }
func (s *Sample) e2e() time.Duration  { return s.Pieces[len(s.Pieces)-1] - s.At }

// tokens is how many output tokens the answer had: the server's count, or else the pieces.
func (s *Sample) tokens() int {
	if s.OutputTokens > 0 {
		return s.OutputTokens
	}
	return len(s.Pieces)
}

// tpot is the mean time of a token after the first one; false for answers of one token.
func (s *Sample) tpot() (time.Duration, bool) {
	if s.tokens() < 2 {
		return 0, false
	}
	return (s.e2e() - s.ttft()) / time.Duration(s.tokens()-1), true
}

// answered tells whether the request completed with content.
func (s *Sample) answered() bool { return s.Outcome == Completed && len(s.Pieces) > 0 }

// good tells whether s completed and met every objective.
func (o Objectives) good(s *Sample) bool {
	if !s.answered() {
		return false
	}
	tpot, _ := s.tpot()
	within := func(got, limit time.Duration) bool { return limit == 0 || got <= limit }
	return within(s.ttft(), o.TTFT) && within(tpot, o.TPOT) && within(s.e2e(), o.E2E)
}

// Quantiles describe a distribution of times in milliseconds.
type Quantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	Std   float64 `json:"std"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
}

// times is a histogram from 1 µs to an hour with an error below 0.1 %.
type times struct{ h *hdrhistogram.Histogram }

func newTimes() times { return times{hdrhistogram.New(1, time.Hour.Microseconds(), 3)} }

func (t times) add(d time.Duration) {
	_ = t.h.RecordValue(min(max(1, d.Microseconds()), time.Hour.Microseconds()))
}

func (t times) at(percentile float64) float64 { return ms(t.h.ValueAtPercentile(percentile)) }

func (t times) quantiles() Quantiles {
	if t.h.TotalCount() == 0 {
		return Quantiles{}
	}
	return Quantiles{
		Count: t.h.TotalCount(), Mean: t.h.Mean() / 1000, Std: t.h.StdDev() / 1000, Max: ms(t.h.Max()),
		P50: t.at(50), P90: t.at(90), P95: t.at(95), P99: t.at(99), P999: t.at(99.9),
	}
}

func ms(us int64) float64 { return float64(us) / 1000 }

// Summary is what a group of requests got. Rates are per second of the measured time.
type Summary struct {
	Name     string          `json:"name"`
	Requests int             `json:"requests"`
	Outcomes map[Outcome]int `json:"outcomes"`

	TTFT     Quantiles `json:"ttft_ms"`    // first piece with content
	TPOT     Quantiles `json:"tpot_ms"`    // (E2E - TTFT) / (output tokens - 1), one value a request
	ITL      Quantiles `json:"itl_ms"`     // gaps between pieces, pooled over all requests
	E2E      Quantiles `json:"e2e_ms"`     // last piece with content
	Refusals Quantiles `json:"refusal_ms"` // how long a refusal took
	Slip     Quantiles `json:"slip_ms"`    // how late this generator sent

	InputTokens   int `json:"input_tokens"`  // of completed requests
	OutputTokens  int `json:"output_tokens"` // of completed requests
	Pieces        int `json:"pieces"`        // of completed requests; fewer than tokens where one holds several
	GoodRequests  int `json:"good_requests"` // completed within every objective
	GoodTokens    int `json:"good_tokens"`   // output tokens of good requests
	WastedTokens  int `json:"wasted_tokens"` // output tokens that reached us for requests that were not good
	UncountedDone int `json:"uncounted"`     // completed requests whose tokens the server did not count
}

// Attainment is the share of good requests among all that were sent; refusals, failures, time-outs
// and cancellations are in the denominator.
func (s Summary) Attainment() float64 { return ratio(s.GoodRequests, s.Requests-s.Outcomes[Unsent]) }

// Waste is the share of output tokens that served no good request.
func (s Summary) Waste() float64 { return ratio(s.WastedTokens, s.WastedTokens+s.GoodTokens) }

func ratio(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// Report is a whole run.
type Report struct {
	Run      Header    `json:"run"`
	Duration float64   `json:"duration_s"` // of the measured time: to the last answer
	All      Summary   `json:"all"`
	Classes  []Summary `json:"classes,omitempty"`
	Tenants  []Summary `json:"tenants,omitempty"`
	Seconds  []Second  `json:"timeline"`
	Curves   []Curve   `json:"curves"`
	Fleet    *Fleet    `json:"fleet,omitempty"` // of a simulated run
	samples  []Sample
}

// Fleet is what became of the devices of a simulated run.
type Fleet struct {
	Workers int     `json:"workers"`
	Device  string  `json:"device"`
	Seconds float64 `json:"simulated_s"`           // to the last answer
	Busy    float64 `json:"busy"`                  // share of the devices' time that steps took
	Lost    float64 `json:"lost"`                  // share of that for requests that did not complete
	Steps   int     `json:"steps"`                 // of all workers
	StepMS  float64 `json:"step_ms"`               // mean
	Rows    float64 `json:"rows"`                  // sequences of a step, mean
	Prompt  float64 `json:"prompt_tokens"`         // of a step, mean
	KV      float64 `json:"kv_reserved"`           // share of the KV cache, mean
	Deaths  int     `json:"deaths,omitempty"`      // of workers
	Handed  int     `json:"handed_over,omitempty"` // jobs of dead workers
	Yielded int     `json:"preempted,omitempty"`   // times that a job gave way to a more urgent one
}

// Header says how the run was made, so that it can be made again.
type Header struct {
	Date       string            `json:"date"`
	Target     string            `json:"target"`
	Model      string            `json:"model"`
	Load       string            `json:"load"` // for example "poisson, 10 requests/s"
	Traffic    Traffic           `json:"traffic"`
	Seed       uint64            `json:"seed"`
	Settings   map[string]string `json:"settings"`
	Version    string            `json:"version"`
	Host       string            `json:"host"`
	Objectives Objectives        `json:"objectives"`
}

// Traffic says how requests came. What is 0 is not known or does not hold.
type Traffic struct {
	Rate        float64 `json:"rate"`        // requests/s that were planned; of a closed loop 0
	Burstiness  float64 `json:"burstiness"`  // the shape of the gamma distribution of the gaps, 1 is Poisson
	Concurrency int     `json:"concurrency"` // of a closed loop
}

// Second is a slice of the timeline, by planned time.
type Second struct {
	At       float64 `json:"at_s"`
	Planned  int     `json:"planned"`
	Answered int     `json:"answered"`
	Refused  int     `json:"refused"`
	TTFT50   float64 `json:"ttft_p50_ms"`
	TTFT99   float64 `json:"ttft_p99_ms"`
}

// Curve is a distribution as a line: the time that so many percent stay below.
type Curve struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"` // percentile, ms
}

// Reduce makes a report of samples in the order of their planned times.
func Reduce(samples []Sample, m Measured) Report {
	kept := slices.DeleteFunc(slices.Clone(samples), func(s Sample) bool {
		return s.At < m.WarmUp || (m.Until > 0 && s.At >= m.Until)
	})
	r := Report{samples: kept}
	end := m.Until
	for _, s := range kept {
		end = max(end, s.End)
	}
	r.Duration = max(0, end-m.WarmUp).Seconds()
	a := account{objectives: m.Objectives}
	r.All, r.Curves = a.summary("all", kept)
	group := func(key func(*Sample) string) []Summary {
		by := map[string][]Sample{}
		for i := range kept {
			by[key(&kept[i])] = append(by[key(&kept[i])], kept[i])
		}
		var out []Summary
		for name, list := range by {
			if name != "" {
				s, _ := a.summary(name, list)
				out = append(out, s)
			}
		}
		slices.SortFunc(out, func(x, y Summary) int { return cmp.Compare(x.Name, y.Name) })
		return out
	}
	r.Classes = group(func(s *Sample) string { return string(s.Class) })
	r.Tenants = group(func(s *Sample) string { return s.Tenant })
	r.Seconds = timeline(kept, m.WarmUp)
	return r
}

type account struct{ objectives Objectives }

func (a account) summary(name string, samples []Sample) (Summary, []Curve) {
	out := Summary{Name: name, Requests: len(samples), Outcomes: map[Outcome]int{}}
	ttft, tpot, itl, e2e, refusals, slip := newTimes(), newTimes(), newTimes(), newTimes(), newTimes(), newTimes()
	for i := range samples {
		s := &samples[i]
		out.Outcomes[s.Outcome]++
		if s.Outcome != Unsent {
			slip.add(s.Sent - s.At)
		}
		if s.Outcome == Refused {
			refusals.add(s.End - s.At)
		}
		a.tokens(&out, s)
		if !s.answered() {
			continue
		}
		ttft.add(s.ttft())
		e2e.add(s.e2e())
		if d, ok := s.tpot(); ok {
			tpot.add(d)
		}
		for j := 1; j < len(s.Pieces); j++ {
			itl.add(s.Pieces[j] - s.Pieces[j-1])
		}
	}
	out.TTFT, out.TPOT, out.ITL, out.E2E = ttft.quantiles(), tpot.quantiles(), itl.quantiles(), e2e.quantiles()
	out.Refusals, out.Slip = refusals.quantiles(), slip.quantiles()
	return out, []Curve{ttft.curve("TTFT"), tpot.curve("TPOT"), itl.curve("ITL"), e2e.curve("E2E")}
}

// tokens counts what s got.
func (a account) tokens(out *Summary, s *Sample) {
	if s.Outcome == Completed {
		out.InputTokens += s.InputTokens
		out.OutputTokens += s.tokens()
		out.Pieces += len(s.Pieces)
		if s.OutputTokens == 0 {
			out.UncountedDone++
		}
	}
	if a.objectives.good(s) {
		out.GoodRequests++
		out.GoodTokens += s.tokens()
	} else {
		out.WastedTokens += s.tokens()
	}
}

// curve has a point at each percentile that the count of values can tell apart.
func (t times) curve(name string) Curve {
	c := Curve{Name: name, Points: [][2]float64{}}
	n := t.h.TotalCount()
	for _, p := range []float64{0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.5, 99.9, 99.95, 99.99} {
		if n > 0 && (p <= 50 || float64(n)*(100-p) >= 100) {
			c.Points = append(c.Points, [2]float64{p, t.at(p)})
		}
	}
	return c
}

// timeline has one slice for each second, or fewer and longer ones for runs above ten minutes.
func timeline(samples []Sample, from time.Duration) []Second {
	if len(samples) == 0 {
		return nil
	}
	last := samples[len(samples)-1].At - from
	width := (last / 600).Truncate(time.Second) + time.Second
	out := make([]Second, last/width+1)
	ttft := make([]times, len(out))
	for i := range out {
		out[i].At, ttft[i] = (from + time.Duration(i)*width).Seconds(), newTimes()
	}
	for i := range samples {
		s := &samples[i]
		at := (s.At - from) / width
		out[at].Planned++
		if s.Outcome == Refused {
			out[at].Refused++
		}
		if s.answered() {
			out[at].Answered++
			ttft[at].add(s.ttft())
		}
	}
	for i := range out {
		out[i].TTFT50, out[i].TTFT99 = ttft[i].at(50), ttft[i].at(99)
	}
	return out
}
