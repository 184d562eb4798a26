package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/integration/harness"
)

// Processes is a fleet of the pelton binary: `pelton up --workers 0` with the broker and the first
// dispatcher, a second `pelton dispatcher`, and workers, each a process that gets real signals.
type Processes struct {
	t       testing.TB
	model   []string // flags of every part: what is served
	engine  []string // more flags of the workers
	ports   [3]string
	broker  *harness.Process
	second  *harness.Process
	workers []*harness.Process
	names   []string
	born    int
	ctl     *nats.Conn

	mu    sync.Mutex
	beats map[string]contracts.Heartbeat // the last of each worker that ever ran
	thaws sync.WaitGroup
}

// NewProcesses starts a fleet of so many workers that ends with the test. model are the flags of every
// part, engine those of the workers.
func NewProcesses(t testing.TB, workers int, model, engine []string) *Processes {
	t.Helper()
	p := &Processes{t: t, model: model, engine: engine, beats: map[string]contracts.Heartbeat{}}
	for i := range p.ports {
		p.ports[i] = contractstest.Address(t)
	}
	p.broker = harness.StartParts(t, append([]string{"up", "--workers", "0", "--nats", p.ports[0], "--http", p.ports[1], "--data", t.TempDir()}, model...)...)
	p.desk()
	var err error
	if p.ctl, err = client.Connect(p.NATS()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.ctl.Close)
	if _, err := p.ctl.Subscribe(subject.AllHeartbeats, p.onBeat); err != nil {
		t.Fatal(err)
	}
	p.workers, p.names = make([]*harness.Process, workers), make([]string, workers)
	for i := range workers {
		p.hire(i)
	}
	return p
}

// desk starts the second dispatcher.
func (p *Processes) desk() {
	p.t.Helper()
	p.second = harness.StartParts(p.t, append([]string{"dispatcher", "--nats", p.NATS(), "--http", p.ports[2]}, p.model...)...)
}

func (p *Processes) hire(i int) {
	p.t.Helper()
	p.born++
	p.names[i] = fmt.Sprintf("w%d.%d", i, p.born)
	p.workers[i] = harness.Start(p.t, slices.Concat([]string{"worker", "--nats", p.NATS(), "--name", p.names[i], "--grace", "1s"}, p.model, p.engine)...)
}

func (p *Processes) onBeat(m *nats.Msg) {
	var h contracts.Heartbeat
	if err := contracts.Decode(m.Data, &h); err != nil {
		p.t.Errorf("heartbeat: %v", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name, _, _ := strings.Cut(h.Worker, "-") // the rest is random
	p.beats[name] = h
}

func (p *Processes) beat(name string) contracts.Heartbeat {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beats[name]
}

// NATS is the broker's URL.
func (p *Processes) NATS() string { return "nats://" + p.ports[0] }

// Doors are the URLs of the HTTP doors.
func (p *Processes) Doors() []string {
	return []string{"http://" + p.ports[1], "http://" + p.ports[2]}
}

// Strike does a fault, to a worker as soon as it says that it is in the middle of a stream, and tells
// whether it did. Of the dispatchers only the second one dies; the first one is in the broker's process.
func (p *Processes) Strike(ctx context.Context, f Fault) bool {
	p.t.Helper()
	if f.Kind == Dispatch {
		p.second.Kill()
		p.desk()
		return true
	}
	i := f.Which
	w, jobs := p.workers[i], p.running(ctx, p.names[i])
	switch f.Kind {
	case Kill:
		w.Kill()
		p.hire(i)
	case Drain:
		w.Stop()
		p.hire(i)
	case Freeze:
		w.Signal(syscall.SIGSTOP)
		p.thaws.Go(func() {
			time.Sleep(f.For)
			w.Signal(syscall.SIGCONT)
		})
	case Preempt:
		if len(jobs) > 0 {
			if err := p.ctl.Publish(subject.CtlPreempt(jobs[0].Tenant, jobs[0].Job), nil); err != nil {
				p.t.Error(err)
			}
		}
	}
	return len(jobs) > 0
}

// running waits a while until a worker's heartbeat shows tokens of a job that it runs.
func (p *Processes) running(ctx context.Context, name string) []contracts.RunningJob {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(5 * time.Second); ; {
		for _, j := range p.beat(name).Jobs {
			if j.Index > 0 {
				return p.beat(name).Jobs
			}
		}
		select {
		case <-tick.C:
		case <-late:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// lastWords is how long the last heartbeat of a process that has ended may be on its way.
const lastWords = 5 * time.Second

// Rest stops the workers and says what each had reserved in its last heartbeat.
func (p *Processes) Rest() map[string]int64 {
	p.t.Helper()
	p.thaws.Wait()
	for _, w := range p.workers {
		w.Stop()
	}
	reserved := map[string]int64{}
	for _, name := range p.names {
		h := p.beat(name)
		for late := time.Now().Add(lastWords); h.State != contracts.WorkerStopped && time.Now().Before(late); h = p.beat(name) {
			time.Sleep(time.Millisecond)
		}
		reserved[name] = h.KV.Reserved
		if h.State != contracts.WorkerStopped {
			p.t.Errorf("worker %s stopped with the last words %q", name, h.State)
		}
	}
	return reserved
}
