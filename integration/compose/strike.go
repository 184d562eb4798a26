package compose

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/integration/chaos"
)

// What a fault does to the fleet.
const (
	KillWorker     chaos.Kind = "kill -9 of a worker" // of Versions[Which], of any when it is 0
	PauseWorker    chaos.Kind = "worker paused past its lease"
	KillDispatcher chaos.Kind = "kill -9 of a dispatcher"
	KillBroker     chaos.Kind = "kill -9 of the broker's leader"
	CutBroker      chaos.Kind = "the broker's leader off the network"
	LoseDisk       chaos.Kind = "the broker's leader loses its disk"
	Restart        chaos.Kind = "restart" // of the services of Restarts, one container at a time; Which says of which
	Scale          chaos.Kind = "scale"   // to Which workers
	Calm           chaos.Kind = "calm"    // no fault: the load beside the run's own ends
)

// Restarts are the services in the order in which an operator restarts them.
var Restarts = []string{"nats-1", "nats-2", "nats-3", "dispatcher-1", "dispatcher-2", "worker-sim", "worker", "gateway"}

// Target is the fleet as faults are done to it, with the load on one model.
type Target struct {
	*Fleet
	Model   string // whose workers are hit
	Service string // that runs them
	Calm    func() // ends other load
}

// Strike implements [chaos.Target].
func (f Target) Strike(ctx context.Context, fault chaos.Fault) bool {
	f.t.Helper()
	hit := ""
	var err error
	switch fault.Kind {
	case KillWorker:
		var among []string
		if fault.Which > 0 {
			among = f.of(Versions[fault.Which])
		}
		if hit, err = f.busy(ctx, f.Model, among...); err == nil {
			f.docker("kill", "-s", "KILL", hit)
			f.docker("start", hit)
		}
	case PauseWorker:
		if hit, err = f.busy(ctx, f.Model); err == nil {
			f.docker("pause", hit)
			f.sleep(ctx, fault.For)
			f.docker("unpause", hit)
		}
	case KillDispatcher:
		service := "dispatcher-" + strconv.Itoa(1+fault.Which)
		hit = f.containers(service)[0]
		f.docker("kill", "-s", "KILL", hit)
		f.docker("start", hit)
		f.healthy(service)
	case KillBroker, CutBroker, LoseDisk:
		service := f.leader(ctx)
		hit = f.containers(service)[0]
		f.hurtBroker(ctx, fault, service, hit)
	case Restart:
		hit = Restarts[fault.Which]
		for _, id := range f.containers(hit) {
			f.docker("restart", "-t", "60", id)
			f.healthy(hit)
		}
	case Calm:
		f.Calm()
	case Scale:
		hit = f.Service
		f.scale(fault.Which)
	case Join:
		hit = Versions[fault.Which]
		f.join(hit)
	case Upgrade:
		f.upgrade(ctx)
	}
	if err != nil {
		f.t.Errorf("%s: %v", fault.Kind, err)
	}
	f.t.Logf("%s: %s", fault.Kind, hit)
	return err == nil
}

func (f Target) hurtBroker(ctx context.Context, fault chaos.Fault, service, id string) {
	f.t.Helper()
	switch fault.Kind {
	case KillBroker:
		f.docker("kill", "-s", "KILL", id)
		f.docker("start", id)
	case LoseDisk:
		f.docker("kill", "-s", "KILL", id)
		f.compose("rm", "-f", service)
		f.docker("volume", "rm", project+"_"+service)
		f.compose("up", "-d", "--no-deps", "--no-build", service)
	default:
		network := project + "_fleet"
		f.docker("network", "disconnect", network, id)
		f.sleep(ctx, fault.For)
		f.docker("network", "connect", "--alias", service, network, id)
	}
	f.healthy(service)
}

// scale changes how many workers there are and waits until they are.
func (f Target) scale(n int) {
	f.t.Helper()
	f.compose("up", "-d", "--no-deps", "--no-recreate", "--no-build", "--scale", f.Service+"="+strconv.Itoa(n), f.Service)
	f.await(strconv.Itoa(n)+" workers of "+f.Model, func() bool { return len(f.workers(f.t.Context(), f.Model)) == n })
}

// streams is a way to ask about them, as the provisioner, until end.
func (f Target) streams() (js jetstream.JetStream, end func()) {
	f.t.Helper()
	nc, err := f.Keeper()
	if err != nil {
		f.t.Fatal(err)
	}
	if js, err = jetstream.New(nc); err != nil {
		f.t.Fatal(err)
	}
	return js, nc.Close
}

// leader is the service that leads the stream OUT, once there is one.
func (f Target) leader(ctx context.Context) (name string) {
	f.t.Helper()
	js, end := f.streams()
	defer end()
	f.await("a leader of stream OUT, which has 3 copies", func() bool {
		s, err := js.Stream(ctx, topology.StreamOut)
		if err != nil {
			return false
		}
		info := s.CachedInfo()
		if info.Cluster != nil {
			name = info.Cluster.Leader
		}
		return info.Config.Replicas == 3 && slices.Contains(Restarts, name)
	})
	return name
}

func (f Target) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Rest waits until no worker holds memory for a job, and says what each holds.
func (f Target) Rest() map[string]int64 {
	f.t.Helper()
	reserved := map[string]int64{}
	for late := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left := int64(0)
		clear(reserved)
		for _, w := range f.workers(f.t.Context(), f.Model) {
			reserved[w.Worker] = w.KV.Reserved
			left += w.KV.Reserved
		}
		if left == 0 && len(reserved) > 0 || time.Now().After(late) {
			return reserved
		}
	}
}

// errored are a service's log lines that report an error.
func (f *Fleet) errored(service string) string {
	f.t.Helper()
	var out []string
	for line := range strings.Lines(f.compose("logs", "--no-color", service)) {
		if strings.Contains(line, "panic") || strings.Contains(line, "fatal error") || strings.Contains(line, "DATA RACE") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
