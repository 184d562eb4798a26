package dispatcher

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/admission"
)

// While the connection is cut nothing is known of the broker: that no record can be sent is no answer by which OUT
// would count as well again, and a dispatcher that starts waits.
func TestCutConnectionIsNoAnswer(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cut := make(chan struct{})
	nc := b.Conn(nats.ReconnectBufSize(-1), nats.DisconnectErrHandler(func(*nats.Conn, error) { close(cut) })) // as ops/node connects
	d, err := New(cutConfig(nc))
	if err != nil {
		t.Fatal(err)
	}
	b.Stop()
	<-cut
	if err := d.tryOut(t.Context()); !away(err) {
		t.Errorf("a try to store a record: %v, which counts as an answer", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		t.Errorf("a dispatcher that starts meanwhile ends with: %v", err)
	}
}

// What may come as often as somebody likes is logged once a second, and not only once.
func TestSayIsBounded(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		cfg := cutConfig(nc)
		cfg.Logger = slog.New(slog.NewTextHandler(&lines, nil))
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			d.say("request dropped")
			time.Sleep(100 * time.Millisecond)
		}
		if n := strings.Count(lines.String(), "dropped"); n != 3 {
			t.Errorf("%d lines in 3 s, want 3", n)
		}
	})
}

// What is stored to see whether it can be is heard by dispatchers and is nobody's job.
func TestTryIsNoJob(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	d, err := New(cutConfig(nc))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.ensure(ctx); err != nil {
		t.Fatal(err)
	}
	live, err := nc.SubscribeSync(subject.AllLive)
	if err == nil {
		err = d.tryOut(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if m, err := live.NextMsgWithContext(ctx); err != nil || m.Header.Get("Nats-Stream") != topology.StreamOut {
		t.Errorf("dispatchers hear %v, %v", m, err)
	}
	if list, err := d.List(ctx, contracts.Filter{}); err != nil || len(list) > 0 {
		t.Errorf("jobs: %v, %v, want none", list, err)
	}
}

func cutConfig(nc *nats.Conn) Config {
	return Config{Conn: nc, Timeout: time.Second,
		Models: []Model{{Name: "m", ContextLength: 8, Vocab: 8, Kind: contracts.KindTensor, Inputs: []admission.Port{{Name: "x", Type: "FP32", Shape: []int64{1}}}}}}
}
