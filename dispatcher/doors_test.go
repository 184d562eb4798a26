package dispatcher_test

import (
	"testing"

	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
)

// What producers send comes by a connection of its own: however much it is, the one that reads and writes the
// streams has nothing of it.
func TestDoorsHaveTheirOwnConnection(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Doors = b.Conn()
	startDispatcher(t, cfg)
	const jobs, size = 20, 100 << 10
	before := cfg.Conn.Stats().InBytes
	producer := b.Conn()
	for range jobs {
		if _, err := producer.RequestWithContext(testContext(t), subject.Submit(tenant), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if n := cfg.Doors.Stats().InBytes; n < jobs*size {
		t.Errorf("the doors got %d bytes of %d", n, jobs*size)
	}
	if n := cfg.Conn.Stats().InBytes - before; n > jobs*size/2 {
		t.Errorf("the other connection got %d bytes", n)
	}
}
