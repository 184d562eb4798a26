package lease_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// In a cluster any replica answers a direct get, also one that has not heard of the claim yet. A holder whose record
// failed and who asks such a replica is not fenced by its own claim.
func TestLaggingReplicaFencesNobody(t *testing.T) {
	t.Parallel()
	// A broker whose stream OUT is played here, because replicas of a real one are hardly ever behind on one machine.
	srv, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("broker did not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); srv.Shutdown(); srv.WaitForShutdown() })
	var stored [][]byte   // the leader's
	var fails atomic.Bool // the next publish: no leader just now
	var behind atomic.Bool
	if _, err := nc.Subscribe(subject.Out("t", "j"), func(m *nats.Msg) {
		switch {
		case fails.Swap(false):
			_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"system temporarily unavailable"}}`))
		case m.Header.Get("Nats-Expected-Last-Subject-Sequence") != fmt.Sprint(len(stored)):
			_ = m.Respond([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence"}}`))
		default:
			stored = append(stored, m.Data)
			_ = m.Respond(fmt.Appendf(nil, `{"stream":"OUT","seq":%d}`, len(stored)))
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("$JS.API.DIRECT.GET."+topology.StreamOut+"."+subject.Out("t", "j"), func(m *nats.Msg) {
		r := nats.NewMsg(m.Reply)
		if behind.Swap(false) || len(stored) == 0 {
			r.Header.Set("Status", "404")
		} else {
			r.Header.Set("Nats-Sequence", fmt.Sprint(len(stored)))
			r.Data = stored[len(stored)-1]
		}
		_ = nc.PublishMsg(r)
	}); err != nil {
		t.Fatal(err)
	}
	chain := take(t, nc, "w", 1)
	fails.Store(true)
	behind.Store(true)
	if err := chain.Append(t.Context(), piece(0, 1)); err != nil {
		t.Errorf("append after a replica that was behind: %v", err)
	}
}
