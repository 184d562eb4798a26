package contracts

// State is where a job is in its life, as GET /v1/jobs/{id} and `pelton job show` say it.
type State string

// The states of a job.
const (
	StateScheduled State = "scheduled"
	StateHeld      State = "held"
	StateQueued    State = "queued"
	StateRunning   State = "running"
	StateCompleted State = "completed"
	StateFailed    State = "failed"
	StateCanceled  State = "canceled"
	StateExpired   State = "expired"
	StateEvicted   State = "evicted"
)

// Final tells whether a job in this state has its final record.
func (s State) Final() bool {
	switch s {
	case StateCompleted, StateFailed, StateCanceled, StateExpired, StateEvicted:
		return true
	}
	return false
}

// Status is what is known of one job. Final states carry Finish, Usage and, on failure, Code.
type Status struct {
	Job       string   `msgpack:"job" json:"job"`
	State     State    `msgpack:"state" json:"state"`
	Class     Class    `msgpack:"class,omitempty" json:"class,omitempty"`
	Model     string   `msgpack:"model,omitempty" json:"model,omitempty"`
	Tenant    string   `msgpack:"tenant" json:"tenant"`
	Submitted int64    `msgpack:"submitted,omitempty" json:"submitted,omitempty"`
	Worker    string   `msgpack:"worker,omitempty" json:"worker,omitempty"`
	Attempt   int      `msgpack:"attempt,omitempty" json:"attempt,omitempty"`
	Finish    string   `msgpack:"finish,omitempty" json:"finish,omitempty"`
	Usage     *Usage   `msgpack:"usage,omitempty" json:"usage,omitempty"`
	Timings   *Timings `msgpack:"timings,omitempty" json:"timings,omitempty"`
	Code      Code     `msgpack:"code,omitempty" json:"code,omitempty"`
	Message   string   `msgpack:"message,omitempty" json:"message,omitempty"`
}

// StatusOf is the status of a job of which record is the last one and claim the last claim, or nil.
func StatusOf(tenant, job string, claim *Claim, record *Chunk) Status {
	s := Status{Job: job, State: StateRunning, Tenant: tenant}
	if claim != nil {
		s.Class, s.Model, s.Submitted, s.Worker, s.Attempt = claim.Class, claim.Model, claim.Submitted, claim.Worker, claim.Attempt
	}
	if record.Final() {
		s.State, s.Finish, s.Usage, s.Timings = FinalState(record), record.Finish, record.Usage, record.Timings
		s.Code, s.Message = record.Code, record.Message
	}
	return s
}

// Outcome is what became of a job in this state, which is a final one.
func (s State) Outcome() Outcome { return Outcome(s) }

// FinalState is the state that a final record puts its job in.
func FinalState(c *Chunk) State {
	switch c.Code {
	case "":
		return StateCompleted
	case CodeCanceled:
		return StateCanceled
	case CodeDeadlineExceeded:
		return StateExpired
	case CodeOverloaded:
		return StateEvicted
	}
	return StateFailed
}

// QueueState is what operators let the queue of a model do.
type QueueState string

// The states of a queue.
const (
	QueueOpen     QueueState = "open"
	QueuePaused   QueueState = "paused"   // jobs are taken in, and none is given to a worker; those that run go on
	QueueDraining QueueState = "draining" // jobs are refused; those that were taken in run to their end
)

// QueueDepth is how much waits and runs of one model, class and size; what is held is of no size.
type QueueDepth struct {
	Model   string     `json:"model"`
	Class   Class      `json:"class"`
	Size    Size       `json:"size"`
	State   QueueState `json:"state"`
	Pending int        `json:"pending"` // wait for a worker
	Running int        `json:"running"` // given to a worker and not ended; also handed back and not yet taken again
	Held    int        `json:"held"`    // wait for their turn, outside of the queue, as far as the dispatcher knows
}

// WorkerState is the life of a worker.
type WorkerState string

// The states of a worker.
const (
	WorkerReady    WorkerState = "ready"
	WorkerDraining WorkerState = "draining"
	WorkerStopped  WorkerState = "stopped" // its last heartbeat
)

