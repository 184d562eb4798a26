package dispatcher_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// TestSickWorkerIsToldToRest: of five workers one gives back every job as failed; it is told to rest, and no
// other one is.
func TestSickWorkerIsToldToRest(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	nc := b.Conn()
	rests, err := nc.SubscribeSync(subject.AllCtlRests)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	alive := func() bool {
		for i := range 5 {
			heartbeat(t, nc, contracts.Heartbeat{Worker: fmt.Sprint("w", i), Model: model})
		}
		return len(d.Workers()) == 5
	}
	waitFor(t, "five workers", alive)
	for i := range 5 {
		for _, worker := range []string{"w1", "w2"} {
			c := &contracts.Chunk{Claim: &contracts.Claim{Worker: worker, Attempt: 1, Model: model, Class: contracts.P2, Released: contracts.ReleaseDrain}}
			if worker == "w1" {
				c.Claim.Released = contracts.ReleaseFailed
			}
			c.V, c.Job, c.Fence = 1, worker+id(i), 1
			if err := (&chain{js: js, out: subject.Out(tenant, c.Job)}).write(c); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the workers to live", alive)
	}
	m, err := rests.NextMsg(patience)
	if err != nil || m.Subject != subject.CtlRest("w1") || len(m.Data) != 0 {
		t.Fatalf("told to rest: %+v, %v, want w1 without a body", m, err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := rests.Pending(); n != 0 || err != nil {
		t.Errorf("%d more were told to rest, %v", n, err)
	}
}
