package dispatcher

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/dispatcher/admission"
)

// While the connection is cut nothing is known of the broker: that no record can be sent is no answer by which OUT
// would count as well again, and a dispatcher that starts waits.
func TestCutConnectionIsNoAnswer(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cut := make(chan struct{})
	nc := b.Conn(nats.ReconnectBufSize(-1), nats.DisconnectErrHandler(func(*nats.Conn, error) { close(cut) })) // as ops/node connects
	d, err := New(Config{Conn: nc, Models: []Model{{Name: "m", ContextLength: 8, Vocab: 8, Kind: contracts.KindTensor, Inputs: []admission.Port{{Name: "x", Type: "FP32", Shape: []int64{1}}}}}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b.Stop()
	<-cut
	if err := d.tryOut(); !away(err) {
		t.Errorf("a try to store a record: %v, which counts as an answer", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		t.Errorf("a dispatcher that starts meanwhile ends with: %v", err)
	}
}