// Heartbeat is what a worker says of itself twice a second on hb.<worker>.
type Heartbeat struct {
	V       int         `msgpack:"v" json:"v"`
	Worker  string      `msgpack:"worker" json:"worker"`
	State   WorkerState `msgpack:"state" json:"state"`
	Sent    int64       `msgpack:"sent" json:"sent"`       // Unix milliseconds
	Started int64       `msgpack:"started" json:"started"` // Unix milliseconds

	Model         string `msgpack:"model" json:"model"`
	Variant       string `msgpack:"variant" json:"variant"`
	Backend       string `msgpack:"backend" json:"backend"`
	Device        string `msgpack:"device" json:"device"`
	Fingerprint   string `msgpack:"fingerprint" json:"fingerprint"`
	ContextLength int    `msgpack:"context_length" json:"context_length"`

	// Asleep: the weights are not in memory; the first job has them loaded.
	Asleep bool `msgpack:"asleep,omitempty" json:"asleep,omitempty"`

	KV    KVMemory     `msgpack:"kv" json:"kv"`
	Slots int          `msgpack:"slots" json:"slots"` // most sequences at once
	Jobs  []RunningJob `msgpack:"jobs,omitempty" json:"jobs,omitempty"`
	Stats WorkerStats  `msgpack:"stats" json:"stats"`
	Steps *StepSums    `msgpack:"steps,omitempty" json:"steps,omitempty"` // what its steps took; nil before the first
}

// KVMemory is a worker's KV cache in bytes.
type KVMemory struct {
	Total    int64 `msgpack:"total" json:"total"`
	Reserved int64 `msgpack:"reserved" json:"reserved"`
	Used     int64 `msgpack:"used" json:"used"`
	PerToken int64 `msgpack:"per_token" json:"per_token"`
	Block    int   `msgpack:"block,omitempty" json:"block,omitempty"` // tokens to whose multiple a sequence's are rounded up; 0 is 1
}

// RunningJob is a job that a worker holds.
type RunningJob struct {
	Job    string `msgpack:"job" json:"job"`
	Tenant string `msgpack:"tenant" json:"tenant"`
	Class  Class  `msgpack:"class" json:"class"`
	Index  int    `msgpack:"index" json:"index"` // tokens emitted so far, over all choices
	// What giving the job back would free, and who gives way first.
	Started int64 `msgpack:"started,omitempty" json:"started,omitempty"` // when this worker took it, Unix milliseconds
	KV      int64 `msgpack:"kv,omitempty" json:"kv,omitempty"`           // reserved bytes of KV cache
	Slots   int   `msgpack:"slots,omitempty" json:"slots,omitempty"`     // reserved slots
	Yields  bool  `msgpack:"yields,omitempty" json:"yields,omitempty"`   // gives way when asked: it runs, and has not given way too often
}

// WorkerStats are a worker's counters since its start.
type WorkerStats struct {
	JobsDone      int64   `msgpack:"jobs_done" json:"jobs_done"`
	JobsFailed    int64   `msgpack:"jobs_failed" json:"jobs_failed"`
	PromptTokens  int64   `msgpack:"prompt_tokens" json:"prompt_tokens"`
	OutputTokens  int64   `msgpack:"output_tokens" json:"output_tokens"`
	StepMS        float64 `msgpack:"step_ms" json:"step_ms"`                       // recent mean of a step
	FlushMS       float64 `msgpack:"flush_ms,omitempty" json:"flush_ms,omitempty"` // how long records of running streams wait for more tokens now
	Batch         float64 `msgpack:"batch" json:"batch"`                           // recent mean of rows in a step
	ResidentBytes int64   `msgpack:"resident_bytes" json:"resident_bytes"`
}

// How many jobs are listed.
const (
	DefaultList = 100 // where no limit is named
	MaxList     = 1000
)

// Filter narrows a list of jobs; an empty field lets everything through.
type Filter struct {
	State  State
	Class  Class
	Tenant string
	Limit  int // most jobs to list; 0 is DefaultList
}
