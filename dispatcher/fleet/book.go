package fleet

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// MaxHoldings bounds the held jobs that a book remembers; further ones wait for their ack wait.
const MaxHoldings = 200_000

// Holding is a job and the worker that holds it, as far as records and heartbeats tell. Only the job's
// stream knows for sure.
type Holding struct{ Tenant, Job, Worker string }

type jobKey struct{ tenant, job string }

// Book notes who holds which job. Not safe for concurrent use.
type Book struct {
	ttl    time.Duration // what no heartbeat confirmed for so long is forgotten
	holder map[jobKey]string
	held   map[string]map[jobKey]time.Time // by worker: when it was noted
}

// NewBook returns an empty book.
func NewBook(ttl time.Duration) *Book {
	return &Book{ttl: ttl, holder: map[jobKey]string{}, held: map[string]map[jobKey]time.Time{}}
}

// Record takes a record of a job's stream: a claim begins a holding, a release or the final record
// ends it.
func (b *Book) Record(tenant, job string, c *contracts.Chunk, now time.Time) {
	key := jobKey{tenant, job}
	switch {
	case c.Final(), c.IsClaim() && c.Claim.Released != "":
		b.forget(key)
	case c.IsClaim() && c.Claim.Worker != "":
		b.forget(key)
		b.note(key, c.Claim.Worker, now)
	}
}

// Beat takes a heartbeat: it adds jobs whose claim was not seen, and drops those that the worker does
// not name any more.
func (b *Book) Beat(h contracts.Heartbeat, now time.Time) {
	named := map[jobKey]bool{}
	for _, j := range h.Jobs {
		key := jobKey{j.Tenant, j.Job}
		named[key] = true
		if b.holder[key] == "" {
			b.note(key, h.Worker, now)
		}
	}
	for key, noted := range b.held[h.Worker] {
		if !named[key] && now.Sub(noted) >= b.ttl {
			b.forget(key)
		}
	}
}

func (b *Book) note(key jobKey, worker string, now time.Time) {
	if len(b.holder) >= MaxHoldings {
		return
	}
	if b.held[worker] == nil {
		b.held[worker] = map[jobKey]time.Time{}
	}
	b.holder[key] = worker
	b.held[worker][key] = now
}

// Forget drops a holding, if it is still that worker's.
func (b *Book) Forget(h Holding) {
	if key := (jobKey{h.Tenant, h.Job}); b.holder[key] == h.Worker {
		b.forget(key)
	}
}

func (b *Book) forget(key jobKey) {
	worker := b.holder[key]
	delete(b.holder, key)
	delete(b.held[worker], key)
	if len(b.held[worker]) == 0 {
		delete(b.held, worker)
	}
}

// Of lists the jobs of those workers for which want says yes, in no order.
func (b *Book) Of(want func(worker string) bool) []Holding {
	var out []Holding
	for worker, jobs := range b.held {
		if !want(worker) {
			continue
		}
		for key := range jobs {
			out = append(out, Holding{key.tenant, key.job, worker})
		}
	}
	return out
}
