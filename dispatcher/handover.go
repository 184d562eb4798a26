package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/fleet"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

const (
	// handOverAtOnce is how many jobs of dead workers are handed over at the same time.
	handOverAtOnce = 8
	// heldPages is how many pages of the queue one search for held jobs reads.
	heldPages = 8
	// heldPage is how many jobs a page has.
	heldPage = 1000
)

// onHolder hears every claim, release and final record of the fleet.
func (d *Dispatcher) onHolder(live string, data []byte) {
	var c contracts.Chunk
	tenant, job, err := subject.ParseJobRef("live", live)
	if err == nil && contracts.Decode(data, &c) == nil {
		d.onRecord(tenant, job, &c)
	}
}

// onRecord notes who holds a job, or that it ended.
func (d *Dispatcher) onRecord(tenant, job string, c *contracts.Chunk) {
	key, now := priority.Key{Tenant: tenant, Job: job}, time.Now()
	if d.guard.Record(subject.Live(tenant, job), key, c, now) {
		if w, placed := d.backlog.Taken(key, now); placed {
			d.guard.Waited(w.Model, w.Class, w.Actual, w.Want)
		}
	}
	d.fleet.Record(tenant, job, c)
	d.urgent.Record(tenant, job, c)
	if c.Final() {
		d.onFinal(tenant, job, c)
	}
}

// restWorker tells a worker to take no jobs for a while.
func (d *Dispatcher) restWorker(worker string) {
	err := d.cfg.Conn.Publish(subject.CtlRest(worker), nil)
	d.log.Warn("worker told to rest", "worker", worker, "error", err)
	d.trace.Rested(worker)
}

// onFinal takes a job out of the backlog.
func (d *Dispatcher) onFinal(tenant, job string, c *contracts.Chunk) {
	model, ran := "", false
	if c.Claim != nil {
		model, ran = c.Claim.Model, c.Claim.Attempt > 0
	}
	d.deadlines.Remove(tenant, job)
	d.backlog.Ended(priority.Key{Tenant: tenant, Job: job}, model, c.Usage.CompletionTokens, ran, c.Code == "" && model != "")
	d.turns.Next()
}

// onPiece hears every piece of every stream: the first one of a job makes room for another.
func (d *Dispatcher) onPiece(live string) {
	now := time.Now()
	d.guard.Piece(live, now)
	p, news := d.backlog.First(live, now)
	if !news {
		return
	}
	if p.Model != "" {
		d.guard.First(p.Model, p.Class, p.Key, p.Actual, p.Want)
	}
	d.turns.Next()
	if p.Predicted > 0 {
		d.trace.Predicted(p.Model, p.Class, p.Predicted, p.Actual)
	}
}

// probe asks the broker for an answer again and again, so that its silence is not taken for the
// workers'.
func (d *Dispatcher) probe(ctx context.Context) {
	for range tick.Now(ctx, d.fleet.ProbeEvery()) {
		once, cancel := context.WithTimeout(ctx, 2*d.fleet.ProbeEvery())
		if _, err := d.out.Last(once, subject.Out("-", "probe")); err == nil {
			d.fleet.Answered()
		}
		cancel()
	}
}

// handOvers gives the jobs of dead workers back to the queue until ctx ends, a few at a time.
func (d *Dispatcher) handOvers(ctx context.Context) {
	places := make(chan struct{}, handOverAtOnce)
	for range tick.Now(ctx, fleet.HandOverEvery) {
		d.fleet.Ask(ctx, d.cfg.Conn)
		var work sync.WaitGroup
		for _, h := range d.fleet.Lost() {
			places <- struct{}{} // given back by work that ends with ctx
			work.Go(func() {
				defer func() { <-places }()
				if err := d.handOver(ctx, h); err == nil {
					d.fleet.Forget(h)
				} else if ctx.Err() == nil {
					d.say("job of a dead worker not handed over, trying again", "tenant", h.Tenant, "job", h.Job, "worker", h.Worker, "error", err)
				}
			})
		}
		work.Wait()
	}
}

