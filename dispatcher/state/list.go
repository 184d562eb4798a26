package state

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/gate"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

// Bounds of List.
const (
	listFirst   = 256     // records of OUT that are read first, from the newest back; then twice as many each time
	listWindow  = 4096    // most of them that are read at once
	listRecords = 1 << 17 // records of OUT that are read in all
	listQueue   = 1 << 13 // queued jobs that are read in all, from the oldest on
	// restShare is how many times as long as it reads a list rests: reading is work of the broker, which streams
	// need as well.
	restShare = 3
	// restMost is how long it rests at most: a broker that answers slowly is not busy with lists alone.
	restMost = 200 * time.Millisecond
)

// Lists makes lists of jobs, one at a time, and the tenants that ask take turns. Safe for concurrent use.
type Lists struct {
	logs  Logs
	asked gate.Keys[string] // one list of each tenant
	busy  chan struct{}     // full while a list is made, and for a while after
}

// NewLists reads logs.
func NewLists(logs Logs) *Lists { return &Lists{logs: logs, busy: make(chan struct{}, 1)} }

// turn waits until a list of tenant may be made, and returns what to call behind it.
func (ls *Lists) turn(ctx context.Context, tenant string) (done func(rest time.Duration), err error) {
	late := contracts.Errorf(contracts.CodeOverloaded, "others list jobs, and one list is made at a time: retry later")
	if ls.asked.Enter(ctx, tenant) != nil {
		return nil, late
	}
	select {
	case ls.busy <- struct{}{}:
	case <-ctx.Done():
		ls.asked.Leave(tenant)
		return nil, late
	}
	return func(rest time.Duration) {
		ls.asked.Leave(tenant)
		time.AfterFunc(rest, func() { <-ls.busy })
	}, nil
}

// List tells the jobs that f lets through, newest first; a Limit of 0 is 100, the most is 1,000. A job
// that waits and has records counts once, as its records say. It looks back over the newest 131,072
// records and the oldest 8,192 queued jobs, and rests for three times as long as each part took to read, 200 ms
// at most. Whoever asks meanwhile waits, for one list of each other tenant at most.
func (ls *Lists) List(ctx context.Context, f contracts.Filter) ([]contracts.Status, error) {
	done, err := ls.turn(ctx, f.Tenant)
	if err != nil {
		return nil, err
	}
	l := &lister{logs: ls.logs, tenant: "*", class: "*", found: map[string]contracts.Status{}, since: time.Now()}
	defer func() { done(l.pause()) }()
	f.Limit = limited(f.Limit)
	l.filter = f
	if f.Tenant != "" {
		l.tenant = subject.Escape(f.Tenant)
	}
	if f.Class != "" {
		if !f.Class.Valid() {
			return nil, contracts.Invalid("class", "class %s is not one of p0, p1, p2, p3", f.Class)
		}
		l.class = string(f.Class)
	}
	for _, read := range []func(context.Context) error{l.scheduled, l.queue, l.records} {
		if err := read(ctx); err != nil {
			return nil, err
		}
	}
	list := slices.AppendSeq(make([]contracts.Status, 0, len(l.found)), maps.Values(l.found))
	slices.SortFunc(list, func(a, b contracts.Status) int {
		return cmp.Or(cmp.Compare(b.Submitted, a.Submitted), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Job, b.Job))
	})
	return list[:min(len(list), f.Limit)], nil
}

