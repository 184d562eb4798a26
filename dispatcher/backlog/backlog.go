package backlog

import (
	"cmp"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/cost"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

const (
	// lookEvery is how long the workers' speed is believed.
	lookEvery = 50 * time.Millisecond
	// unknownInside is how many jobs of a class JOBS takes while the workers' speed is not known.
	unknownInside = 1000
	// insideSteps is how many steps' worth of prompts of a class and more urgent ones are let in for each
	// worker: two that the worker has taken already, and what it takes next while the dispatcher lets more in.
	insideSteps = 3
	// insideTime is how long what is let in keeps the workers busy at least: letting in takes its time too.
	insideTime = 50 * time.Millisecond
	// insideJobs is how many jobs of a class are let in for each worker in any case, so that none starves.
	insideJobs = 1
	// leastShare is the least share of the fleet that a held job may hope for from now on.
	leastShare = 0.3
)

// Backlog is what waits and runs, by model.
type Backlog struct {
	Days Days

	cfg  Settings
	live func() []contracts.Heartbeat

	awaited sync.Map // live subjects of the jobs without a first token -> their keys

	mu      sync.Mutex
	models  map[string]*model
	of      map[priority.Key]*model
	lengths *cost.Lengths
	ledger  *ledger
	arrived arrivals
}

// New returns an empty one. live lists the live workers.
func New(cfg Settings, live func() []contracts.Heartbeat) *Backlog {
	b := &Backlog{cfg: cfg, live: live, models: map[string]*model{}, of: map[priority.Key]*model{}, lengths: cost.NewLengths(),
		ledger: newLedger(cfg.Quotas), arrived: arrivals{}}
	b.Days = Days{b}
	return b
}

// model is the backlog of one model. The Backlog's lock guards it.
type model struct {
	name     string
	state    contracts.QueueState // what operators let it do; "" is open
	opened   time.Time            // when it was opened last
	queue    *priority.Queue
	speed    cost.Speed
	looked   time.Time
	use      [4]meter  // prompt tokens that each class brings
	output   float64   // mean tokens of an answer
	bias     [4]bias   // of each class: less urgent ones are overtaken
	margin   [4]margin // of their objectives
	predicts map[priority.Key]prediction
	peers    map[string]peer
}

type prediction struct {
	arrived time.Time
	raw     time.Duration // until the first token, before the bias; 0 is not known
	said    time.Duration // as it was told
	want    time.Duration // its objective; 0 is none
	class   contracts.Class
}

func (b *Backlog) model(name string) *model {
	m := b.models[name]
	if m == nil {
		m = &model{name: name, queue: priority.New(b.cfg.weight), output: 128, predicts: map[priority.Key]prediction{}, peers: map[string]peer{}}
		b.models[name] = m
	}
	return m
}

// Place decides what becomes of an admitted job and counts it in, so that the next one finds it there; a
// held job must be [Backlog.Stored] then, and of each it must be said whether it is [Backlog.Ours]. A
// job that is known, because it is submitted again, is not judged and not counted: known says so.
func (b *Backlog) Place(a *contracts.Admitted, now time.Time) (v admission.Verdict, known bool, err error) {
	j := &a.Job
	key := priority.Key{Tenant: j.Tenant, Job: j.ID}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of[key] != nil {
		return v, true, nil
	}
	m := b.model(j.Model)
	v = admission.Verdict{Class: j.Class}
	if j.Params.MaxTokens != nil {
		v.Tokens = *j.Params.MaxTokens
	}
	item := m.item(b.lengths, a)
	b.arrived.add(j.Model, item.Prompt, item.Output)
	due := chargeOf(a)
	if err = b.ledger.check(key, due, 1, now); err != nil {
		return v, false, err
	}
	if !b.cfg.FIFO && j.Params.MaxTokens != nil {
		if v, err = admission.Judge(b.cfg.Objectives, a, now, func(c contracts.Class) admission.Load { return b.load(m, a, c, now) }); err != nil {
			return v, false, err
		}
	}
	item.Class = v.Class
	want := b.cfg.Objectives.Of(a, v.Class)
	item.By = by(now, want)
	b.ledger.charge(key, due, now)
	m.predicts[key] = prediction{now, m.bias[rank(v.Class)].raw(v.First), v.First, want, v.Class}
	if m.state == contracts.QueuePaused { // whoever submits it now waits for as long as it takes
		item.By = time.Time{}
		delete(m.predicts, key)
	}
	m.track(b, key, true)
	if v.Hold {
		m.queue.Hold(item)
	} else {
		m.enter(item, now)
		m.queue.Enter(item)
	}
	return v, false, nil
}

// Later charges a job whose time is still to come; it counts among its tenant's jobs at once from then on. known is
// as [Backlog.Place] says it, and [Backlog.Ours] is to be told too.
func (b *Backlog) Later(a *contracts.Admitted, now time.Time) (known bool, err error) {
	key := priority.Key{Tenant: a.Job.Tenant, Job: a.Job.ID}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, charged := b.ledger.charges[key]; charged || b.of[key] != nil {
		return true, nil
	}
	due := chargeOf(a)
	if err := b.ledger.check(key, due, 0, now); err != nil {
		return false, err
	}
	b.ledger.charge(key, due, now)
	return false, nil
}

func (m *model) track(b *Backlog, k priority.Key, here bool) {
	b.of[k] = m
	b.ledger.enter(k, here)
	b.awaited.Store(subject.Live(k.Tenant, k.Job), k)
}

func (m *model) enter(i priority.Item, now time.Time) {
	m.use[rank(i.Class)].add(float64(i.Prompt), now)
}

func (m *model) item(lengths *cost.Lengths, a *contracts.Admitted) priority.Item {
	n, most := choices(a), int(m.output)
	if a.Job.Params.MaxTokens != nil {
		most = *a.Job.Params.MaxTokens
	}
	output, _ := lengths.Expect(a.Job.Model, a.Job.Tenant, most)
	return priority.Item{Key: priority.Key{Tenant: a.Job.Tenant, Job: a.Job.ID}, Class: a.Job.Class, Prompt: n * len(a.Tokens), Output: n * output}
}

// by is when the first token of a job that came at a time is wanted at the latest; zero is whenever.
func by(came time.Time, want time.Duration) time.Time {
	if want > 0 {
		return came.Add(want)
	}
	return time.Time{}
}

func choices(a *contracts.Admitted) int {
	if a.Job.Params.N == nil {
		return 1
	}
	return *a.Job.Params.N
}

// load is what the job would find in a class.
func (b *Backlog) load(m *model, a *contracts.Admitted, c contracts.Class, now time.Time) admission.Load {
	s := m.look(b.live, now)
	ahead := m.queue.Ahead(c, a.Job.Tenant)
	ahead = m.peersAhead(ahead, c, now)
	l := admission.Load{Ahead: ahead.Jobs,
		Hold: m.queue.Waits(c, a.Job.Tenant) || !m.room(c, m.queue.Inside(c))}
	if l.Known = s.Known && m.state != contracts.QueuePaused; !l.Known {
		return l
	}
	share := m.share(b.cfg.Reserve, c, now)
	way, factor := m.bias[rank(c)].fit()
	l.Margin = m.margin[rank(c)].part(c, now)
	wait := max(s.Feed(float64(ahead.Prompt), share), s.Drain(ahead.Jobs+1-s.Free, int(m.output)))
	l.Wait = time.Duration(float64(wait) * factor)
	l.Prefill = way + time.Duration(float64(s.Prefill(len(a.Tokens)))*factor)
	l.Token = s.Decode(2, ahead.Jobs > s.Workers)
	if a.Job.Params.IgnoreEOS {
		l.Output = *a.Job.Params.MaxTokens
	} else if n, known := b.lengths.Expect(m.name, a.Job.Tenant, *a.Job.Params.MaxTokens); known {
		l.Output = n
	}
	return l
}

// share is the part of the fleet that a class can count on: what more urgent ones use, or have reserved,
// is theirs.
func (m *model) share(reserve map[contracts.Class]float64, c contracts.Class, now time.Time) float64 {
	used, reserved := 0.0, 0.0
	for i := range rank(c) {
		used += m.use[i].rate(now) / m.speed.Prompt
		reserved += reserve[contracts.Classes[i]]
	}
	return max(0.05, 1-max(used, reserved))
}

// look is the workers' speed.
func (m *model) look(live func() []contracts.Heartbeat, now time.Time) cost.Speed {
	if now.Sub(m.looked) >= lookEvery || now.Before(m.looked) {
		m.looked = now
		m.speed = cost.SpeedOf(live(), m.name)
	}
	return m.speed
}

// room tells whether another job of a class may be let in. While the queue is paused they all wait where they are
// ordered.
func (m *model) room(c contracts.Class, inside priority.Work) bool {
	if m.state == contracts.QueuePaused {
		return false
	}
	if !m.speed.Known {
		return inside.Jobs < unknownInside
	}
	most := max(insideSteps*m.speed.Budget, int(m.speed.Prompt*insideTime.Seconds()))
	return inside.Jobs < insideJobs*m.speed.Workers+insideJobs || m.inside(c) < most
}

// inside is the prompt tokens that were let in of a class and more urgent ones.
func (m *model) inside(c contracts.Class) (prompt int) {
	for i := range rank(c) + 1 {
		prompt += m.queue.Inside(contracts.Classes[i]).Prompt
	}
	return prompt
}

// Stored says that the message of a held job is in SCHED.
func (b *Backlog) Stored(k priority.Key, seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.of[k]; m != nil {
		m.queue.Stored(k, seq)
	}
}

// Drop forgets a job that is gone.
func (b *Backlog) Drop(k priority.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger.end(k, 0, false)
	b.forget(k)
}

// Ours says whether a job that Place or Later counted in is in the queue by this dispatcher. It may have ended before
// that is known. One that is not ours, because another dispatcher was first or it could not be stored, is forgotten
// and costs nothing here.
func (b *Backlog) Ours(k priority.Key, ours bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger.know(k, ours)
	if !ours {
		b.forget(k)
	}
}

func (b *Backlog) forget(k priority.Key) {
	if m := b.of[k]; m != nil {
		m.queue.End(k)
		delete(m.predicts, k)
		delete(b.of, k)
		b.ledger.leave(k)
		b.awaited.Delete(subject.Live(k.Tenant, k.Job))
	}
}

// Adopt counts a job in, unless it is known, that another dispatcher, or this one before a restart, put into JOBS (seq 0)
// or into SCHED, where it has been stored since a time: its producer's clock may be another. here says that this
// dispatcher puts it into JOBS itself, and that nobody counted it in because its time was still to come.
func (b *Backlog) Adopt(a *contracts.Admitted, seq uint64, stored time.Time, here bool) {
	k := priority.Key{Tenant: a.Job.Tenant, Job: a.Job.ID}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of[k] != nil {
		return
	}
	m := b.model(a.Job.Model)
	m.track(b, k, here)
	i := m.item(b.lengths, a)
	i.Adopted, i.Seq = true, seq
	if seq > 0 {
		paused := m.state == contracts.QueuePaused || m.state == contracts.QueueDraining // now, or perhaps before it drained
		if !paused && stored.After(m.opened) {
			i.By = by(stored, b.cfg.Objectives.Of(a, a.Job.Class))
		}
		m.queue.Hold(i)
	} else {
		m.queue.Enter(i)
	}
}

// Lost is the next held job whose first token can only come after its objective: it is to be ended. It
// counts no more; one that cannot be ended is to be [Backlog.Drop]ped.
func (b *Backlog) Lost(now time.Time) (priority.Item, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.models {
		if !m.look(b.live, now).Known {
			continue
		}
		if i, ok := m.queue.Late(func(i priority.Item) bool {
			return now.Add(m.least(i, m.share(b.cfg.Reserve, i.Class, now))).After(i.By)
		}); ok {
			delete(m.predicts, i.Key)
			return i, true
		}
	}
	return priority.Item{}, false
}

// least is how long the first token of a job takes at least that is let in now: the step under way, what is
// inside before it, its own prompt.
func (m *model) least(i priority.Item, share float64) time.Duration {
	wait := m.speed.Feed(float64(m.inside(i.Class)), max(leastShare, share)) + m.speed.Prefill(i.Prompt)
	way, factor := m.bias[rank(i.Class)].fit()
	return way + time.Duration(float64(wait)*factor) + m.speed.Step()
}

// Next is the next held job that may go into JOBS; it counts as inside from now on. One that cannot is to
// be given [Backlog.Back].
func (b *Backlog) Next(now time.Time) (priority.Item, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.models {
		m.look(b.live, now)
		if i, ok := m.queue.Next(m.room); ok {
			m.enter(i, now)
			return i, true
		}
	}
	return priority.Item{}, false
}

// Back holds a job again that Next named.
func (b *Backlog) Back(k priority.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.of[k]; m != nil {
		m.queue.Back(k)
	}
}

// Knows tells whether the job is one that has not ended.
func (b *Backlog) Knows(k priority.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of[k] != nil
}

// Unheard lists the jobs of which only their end will be heard: those that have a first token, and those that were
// charged for and whose time is still to come, or came at another dispatcher.
func (b *Backlog) Unheard() []priority.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []priority.Key
	for k, m := range b.of {
		if m.queue.Runs(k) {
			keys = append(keys, k)
		}
	}
	for k := range b.ledger.charges {
		if b.of[k] == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// Held lists how many jobs of each class wait for their turn, as far as this dispatcher knows: its own, and those of
// others that have waited for a while.
func (b *Backlog) Held() (out []contracts.QueueDepth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, m := range b.models {
		for _, c := range contracts.Classes {
			if n := m.queue.Held(c).Jobs; n > 0 {
				out = append(out, contracts.QueueDepth{Model: name, Class: c, State: cmp.Or(m.state, contracts.QueueOpen), Held: n})
			}
		}
	}
	return out
}

// Inside lists the jobs that were let in and have no first token.
func (b *Backlog) Inside() []priority.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []priority.Key
	for _, m := range b.models {
		m.queue.Each(func(i priority.Item) { keys = append(keys, i.Key) })
	}
	return keys
}
