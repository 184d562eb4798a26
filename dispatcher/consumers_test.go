package dispatcher_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
)

// A consumer that somebody deleted is there again after the next look: workers get nothing without it.
func TestDeletedConsumerIsMadeAgain(t *testing.T) {
	t.Parallel()
	_, b := start(t, func(c *dispatcher.Config) { c.Rescan = 20 * time.Millisecond })
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	ctx, name := testContext(t), subject.Consumer(model, contracts.P2, contracts.Sizes[0])
	if err := js.DeleteConsumer(ctx, topology.StreamJobs, name); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the consumer", func() bool {
		_, err := js.Consumer(ctx, topology.StreamJobs, name)
		return err == nil
	})
}