// Dead tells the jobs of a tenant that were given up (all tenants' when it is empty), newest first, without their
// payload; a limit of 0 is 100, the most is 1,000. It waits for its turn, and rests, as List does.
func (ls *Lists) Dead(ctx context.Context, tenant string, limit int) ([]contracts.Dead, error) {
	done, err := ls.turn(ctx, tenant)
	if err != nil {
		return nil, err
	}
	l := &lister{since: time.Now()}
	defer func() { done(l.pause()) }()
	token := "*"
	if tenant != "" {
		token = subject.Escape(tenant)
	}
	var list []contracts.Dead
	err = ls.logs.Dead.Read(ctx, "dlq."+token+".*", 1, func(m *relay.Message) bool {
		var dead contracts.Dead
		if contracts.Decode(m.Data, &dead) == nil {
			dead.Admitted = nil
			list = append(list, dead)
		}
		if len(list) == 2*contracts.MaxList {
			list = slices.Delete(list, 0, contracts.MaxList)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(list)
	return list[:min(len(list), limited(limit))], nil
}

// limited is how many entries a list has at most for which limit were asked.
func limited(limit int) int {
	if limit <= 0 {
		return contracts.DefaultList
	}
	return min(limit, contracts.MaxList)
}

// Logs are the streams that are read.
type Logs struct{ Sched, Jobs, Out, Dead *relay.Log }

// lister is one List.
type lister struct {
	logs          Logs
	filter        contracts.Filter
	tenant, class string                      // as subject tokens
	found         map[string]contracts.Status // by subject in OUT
	since         time.Time                   // the part being read was begun
}

// pause is how long to rest after the part that was read last.
func (l *lister) pause() time.Duration { return min(restMost, restShare*time.Since(l.since)) }

// rest waits before the next part.
func (l *lister) rest(ctx context.Context) error {
	select {
	case <-time.After(l.pause()):
		l.since = time.Now()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *lister) keep(out string, s contracts.Status) {
	if (l.filter.State == "" || s.State == l.filter.State) && (l.filter.Class == "" || s.Class == l.filter.Class) {
		l.found[out] = s
	}
}

// queue lists the jobs that only the queue has.
func (l *lister) queue(ctx context.Context) error {
	if l.filter.State != "" && l.filter.State != contracts.StateQueued {
		return nil
	}
	return l.pages(ctx, l.logs.Jobs, "jobs.*."+l.class+".*."+l.tenant+".*")
}

// scheduled lists the jobs that wait for their time or their turn.
func (l *lister) scheduled(ctx context.Context) error {
	if l.filter.State != "" && l.filter.State != contracts.StateScheduled && l.filter.State != contracts.StateHeld {
		return nil
	}
	return l.pages(ctx, l.logs.Sched, "*."+l.tenant+".*")
}

// pages lists the jobs of a log that have no records yet, from the oldest on.
func (l *lister) pages(ctx context.Context, log *relay.Log, filter string) error {
	seq, most := uint64(1), len(l.found)+l.filter.Limit
	for read := 0; read < listQueue && len(l.found) < most; {
		if read > 0 {
			if err := l.rest(ctx); err != nil {
				return err
			}
		}
		page, err := log.Page(ctx, filter, seq, contracts.MaxList)
		if err != nil || len(page) == 0 {
			return err
		}
		read += len(page)
		seq = page[len(page)-1].Seq + 1
		if err := l.queuePage(ctx, page); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) queuePage(ctx context.Context, page []*relay.Message) error {
	waiting := make(map[string]contracts.Status, len(page))
	outs := make([]string, 0, len(page))
	for _, m := range page {
		var a *contracts.Admitted
		var decoded contracts.Admitted
		if contracts.Decode(m.Data, &decoded) == nil {
			a = &decoded
		}
		s, err := Queued(m, a)
		if err != nil {
			continue // not a job's subject: nothing of ours wrote it
		}
		out := subject.Out(s.Tenant, s.Job)
		waiting[out] = s
		outs = append(outs, out)
	}
	started, err := l.logs.Out.LastOf(ctx, outs)
	if err != nil {
		return err
	}
	for out, s := range waiting {
		if started[out] == nil {
			l.keep(out, s)
		}
	}
	return nil
}

// records lists the jobs that OUT has records of, from the newest record back, window by window.
func (l *lister) records(ctx context.Context) error {
	if s := l.filter.State; s == contracts.StateQueued || s == contracts.StateScheduled || s == contracts.StateHeld {
		return nil
	}
	first, err := l.logs.Out.Next(ctx, ">", 1)
	if err != nil || first == nil {
		return err
	}
	last, err := l.logs.Out.Last(ctx, ">")
	if err != nil || last == nil {
		return err
	}
	oldest, end := first.Seq, last.Seq+1
	seen := map[string]bool{}
	most := len(l.found) + l.filter.Limit // the newest of both may be the records'
	window := uint64(listFirst)
	for read := uint64(0); end > oldest && read < listRecords && len(l.found) < most; window = min(2*window, listWindow) {
		if read > 0 {
			if err := l.rest(ctx); err != nil {
				return err
			}
		}
		begin := max(oldest, 1)
		if end > begin+window {
			begin = end - window
		}
		if err := l.window(ctx, begin, end, seen); err != nil {
			return err
		}
		read += window
		end = begin
	}
	return nil
}

// window reads the records in [begin, end) and keeps the jobs that no later window had. It reads those of all
// tenants: for a filter with wildcards the broker would search all subjects again for each message.
func (l *lister) window(ctx context.Context, begin, end uint64, seen map[string]bool) error {
	last := map[string]*relay.Message{}
	prefix := "out."
	if l.tenant != "*" {
		prefix += l.tenant + "."
	}
	err := l.logs.Out.Read(ctx, ">", begin, func(m *relay.Message) bool {
		if m.Seq < end && !seen[m.Subject] && strings.HasPrefix(m.Subject, prefix) {
			last[m.Subject] = m
		}
		return m.Seq+1 < end
	})
	if err != nil {
		return err
	}
	for out, m := range last {
		seen[out] = true
		tenant, job, err := subject.ParseJobRef("out", out)
		if err != nil {
			continue
		}
		claim, record, err := ClaimOf(ctx, l.logs.Out, m)
		if err != nil {
			return err
		}
		l.keep(out, contracts.StatusOf(tenant, job, claim, record))
	}
	return nil
}
