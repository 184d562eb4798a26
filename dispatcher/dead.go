package dispatcher

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

// retryNames bounds the ids that a retry without a name of its own tries.
const retryNames = 16

// ListDead tells the jobs of a tenant that were given up (all tenants' when it is empty), newest first,
// without their payload; a limit of 0 is 100, the most is 1,000.
func (d *Dispatcher) ListDead(ctx context.Context, tenant string, limit int) ([]contracts.Dead, error) {
	list, err := d.lists.Dead(ctx, tenant, limit)
	return list, d.shown("list of dead letters", tenant, "", err)
}

// DeadLetter is a job that was given up, with its payload. CodeNotFound: there is none under the id.
func (d *Dispatcher) DeadLetter(ctx context.Context, tenant, job string) (*contracts.Dead, error) {
	dead, _, err := d.deadLetter(ctx, tenant, job)
	return dead, d.shown("dead letter", tenant, job, err)
}

func (d *Dispatcher) deadLetter(ctx context.Context, tenant, job string) (*contracts.Dead, *relay.Message, error) {
	m, err := d.dead.Last(ctx, subject.Dead(tenant, job))
	if err != nil {
		return nil, nil, err
	}
	if m == nil {
		return nil, nil, contracts.Errorf(contracts.CodeNotFound, "job %q of tenant %q is not in the dead letters: only jobs that were given up keep their payload", job, tenant)
	}
	dead, err := decodeDead(m)
	return dead, m, err
}

func decodeDead(m *relay.Message) (*contracts.Dead, error) {
	dead := new(contracts.Dead)
	if err := contracts.Decode(m.Data, dead); err != nil {
		return nil, contracts.Errorf(contracts.CodeInternal, "dead letter %s is damaged: %v", m.Subject, err)
	}
	return dead, nil
}

// RemoveDead forgets a job that was given up.
func (d *Dispatcher) RemoveDead(ctx context.Context, tenant, job string) error {
	_, m, err := d.deadLetter(ctx, tenant, job)
	if err == nil {
		err = d.dead.Delete(ctx, m.Seq)
	}
	return d.shown("removal of a dead letter", tenant, job, err)
}

// RetryDead submits the job of a dead letter again, under the id that is given or else <job>.retry1 (the
// next free number), and then removes the letter. A deadline or a start that has passed is left out. The
// job is the one that was admitted, so it has the same seed. Repeating a retry is safe: until the letter
// is gone it finds the job that it submitted.
func (d *Dispatcher) RetryDead(ctx context.Context, tenant, job, id string) (*contracts.Answer, error) {
	answer, err := d.retryDead(ctx, tenant, job, id)
	return answer, d.shown("retry of a dead letter", tenant, job, err)
}

func (d *Dispatcher) retryDead(ctx context.Context, tenant, job, id string) (_ *contracts.Answer, err error) {
	if err := d.submits.Enter(tenant, 0); err != nil {
		return nil, err
	}
	defer d.submits.Leave(tenant, 0)
	defer d.rescue(tenant, job, &err)
	dead, m, err := d.deadLetter(ctx, tenant, job)
	if err != nil {
		return nil, err
	}
	a := new(contracts.Admitted)
	if err := contracts.Decode(dead.Admitted, a); err != nil {
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "the payload of job %q is damaged: it cannot be submitted again", job)
	}
	_, err = d.catalog.Find(a.Job.Model)
	if err = cmp.Or(err, d.drains(&a.Job)); err != nil {
		return nil, err
	}
	a.Job.Submitted = time.Now().UnixMilli()
	if a.Job.Deadline <= a.Job.Submitted {
		a.Job.Deadline = 0
	}
	if a.Job.NotBefore <= a.Job.Submitted {
		a.Job.NotBefore = 0
	}
	if err := d.renamed(ctx, a, job, id); err != nil {
		return nil, err
	}
	if err := d.dead.Delete(ctx, m.Seq); err != nil {
		d.log.Warn("dead letter of a job that is retried not removed", "tenant", tenant, "job", job, "error", err)
	}
	return admittedAnswer(a, admission.Verdict{Hold: d.later(a)}, false), nil
}

// renamed puts a into the queue under id, or under the first free one of the retries of job.
func (d *Dispatcher) renamed(ctx context.Context, a *contracts.Admitted, job, id string) (err error) {
	for try := range retryNames {
		if a.Job.ID = id; id == "" {
			a.Job.ID = retryName(job, try)
		}
		if len(a.Job.ID) > contracts.MaxIDLength {
			return contracts.Invalid("job", "the id of the retry has more than %d bytes: give a shorter one", contracts.MaxIDLength)
		}
		data, err := contracts.Encode(a)
		if err != nil {
			return err
		}
		_, err = d.enqueue(ctx, &admission.Decision{Admitted: a, Size: contracts.SizeFor(a.KVTokens), Data: data})
		if id != "" || contracts.AsError(err).Code != contracts.CodeConflict {
			return err
		}
	}
	return contracts.Errorf(contracts.CodeConflict, "the first %d retries of job %q are taken by other requests: give an id", retryNames, job)
}

// retryName is the name of the retry number try, from 0, of a job that may be a retry itself.
func retryName(job string, try int) string {
	base, number, found := strings.Cut(job, ".retry")
	n, err := strconv.Atoi(number)
	if !found || err != nil || n < 1 {
		base, n = job, 0
	}
	return fmt.Sprintf("%s.retry%d", base, n+1+try)
}
