package dispatcher_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
)

// TestBreaker: while the broker does not answer, submits are refused at once with a time to retry; when
// it is back, they are taken again, by themselves.
func TestBreaker(t *testing.T) {
	t.Parallel()
	var cfg dispatcher.Config
	d, b := start(t, func(c *dispatcher.Config) { cfg = *c })
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), topology.StreamJobs); err != nil {
		t.Fatal(err)
	}
	submit := func() error {
		_, err := d.Submit(testContext(t), textJob("j", "abc"))
		return err
	}
	refused := func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "the broker does not answer")
	}
	tries := 0
	for err = submit(); !refused(err); err = submit() {
		if tries++; contracts.CodeOf(err) != contracts.CodeUnavailable && contracts.CodeOf(err) != contracts.CodeInternal || tries > 100 {
			t.Fatalf("submit %d without JOBS: %v", tries, err)
		}
	}
	if tries < 2 {
		t.Errorf("open after %d failures: one slow answer must not close the door", tries)
	}
	if d.Ready() {
		t.Error("ready while submits are refused without a try")
	}
	if e := contracts.AsError(err); e.Code != contracts.CodeUnavailable || e.RetryAfterMS <= 0 {
		t.Errorf("refusal %+v, want unavailable with a time to retry", e)
	}
	if _, err := topology.Ensure(t.Context(), js, cfg.Topology, model); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for err = submit(); err != nil; err = submit() {
		select {
		case <-time.After(time.Duration(contracts.AsError(err).RetryAfterMS) * time.Millisecond / 4):
		case <-ctx.Done():
			t.Fatalf("the broker is back, a submit still says %v", err)
		}
	}
}
