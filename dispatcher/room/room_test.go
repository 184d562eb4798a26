package room_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/room"
)

// A tenant that schedules without end leaves room for others, and the second such one for a third.
func TestNobodyFillsIt(t *testing.T) {
	t.Parallel()
	const size, most = 8 << 10, 1 << 20
	nc := contractstest.Server(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Ensure(t.Context(), js, topology.Config{Memory: true, JobsMaxBytes: most}, "m"); err != nil {
		t.Fatal(err)
	}
	r := room.New(relay.NewLog(nc, topology.StreamSched, 10*time.Second))
	fill := func(tenant string) (took int) {
		for ; took < most/size; took++ {
			switch err := r.Take(t.Context(), tenant, size); {
			case contracts.CodeOf(err) == contracts.CodeOverloaded:
				return took
			case err != nil:
				t.Fatal(err)
			}
			held := subject.Held(tenant, fmt.Sprintf("j%d", took))
			if _, err := js.Publish(t.Context(), held, make([]byte, size-100)); err != nil {
				t.Fatal(err)
			}
		}
		return took
	}
	last := most / size
	for _, tenant := range []string{"greedy", "greedy too", "third"} {
		took := fill(tenant)
		t.Logf("%s has %d jobs", tenant, took)
		if took > last*2/3 || took < 10 {
			t.Errorf("tenant %q has %d jobs of %d that would fit, the tenant before %d", tenant, took, most/size, last)
		}
		last = took
	}
}
