package simulate

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
)

// Size is what a formula says of the fleet that a load needs.
type Size struct {
	Rate   float64 `json:"rate"`          // requests a second
	CV     float64 `json:"cv"`            // coefficient of variation of their gaps
	Input  float64 `json:"input_tokens"`  // mean
	Output float64 `json:"output_tokens"` // mean

	Workers int     `json:"workers"`
	Slots   float64 `json:"slots"`     // sequences of a worker that run at a time
	Service float64 `json:"service_s"` // seconds that a request has one
	Rho     float64 `json:"rho"`       // share of the requests that the workers could do at all
	StepMS  float64 `json:"step_ms"`
	TTFTMS  float64 `json:"ttft_ms"` // at the quantile that was asked for
}

// Estimate is the least fleet, by a formula, in which the share want of c's plan meets the objectives, with
// 0 workers when none does:
//
//	workers = rate x service / (slots x rho)
//
// slots are the sequences that a worker has while its steps are short enough for the time of a token; rho is
// as high as the wait for the first token allows: that of a queue with many servers whose gaps and service
// times vary (Allen and Cunneen's form of Kingman's: (Ca² + Cs²)/2 times that of M/M/n). It knows nothing
// of the order of the jobs or of what is refused: [Search] does.
func Estimate(c Config, goals loadgen.Objectives, want float64) Size {
	s := demand(c.Plan)
	low, high := 1, MaxWorkers
	for low < high { // more workers are never worse
		if n := (low + high) / 2; s.with(c, n).meets(c, goals, want) {
			high = n
		} else {
			low = n + 1
		}
	}
	if s = s.with(c, low); !s.meets(c, goals, want) {
		s.Workers = 0
	}
	return s.at(c, want)
}

// demand is what a plan asks for.
func demand(p loadgen.Plan) Size {
	s := Size{}
	var gaps, squares float64
	for i, r := range p {
		s.Input += float64(r.Input) / float64(len(p))
		s.Output += float64(r.Output) / float64(len(p))
		if i > 0 {
			gap := (r.At - p[i-1].At).Seconds()
			gaps, squares = gaps+gap, squares+gap*gap
		}
	}
	if n := float64(len(p) - 1); gaps > 0 {
		mean := gaps / n
		s.Rate, s.CV = 1/mean, math.Sqrt(max(0, squares/n-mean*mean))/mean
	}
	return s
}

// with is s on so many workers. In each, a step of T seconds has the prompt tokens and the rows that come in
// T: T = max(C0, T x arithmetic) + T x reading + sched.
func (s Size) with(c Config, workers int) Size {
	p := &c.Profile
	each := s.Rate / float64(workers)
	arithmetic := each * (s.Input*p.PerToken.Seconds() + s.Output*p.PerRow.Seconds())
	reading := each * s.Output * (s.Input + s.Output/2) * float64(p.KVBytesPerToken) / p.KVBandwidth
	step := math.Inf(1)
	if reading < 1 {
		step = (p.C0 + p.Sched).Seconds() / (1 - reading)
	}
	switch busy := arithmetic + reading; {
	case busy >= 1:
		step = math.Inf(1)
	default:
		step = max(step, p.Sched.Seconds()/(1-busy))
	}
	s.Workers, s.Rho, s.StepMS = workers, arithmetic+reading, 1000*step
	s.Slots = each * s.Output * step
	s.Service = s.Output * step
	return s
}

// at fills in the time of the first token at a quantile: the rest of a step, the prompt's own steps beside
// the others, and the wait for the prompts before it.
func (s Size) at(c Config, quantile float64) Size {
	p, n, step := &c.Profile, float64(s.Workers), s.StepMS/1000
	budget := cmp.Or(float64(c.Prefill), 512)
	own := step/2 + math.Ceil(s.Input/budget)*step
	prompt := s.Input * max(p.PerToken.Seconds(), p.C0.Seconds()/budget) // of a device's time
	busy := math.Pow(s.Rho, math.Sqrt(2*(n+1))-1)                        // share of the requests that wait
	mean := (s.CV*s.CV + 1) / 2 * prompt / (n * (1 - s.Rho))             // of those
	wait, late := 0.0, max(1-quantile, 1/float64(len(c.Plan)))           // of all none is late: of so many, fewer than one
	if busy > late {
		wait = mean * math.Log(busy/late)
	}
	s.TTFTMS = 1000 * (own + wait + (c.Path.Submit + c.Path.Publish + c.Path.Pull + c.Path.Claim + c.Path.Emit).Seconds())
	return s
}

// meets tells whether such a fleet is enough.
func (s Size) meets(c Config, goals loadgen.Objectives, want float64) bool {
	slots := cmp.Or(c.Slots, 256)
	kv := float64(c.Profile.KVMemory) / float64(c.Profile.KVBytesPerToken) / (s.Input + s.Output)
	if s.Rho >= 1 || s.Slots > min(float64(slots), kv) {
		return false
	}
	s = s.at(c, want)
	within := func(ms float64, limit time.Duration) bool { return limit == 0 || ms <= 1000*limit.Seconds() }
	return within(s.TTFTMS, goals.TTFT) && within(s.StepMS, goals.TPOT) && within(s.TTFTMS+s.Output*s.StepMS, goals.E2E)
}

// Trial is one fleet that was simulated.
type Trial struct {
	Workers int               `json:"workers"`
	Good    float64           `json:"good"` // share of the requests that met their objectives
	Refused int               `json:"refused"`
	TTFT    loadgen.Quantiles `json:"ttft_ms"`
	TPOT    loadgen.Quantiles `json:"tpot_ms"`
	Fleet   loadgen.Fleet     `json:"fleet"`
}

// searchMost is how many times the first fleet the search goes up to.
const searchMost = 8

// Search simulates fleets around first until it has the smallest one in which the share want of c's plan meets
// the objectives, or [searchMost] times first are too few. The trials are in the order of their workers.
func Search(ctx context.Context, c Config, goals loadgen.Objectives, want float64, warmUp time.Duration, first int) ([]Trial, error) {
	var trials []Trial
	try := func(n int) (bool, error) {
		c.Workers = n
		samples, fleet, err := Run(ctx, c)
		if err != nil {
			return false, err
		}
		r := loadgen.Reduce(samples, loadgen.Measured{WarmUp: warmUp, Objectives: goals})
		trials = append(trials, Trial{n, r.All.Attainment(), r.All.Outcomes[loadgen.Refused], r.All.TTFT, r.All.TPOT, fleet})
		return r.All.Attainment() >= want, nil
	}
	most := min(MaxWorkers, searchMost*max(1, first))
	low, high := 0, 0 // the largest that is too small, the smallest that is enough
	for n := max(1, first); ; {
		enough, err := try(n)
		if err != nil {
			return nil, err
		}
		if enough {
			high = n
		} else {
			low = n
		}
		switch {
		case high == 0 && low == most, high > 0 && high-low == 1:
			slices.SortFunc(trials, func(a, b Trial) int { return a.Workers - b.Workers })
			return trials, nil
		case high == 0:
			n = min(most, low+max(1, low/4))
		case low == 0:
			n = max(1, high-max(1, high/4))
		default:
			n = (low + high) / 2
		}
	}
}

// Fewest is the smallest fleet that was enough, 0 when none was.
func Fewest(trials []Trial, want float64) int {
	for _, t := range trials {
		if t.Good >= want {
			return t.Workers
		}
	}
	return 0
}
