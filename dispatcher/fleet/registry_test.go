package fleet_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/cost"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

var zero = time.Unix(1_000_000, 0)

func beat(worker string, started, sent int64, state contracts.WorkerState) contracts.Heartbeat {
	return contracts.Heartbeat{V: 1, Worker: worker, Started: started, Sent: sent, State: state, Model: "m", Slots: int(sent),
		KV: contracts.KVMemory{Total: 100 * sent, PerToken: sent}, ContextLength: 10 * int(sent), Jobs: []contracts.RunningJob{{Job: fmt.Sprint("j", sent), Tenant: "t"}}}
}

// Numbers that cannot be, of a broken worker, make no sum over the fleet overflow, and no need of a job.
func TestImpossibleNumbers(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{math.MaxInt64, math.MinInt64, -1} {
		r := fleet.NewRegistry(2 * time.Second)
		bad := contracts.Heartbeat{Worker: "bad", State: contracts.WorkerReady, Model: "m", Slots: int(n), ContextLength: int(n),
			KV:   contracts.KVMemory{Total: n, Reserved: n, Used: n, PerToken: n, Block: int(n)},
			Jobs: []contracts.RunningJob{{Job: "j", Tenant: "t", Index: 1, KV: n, Slots: int(n)}}}
		r.Observe(bad, zero)
		r.Observe(beat("good", 1, 4, contracts.WorkerReady), zero)
		if s := cost.SpeedOf(r.Live(zero), "m"); s.Slots < 4 || s.Free < 0 || s.Rows < 0 {
			t.Errorf("with %d: %d slots, %d free, %d rows", n, s.Slots, s.Free, s.Rows)
		}
		o := r.Offer("m", zero)
		if need := 16 * (1<<20 + int64(o.KVBlock)) * o.KVPerToken; need < 0 || o.KVBytes < 400 || o.Slots < 4 || o.ContextLength < 40 {
			t.Errorf("with %d: offer %+v, need %d", n, o, need)
		}
	}
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	at := func(s float64) time.Time { return zero.Add(time.Duration(s * float64(time.Second))) }
	for _, c := range []struct {
		name  string
		beats []contracts.Heartbeat // one a second, from 0
		now   float64
		alive bool
		slots int // of the offer
	}{
		{"nobody", nil, 0, false, 0},
		{"fresh", []contracts.Heartbeat{beat("w", 1, 3, "ready")}, 1, true, 3},
		{"silent", []contracts.Heartbeat{beat("w", 1, 3, "ready")}, 5, false, 0},
		{"draining", []contracts.Heartbeat{beat("w", 1, 3, "draining")}, 1, true, 0},
		{"stopped", []contracts.Heartbeat{beat("w", 1, 3, "ready"), beat("w", 1, 4, "stopped")}, 1, false, 0},
		{"late one ignored", []contracts.Heartbeat{beat("w", 1, 3, "ready"), beat("w", 1, 2, "stopped")}, 1, true, 3},
		{"restarted, clock went back", []contracts.Heartbeat{beat("w", 1, 9, "ready"), beat("w", 2, 1, "ready")}, 1, true, 1},
		{"from the life before", []contracts.Heartbeat{beat("w", 2, 1, "ready"), beat("w", 1, 9, "stopped")}, 1, true, 1},
		{"nameless", []contracts.Heartbeat{beat("", 1, 1, "ready")}, 0, false, 0},
	} {
		r := fleet.NewRegistry(5 * time.Second)
		for i, b := range c.beats {
			r.Observe(b, at(float64(i)))
		}
		now := at(c.now)
		if got := len(r.Live(now)) == 1; got != c.alive {
			t.Errorf("%s: alive %v, want %v", c.name, got, c.alive)
		}
		if o := r.Offer("m", now); o.Slots != c.slots || o.KVBytes != int64(100*c.slots) {
			t.Errorf("%s: offer %+v, want %d slots", c.name, o, c.slots)
		}
		if got := r.Holds("t", fmt.Sprint("j", c.slots), now); got != (c.slots > 0) {
			t.Errorf("%s: holds %v", c.name, got)
		}
	}
}

