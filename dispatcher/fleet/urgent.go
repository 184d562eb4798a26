package fleet

import (
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Urgent is a [Preemptor] that is safe for concurrent use and knows the time.
type Urgent struct {
	waiting chan struct{}

	mu   sync.Mutex
	plan *Preemptor
}

// NewUrgent returns one that knows of no job.
func NewUrgent() *Urgent {
	return &Urgent{plan: NewPreemptor(), waiting: make(chan struct{}, 1)}
}

// Wait notes a job that is about to be put in the queue.
func (u *Urgent) Wait(w Waiting) {
	u.mu.Lock()
	u.plan.Wait(w, time.Now())
	u.mu.Unlock()
	select {
	case u.waiting <- struct{}{}:
	default:
	}
}

// Drop forgets a job that was not put in the queue.
func (u *Urgent) Drop(tenant, job string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.plan.Taken(tenant, job, "", time.Now())
}

// Waiting carries a value after a job began to wait.
func (u *Urgent) Waiting() <-chan struct{} { return u.waiting }

// Record shows it a record of a job's stream: a claim or an end.
func (u *Urgent) Record(tenant, job string, c *contracts.Chunk) {
	if c.Claim == nil {
		return
	}
	worker := c.Claim.Worker
	if c.Final() || c.Claim.Released != "" {
		worker = ""
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.plan.Taken(tenant, job, worker, time.Now())
}

// Victims are the jobs to ask now to give way; idle tells that nothing waits.
func (u *Urgent) Victims(live []contracts.Heartbeat) (victims []Holding, idle bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	victims = u.plan.Plan(live, time.Now())
	return victims, u.plan.Idle()
}