// handOver gives a job back to the queue that a dead worker holds. The release record `lost` is the
// lock: it shuts the worker out, should it wake up, and only who wrote it says NAK. When the job turned
// out not to be that worker's any more, nothing is done.
func (d *Dispatcher) handOver(ctx context.Context, h fleet.Holding) error {
	for range settleTries {
		a, queued, err := d.queued(ctx, h.Tenant, h.Job)
		if queued == nil || err != nil {
			return err
		}
		r, err := state.SoFar(ctx, d.out, h.Tenant, h.Job)
		if err != nil {
			return err
		}
		c := lostRecord(a, h, r)
		if c == nil || !d.fleet.Dead(h.Worker) {
			return nil
		}
		err = d.end(ctx, subject.Out(h.Tenant, h.Job), c, r)
		if errors.Is(err, errRaced) {
			continue
		}
		if err == nil {
			err = d.nak(ctx, queued)
		}
		if err != nil {
			return err
		}
		d.log.Warn("job of a dead worker handed over", "tenant", h.Tenant, "job", h.Job, "worker", h.Worker, "fence", c.Fence)
		d.trace.HandedOver(h.Tenant, h.Job, h.Worker)
		return nil
	}
	return errRaced
}

// lostRecord is the release of a dead holder, nil when the job is not h.Worker's. A job without records
// was taken but not claimed yet.
func lostRecord(a *contracts.Admitted, h fleet.Holding, r state.Records) *contracts.Chunk {
	c := &contracts.Chunk{V: contracts.Version, Job: h.Job, Fence: r.Fence + 1, Index: r.Tokens[0]}
	switch {
	case r.Final != nil:
		return nil
	case r.Claim != nil && r.Claim.Worker == h.Worker && r.Claim.Released == "":
		claim := *r.Claim
		c.Claim = &claim
	case r.Last == nil && a != nil:
		c.Claim = &contracts.Claim{Worker: h.Worker, Attempt: 1, Model: a.Job.Model, Class: a.Job.Class, Submitted: a.Job.Submitted, Digest: a.Digest}
	default:
		return nil
	}
	c.Claim.Released = contracts.ReleaseLost
	return c
}

// nak makes the queue deliver a held job again, now. The broker goes by the stream's sequence; the
// delivery must only be one that the consumer has made.
func (d *Dispatcher) nak(ctx context.Context, queued *relay.Message) error {
	ref, err := subject.ParseJob(queued.Subject)
	if err != nil {
		return err
	}
	once, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	name := subject.Consumer(ref.Model, ref.Class, ref.Size)
	consumer, err := d.js.Consumer(once, topology.StreamJobs, name)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", name, err)
	}
	ack := strings.Join([]string{"$JS", "ACK", topology.StreamJobs, name, "1", fmt.Sprint(queued.Seq),
		fmt.Sprint(consumer.CachedInfo().Delivered.Consumer), fmt.Sprint(time.Now().UnixNano()), "0"}, ".")
	if _, err := d.cfg.Conn.RequestWithContext(once, ack, []byte("-NAK")); err != nil {
		return fmt.Errorf("hand job back: %w", err)
	}
	return d.cfg.Conn.Publish(subject.Bell(ref.Model), subject.Ring(ref.Class, ref.Size))
}

// findHeld looks through the queue for jobs that a worker holds which this dispatcher may never have
// heard of: at once and then every Rescan, a few pages at a time, round and round.
func (d *Dispatcher) findHeld(ctx context.Context) {
	seq := uint64(1)
	for range tick.Now(ctx, d.cfg.Rescan) {
		var err error
		if seq, err = d.noteHeld(ctx, seq); err != nil && ctx.Err() == nil {
			d.log.Warn("queue not searched for held jobs", "error", err)
		}
	}
}

// noteHeld notes the holders of the jobs in the next pages of the queue and returns where to go on.
func (d *Dispatcher) noteHeld(ctx context.Context, seq uint64) (next uint64, err error) {
	for range heldPages {
		page, err := d.jobs.Page(ctx, subject.AllJobs, seq, heldPage)
		if err != nil || len(page) == 0 {
			return 1, err
		}
		seq = page[len(page)-1].Seq + 1
		refs := map[string]subject.Job{}
		var outs []string
		for _, m := range page {
			if ref, err := subject.ParseJob(m.Subject); err == nil {
				out := subject.Out(ref.Tenant, ref.Job)
				refs[out], outs = ref, append(outs, out)
			}
		}
		started, err := d.out.LastOf(ctx, outs)
		if err != nil {
			return seq, err
		}
		for out, m := range started {
			if claim, record, err := state.ClaimOf(ctx, d.out, m); err == nil && claim != nil && !record.Final() {
				d.fleet.Record(refs[out].Tenant, refs[out].Job, &contracts.Chunk{Claim: claim})
			}
		}
	}
	return seq, nil
}
