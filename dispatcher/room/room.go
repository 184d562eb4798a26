// Package room keeps the stream SCHED from overflowing, and one tenant from filling it.
//
// It stands at step 5 of the walk, before a job is scheduled or held: the broker drops the oldest messages of
// a full SCHED, which would be jobs that nobody ends. Previous step: dispatcher/admission; next: dispatcher's
// schedule and hold.
package room

import (
	"context"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/gate"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

const (
	// age is how long the fill of SCHED is believed.
	age = time.Second
	// share is the share of SCHED that is used: several dispatchers fill it between two looks.
	share = 0.9
)

// Room is how much may still be scheduled. The fill is asked for now and then, and what is stored meanwhile is
// counted. While less is left than is used, a tenant may have no more there than is left: so whoever fills it
// leaves room for others, and they for others yet. Bytes of a tenant are taken for those of an average job. While
// the broker does not answer, everybody hears so who comes within age of the last question. Safe for concurrent use.
type Room struct {
	sched *relay.Log

	mu         sync.Mutex
	asked      time.Time // when the answer came, or none did
	fault      error     // why there was none
	most, used fill
	of         map[string]float64 // messages of tenants, as far as they asked
}

// fill is what is in a stream, or may be.
type fill struct{ bytes, messages float64 }

// New looks into sched, the stream SCHED.
func New(sched *relay.Log) *Room { return &Room{sched: sched} }

// Take takes the room of one job of size bytes. CodeOverloaded: there is none, or the tenant has enough. Other
// errors are CodeUnavailable: the broker does not answer.
func (r *Room) Take(ctx context.Context, tenant string, size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.asked) > age {
		r.look(ctx)
	}
	if r.fault != nil {
		return r.fault
	}
	left := fill{r.most.bytes - r.used.bytes, r.most.messages - r.used.messages}
	if left.bytes < float64(size) || left.messages < 1 {
		return overloaded("too many jobs are scheduled or held: retry later")
	}
	if left.bytes < r.used.bytes || left.messages < r.used.messages {
		n, known := r.of[tenant]
		if !known {
			count, err := r.sched.Count(ctx, subject.TenantSched(tenant))
			if err != nil {
				r.said(ctx, err)
				return err
			}
			n = float64(count)
		}
		r.of[tenant] = n
		if n > left.messages || n*r.used.bytes > left.bytes*r.used.messages {
			return overloaded("too many jobs of the tenant are scheduled or held: retry later")
		}
		r.of[tenant]++
	}
	r.used.bytes += float64(size)
	r.used.messages++
	return nil
}

// said notes whether the broker answered. That a caller left is no fault, and the next one asks again.
func (r *Room) said(ctx context.Context, err error) {
	if r.asked, r.fault = time.Now(), err; ctx.Err() != nil {
		r.asked = time.Time{}
	}
}

// look asks the broker how full SCHED is.
func (r *Room) look(ctx context.Context) {
	f, err := r.sched.Fill(ctx)
	if r.said(ctx, err); err != nil {
		return
	}
	r.of = map[string]float64{}
	r.most = fill{share * float64(f.MaxBytes), share * float64(f.MaxMessages)}
	r.used = fill{float64(f.Bytes), float64(f.Messages)}
}

func overloaded(message string) error {
	return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: gate.RetryAfterMS, Message: message}
}
