package guard_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

// TestOwnObjectivesHurtNobody: a tenant whose jobs want their first token sooner than the fleet promises to
// their class must not have the class closed, or the ladder lowered, for others.
func TestOwnObjectivesHurtNobody(t *testing.T) {
	t.Parallel()
	for class, took := range map[contracts.Class]time.Duration{contracts.P1: 100 * time.Millisecond, contracts.P2: time.Minute} { // p1 is promised a second, p2 nothing
		p := newPost("a")
		for n := range 50 {
			j := job(class, fmt.Sprint(n))
			if err := p.Allow(j, time.Now()); err != nil {
				t.Errorf("%s: own job %d: %v", class, n, err)
				break
			}
			p.Waited("m", class, took, time.Microsecond)
			p.First("m", class, priority.Key{Tenant: j.Tenant, Job: j.ID}, took, time.Microsecond)
		}
		p.Tick()
		other := job(class, "other")
		other.Tenant = "somebody-else"
		if err := p.Allow(other, time.Now()); err != nil || len(p.changes) > 0 {
			t.Errorf("%s: the job of another tenant: %v; %d changes", class, err, len(p.changes))
		}
	}
}