// TestRegistryProperties: for any heartbeats, those live are exactly those heard of within the TTL and
// not stopped, by name, and Expire changes nothing that can be seen.
func TestRegistryProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const ttl = 5 * time.Second
		r := fleet.NewRegistry(ttl)
		last := map[string]time.Time{}
		now := zero
		for i := range rapid.IntRange(0, 40).Draw(t, "beats") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "gap")) * time.Millisecond)
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "worker")
			stopped := rapid.IntRange(0, 5).Draw(t, "stopped") == 0
			state := contracts.WorkerReady
			if stopped {
				state = contracts.WorkerStopped
				delete(last, name)
			} else {
				last[name] = now
			}
			r.Observe(beat(name, 1, int64(i+1), state), now)
			if rapid.Bool().Draw(t, "expire") {
				r.Expire(now)
			}
		}
		want := ""
		for _, name := range []string{"a", "b", "c"} {
			if at, ok := last[name]; ok && now.Sub(at) < ttl {
				want += name
			}
		}
		got := ""
		for _, h := range r.Live(now) {
			got += h.Worker
		}
		if got != want {
			t.Fatalf("live %q, want %q", got, want)
		}
	})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	w := fleet.NewWatch(2 * time.Second) // what was seen must still be live when the test looks
	if w.Dead("w") || !w.Holds("t", "j") {
		t.Error("a watch that does not listen is sure of something")
	}
	sub, err := w.Subscribe(nc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	send := func(to string, data []byte) {
		t.Helper()
		if err := nc.Publish(to, data); err != nil {
			t.Fatal(err)
		}
	}
	lie := beat("w", 1, 9, contracts.WorkerReady)
	send(subject.Heartbeat("w"), []byte("not msgpack"))
	send(subject.Heartbeat("another"), encoded(t, lie)) // says that it is w
	b := beat("w", 1, 2, contracts.WorkerReady)
	within(t, "a heartbeat is seen", func() bool { // again when the machine stood still until the last one was old
		send(subject.Heartbeat("w"), encoded(t, b))
		live := w.Live()
		if len(live) == 1 && (live[0].Worker != "w" || live[0].Slots != b.Slots) {
			t.Fatalf("live %+v", live)
		}
		return len(live) == 1 && w.Offer("m").Ready == 1
	})
	if w.Dead("w") {
		t.Error("dead although no probe was answered")
	}
	within(t, "a silent worker dies", func() bool {
		w.Answered()
		return w.Dead("w")
	})
	w.Restart()
	if w.Dead("w") || !w.Holds("t", "j") {
		t.Error("sure of something right after a restart")
	}
}

// TestAsk: of two workers that were slow lately and are silent, the one that is not connected is dead at
// once. Both are dead after five TTLs.
func TestAsk(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	w := fleet.NewWatch(0)
	sub, err := w.Subscribe(nc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	there, err := nc.Subscribe(subject.CtlRest("there"), func(*nats.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = there.Unsubscribe() }()
	const longest = 5 * fleet.DefaultTTL // after it both are dead
	beats := func() (seen bool) {
		t.Helper()
		sent := time.Now()
		for _, name := range []string{"there", "gone"} {
			if err := nc.Publish(subject.Heartbeat(name), encoded(t, beat(name, 1, sent.UnixMilli(), contracts.WorkerReady))); err != nil {
				t.Fatal(err)
			}
		}
		for ; !seen && time.Since(sent) < fleet.DefaultTTL; time.Sleep(time.Millisecond) {
			live := w.Live()
			seen = len(live) == 2 && live[0].Sent >= sent.UnixMilli() && live[1].Sent >= sent.UnixMilli()
		}
		return seen
	}
	within(t, "a silent worker that is not connected dies", func() bool { // again when the machine stood still in between
		if !beats() {
			return false
		}
		time.Sleep(fleet.DefaultTTL + 100*time.Millisecond)
		last := time.Now()
		if !beats() {
			return false
		}
		for !w.Dead("gone") && time.Since(last) < longest {
			w.Answered()
			w.Ask(t.Context(), nc)
			time.Sleep(10 * time.Millisecond)
		}
		there := w.Dead("there")
		if time.Since(last) >= longest {
			return false
		}
		if there {
			t.Error("a silent worker that is connected is dead as well")
		}
		return true
	})
}

func encoded(t *testing.T, h contracts.Heartbeat) []byte {
	t.Helper()
	data, err := contracts.Encode(&h)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// within waits for what comes a while after the machine runs again: a watch is sure of nothing while it stands still.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 2 minutes until %s", what)
		}
	}
}
