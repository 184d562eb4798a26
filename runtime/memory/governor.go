package memory

// Plan is how a process divides the memory that it may hold, in bytes. What is left of Limit is for
// models and their KV caches.
type Plan struct {
	Limit  int64 // most resident bytes
	Base   int64 // held by the process before its models: Go runtime, libraries, broker when embedded
	Margin int64 // room for the heap's growth and for page rounding
}

// Budget is what models and KV caches may take together.
func (p Plan) Budget() int64 { return max(p.Limit-p.Base-p.Margin, 0) }

// Sample is one look at a running process, in bytes.
type Sample struct {
	Resident int64 // as the operating system counts
	Heap     int64 // growth of the Go heap since Plan.Base was taken, as the Go runtime counts
	Models   int64 // predicted: weights and activations of the loaded models
	KV       int64 // predicted: blocks of KV cache that hold tokens
}

// Predict is what the process should hold: everything that somebody accounts for.
func (p Plan) Predict(s Sample) int64 { return p.Base + s.Heap + s.Models + s.KV }

// Difference is how much more the process holds than predicted; negative when it holds less.
func (p Plan) Difference(s Sample) int64 { return s.Resident - p.Predict(s) }

// Over is how much more the process holds than the plan has room for, margin included; never negative.
func (p Plan) Over(s Sample) int64 { return max(s.Resident-s.Models-s.KV-p.Base-p.Margin, 0) }

// Governor keeps a process below its limit although a prediction is wrong: what it holds beyond the
// plan, margin included, is taken from the budget. The budget shrinks at once and recovers over some
// samples, so that one low reading does not let jobs in that the next one has no room for. It never
// takes memory from those who have it. What is taken through a whole minute counts as gone: until then a job
// that needs it waits, and is not refused. Pure; one goroutine drives it.
type Governor struct {
	plan   Plan
	taken  int64
	gone   int64 // of it, for good as it seems
	least  int64 // of taken, in this span of samples
	sample int   // of the span
}

const (
	// governorStep is what the shrinkage is rounded up to: a budget that changes by pages wakes
	// everybody who waits for memory.
	governorStep = 4 << 20
	// governorRecovery is the part of the shrinkage that one sample may give back.
	governorRecovery = 8
	// governorSpan is how many samples make a minute.
	governorSpan = 120
)

// NewGovernor makes a governor whose budget is the plan's.
func NewGovernor(p Plan) *Governor { return &Governor{plan: p} }

// Observe takes a sample and returns the budget from now on, in bytes: from what the loaded models and
// the smallest useful KV cache take up to Plan.Budget. size is what it will be again after a while.
func (g *Governor) Observe(s Sample) (budget, size int64) {
	over := g.plan.Over(s)
	over = (over + governorStep - 1) / governorStep * governorStep
	if over < g.taken {
		back := max(g.taken/governorRecovery/governorStep, 1) * governorStep
		over = max(over, g.taken-back)
	}
	full := g.plan.Budget()
	g.taken = min(over, full-min(s.Models+LeastKV, full))
	g.least = min(g.least, g.taken)
	if g.sample++; g.sample == governorSpan {
		g.gone, g.least, g.sample = g.least, g.taken, 0
	}
	g.gone = min(g.gone, g.taken)
	return full - g.taken, full - g.gone
}
