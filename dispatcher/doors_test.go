package dispatcher_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher"
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

// Cancels and questions come by another connection than jobs: however many they are, jobs do not wait behind them.
func TestCancelsHaveTheirOwnConnection(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Doors, cfg.Asks = b.Conn(), b.Conn()
	startDispatcher(t, cfg)
	const asks = 50
	before := cfg.Doors.Stats().InMsgs
	producer := b.Conn()
	for i := range asks {
		for _, subj := range []string{subject.Cancel(tenant, fmt.Sprint(i)), subject.Status(tenant, fmt.Sprint(i))} {
			if _, err := producer.RequestWithContext(testContext(t), subj, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := cfg.Asks.Stats().InMsgs; n < 2*asks {
		t.Errorf("%d messages came by the connection for cancels and questions, want %d", n, 2*asks)
	}
	if n := cfg.Doors.Stats().InMsgs - before; n != 0 {
		t.Errorf("%d messages came by that of jobs", n)
	}
}

// A dispatcher whose credentials may not listen where it must ends at its start and says where: it would be ready,
// and hear nothing.
func TestMayNotListen(t *testing.T) {
	t.Parallel()
	denied := []string{subject.AllSubmits, subject.AllStatus, subject.AllLive, subject.AllHeartbeats}
	b := contractstest.StartBroker(t, func(o *server.Options) {
		for i, subj := range denied {
			o.Users = append(o.Users, &server.User{Username: fmt.Sprint(i), Password: "p", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: []string{">"}}, Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{subj}},
			}})
		}
	})
	for i, subj := range denied {
		as := nats.UserInfo(fmt.Sprint(i), "p")
		cfg := testConfig(b.Conn(as))
		cfg.Doors, cfg.Asks = b.Conn(as), b.Conn(as)
		d, err := dispatcher.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Run(testContext(t)); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subj) {
			t.Errorf("without the right to hear %s: error %v", subj, err)
		}
	}
}
