package backlog

import (
	"math"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// Prediction is how a prediction of a first token came out.
type Prediction struct {
	Model     string
	Class     contracts.Class
	Key       priority.Key
	Predicted time.Duration // 0 is none
	Actual    time.Duration
	Want      time.Duration // the objective; 0 is none
}

// First says that a piece of a job was heard on its live subject. news tells that it was the first one: then
// others may be let in. p is how the prediction came out, the zero value without one.
func (b *Backlog) First(live string, now time.Time) (p Prediction, news bool) {
	key, awaited := b.awaited.LoadAndDelete(live)
	if !awaited {
		return p, false
	}
	k := key.(priority.Key)
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.of[k]
	if m == nil || !m.queue.Start(k) {
		return p, false
	}
	was, told := m.predicts[k]
	if !told {
		return p, true
	}
	delete(m.predicts, k)
	p = Prediction{m.name, was.class, k, was.said, now.Sub(was.arrived), was.want}
	m.bias[rank(was.class)].learn(was.raw, p.Actual, now)
	if was.want >= b.cfg.Objectives[was.class] { // one that a tenant asked for, and nobody promised, moves nobody's margin
		m.margin[rank(was.class)].learn(p, now)
	}
	return p, true
}

// Taken says that a worker took a job that this dispatcher placed: w is how long it had waited, of what it may.
func (b *Backlog) Taken(k priority.Key, now time.Time) (w Prediction, placed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.of[k]
	if m == nil {
		return w, false
	}
	was, placed := m.predicts[k]
	return Prediction{m.name, was.class, k, was.said, now.Sub(was.arrived), was.want}, placed
}

// Ended says that the job ended, with how many tokens. ran tells that a worker had it, so that its prompt is
// paid for also when the answer is empty; learn that answers of the tenant are as long as this one: that it was
// not cut short.
func (b *Backlog) Ended(k priority.Key, model string, tokens int, ran, learn bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger.end(k, tokens, ran)
	if learn && tokens > 0 {
		b.lengths.Observe(model, k.Tenant, tokens)
		if m := b.models[model]; m != nil {
			m.output += 0.05 * (float64(tokens) - m.output)
		}
	}
	b.forget(k)
}

// bias is by how much first tokens come later than the model of the device says: a time that each takes on its
// way, and a factor. Both are fitted to what came, the latest most, and begin as none.
type bias struct {
	n, x, xx, u, xu float64 // sums of 1, predicted, its square, what it was late by, their product
	at              time.Time
}

const (
	biasPriorWay    = 1    // firsts that count as if nothing were lost on the way, to begin with
	biasPriorFactor = 0.02 // seconds squared that count as predicted well
	biasKeeps       = 0.98 // what a prediction leaves of the weight of those before
	biasLasts       = 10 * time.Second
	biasMostWay     = 0.1  // seconds: more is waiting
	biasMost        = 4.0  // more is not a matter of calibration
	biasCut         = 20.0 // one that is so many times too late says nothing: its worker died, for example
)

func (b *bias) learn(predicted, actual time.Duration, now time.Time) {
	if predicted <= 0 || actual <= 0 || actual.Seconds() > biasCut*max(0.05, predicted.Seconds()) {
		return
	}
	x, u := predicted.Seconds(), (actual - predicted).Seconds()
	keep := biasKeeps * left(b.at, now, biasLasts)
	b.n, b.x, b.xx, b.u, b.xu, b.at = b.n*keep+1, b.x*keep+x, b.xx*keep+x*x, b.u*keep+u, b.xu*keep+x*u, now
}

// fit is the least squares, held to what it begins with as the priors say.
func (b *bias) fit() (way time.Duration, factor float64) {
	n, xx := b.n+biasPriorWay, b.xx+biasPriorFactor
	// The divisor is above 0: the square of a sum is at most n times the sum of squares.
	lost := min(biasMostWay, max(0, (b.u*xx-b.x*b.xu)/(n*xx-b.x*b.x)))
	factor = 1 + (b.xu-b.x*lost)/xx
	return time.Duration(lost * float64(time.Second)), min(biasMost, max(1/biasMost, factor))
}

// raw is the prediction of which said was made; 0 is not known.
func (b *bias) raw(said time.Duration) time.Duration {
	way, factor := b.fit()
	return time.Duration(float64(max(0, said-way)) / factor)
}

// margin is the part of an objective that is left free, so that all but a few of those first tokens come in
// time that are predicted to. What was learned is forgotten within seconds: it is true of the present load.
type margin struct {
	learned float64 // beyond what it begins with
	at      time.Time
}

const (
	marginFirst = 0.06 // to begin with, for each class: more urgent jobs that come later go first
	marginMost  = 0.2  // for each class: what is left must let some in, and the urgent are rather late now and then than refused
	marginStep  = 0.03 // by how much one first token moves it
	marginLate  = 0.05 // the few
	marginLasts = 3 * time.Second
)

func (m *margin) learn(p Prediction, now time.Time) {
	if p.Want <= 0 || p.Predicted <= 0 {
		return
	}
	classes := float64(1 + rank(p.Class))
	part := m.part(p.Class, now)
	if float64(p.Actual-p.Predicted) > part*float64(p.Want) {
		part += marginStep * (1 - marginLate)
	} else {
		part -= marginStep * marginLate
	}
	m.learned, m.at = min(marginMost*classes, max(marginFirst*classes, part))-marginFirst*classes, now
}

func (m *margin) part(c contracts.Class, now time.Time) float64 {
	return marginFirst*float64(1+rank(c)) + m.learned*left(m.at, now, marginLasts)
}

// meter is a rate over about the last two seconds.
type meter struct {
	level float64
	at    time.Time
}

const meterSpan = 2 * time.Second

func (m *meter) add(n float64, now time.Time) {
	m.level = m.rate(now) + n/meterSpan.Seconds()
	m.at = now
}

func (m *meter) rate(now time.Time) float64 {
	return m.level * left(m.at, now, meterSpan)
}

// left is what remains at a time of the weight of something that was learned before and fades over span.
func left(then, now time.Time, span time.Duration) float64 {
	return math.Exp(-max(0, now.Sub(then).Seconds()) / span.Seconds())
}

func rank(c contracts.Class) int { return max(0, slices.Index(contracts.Classes, c)) }

// peerLasts is how long what another dispatcher said of its backlog counts.
const peerLasts = time.Second

// peer is what another dispatcher has waiting.
type peer struct {
	at      time.Time
	waiting [4]priority.Work // by class, inside and held
}

// Share is what a dispatcher tells the others.
type Share struct {
	Waiting map[string][4]priority.Work // by model, then class
	Spent   map[string]Spent            // by tenant, since it last said so
	Has     map[string]Has              // by tenant, now
	Day     int64                       // of Spent.Used and Has.Tokens, see [quota.Day]
}

// Spent is what a tenant was charged with, and what its jobs that ended used of the day in all.
type Spent struct{ Requests, Tokens, Used float64 }

// Some tells whether s says anything.
func (s Share) Some() bool { return len(s.Waiting)+len(s.Spent)+len(s.Has) > 0 }

// Quota is what a tenant's requests and tokens of a minute allow now.
func (b *Backlog) Quota(tenant string, now time.Time) (requests, tokens quota.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ledger.quotas.States(tenant, now)
}

// Share is what this dispatcher has waiting, and what its tenants spent since the last call.
func (b *Backlog) Share() Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := Share{Waiting: map[string][4]priority.Work{}}
	b.ledger.share(&out)
	for name, m := range b.models {
		var w [4]priority.Work
		some := false
		for i, c := range contracts.Classes {
			in, held := m.queue.Inside(c), m.queue.Held(c)
			w[i] = priority.Work{Jobs: in.Jobs + held.Jobs, Prompt: in.Prompt + held.Prompt}
			some = some || w[i].Jobs > 0
		}
		if some {
			out.Waiting[name] = w
		}
	}
	return out
}

// Peer takes what another dispatcher says.
func (b *Backlog) Peer(name string, s Share, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.models {
		delete(m.peers, name)
	}
	b.ledger.hear(name, s, now)
	for of, w := range s.Waiting {
		b.model(of).peers[name] = peer{now, w}
	}
}

func (m *model) peersAhead(w priority.Work, c contracts.Class, now time.Time) priority.Work {
	for _, p := range m.peers {
		if now.Sub(p.at) > peerLasts {
			continue
		}
		for i := range rank(c) + 1 {
			w.Jobs, w.Prompt = w.Jobs+p.waiting[i].Jobs, w.Prompt+p.waiting[i].Prompt
		}
	}
	return w
}
