package fleet_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

// TestDrainAnswers: a worker that lives is told how long its jobs may go on, and what it says then is the answer; one
// that nobody knows is not told, and one that goes on as before is not said to drain.
func TestDrainAnswers(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	w := fleet.NewWatch(2 * time.Second)
	heard, err := w.Subscribe(nc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = heard.Unsubscribe() }()
	say := func(name string, state contracts.WorkerState) {
		b := beat(name, 1, time.Now().UnixMilli(), state)
		data, err := contracts.Encode(&b)
		if err == nil {
			err = nc.Publish(subject.Heartbeat(name), data)
		}
		if err != nil {
			t.Error(err)
		}
	}
	told := make(chan string, 4)
	sub, err := nc.Subscribe(subject.AllCtlDrains, func(m *nats.Msg) {
		told <- m.Subject + " " + string(m.Data)
		switch m.Subject {
		case subject.CtlDrain("busy"):
			say("busy", contracts.WorkerDraining)
		case subject.CtlDrain("idle.1"):
			say("idle.1", contracts.WorkerStopped)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for name, want := range map[string]struct {
		state contracts.WorkerState
		code  contracts.Code
		told  string
	}{
		"busy":   {state: contracts.WorkerDraining, told: "ctl.drain.busy 1500"},
		"idle.1": {state: contracts.WorkerStopped, told: "ctl.drain.idle%2E1 1500"},
		"deaf":   {code: contracts.CodeUnavailable, told: "ctl.drain.deaf 1500"},
		"nobody": {code: contracts.CodeNotFound},
	} {
		stop := make(chan struct{})
		if name != "nobody" {
			say(name, contracts.WorkerReady)
			if name == "deaf" {
				go func() {
					for tick := time.NewTicker(100 * time.Millisecond); ; {
						select {
						case <-tick.C:
							say(name, contracts.WorkerReady)
						case <-stop:
							return
						}
					}
				}()
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			known := func(h contracts.Heartbeat) bool { return h.Worker == name }
			for end := time.Now().Add(20 * time.Second); !slices.ContainsFunc(w.Live(), known) && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
		}
		h, err := w.Drain(t.Context(), nc, name, 1500*time.Millisecond)
		close(stop)
		if h.State != want.state || contracts.CodeOf(err) != want.code || h.Worker != name && err == nil {
			t.Errorf("%s: %s %s, %v; want state %q or code %q", name, h.Worker, h.State, err, want.state, want.code)
		}
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the error does not name it: %v", name, err)
		}
		if want.told != "" {
			select {
			case got := <-told:
				if got != want.told {
					t.Errorf("%s: told %q, want %q", name, got, want.told)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("%s: not told", name)
			}
		}
		if len(told) > 0 {
			t.Errorf("%s: told %q too", name, <-told)
		}
	}
}
