package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/auth"
)

// TestKEDA asks a NATS server's monitoring what KEDA's nats-jetstream scaler asks (its request and the
// fields it reads are those of KEDA 2.21): with the account that the chart's README tells to take from
// server.conf, each consumer of the chart's triggers is there and counts its jobs.
func TestKEDA(t *testing.T) {
	t.Parallel()
	keys, err := auth.Init(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, auth: keys.Config()}
	o := &server.Options{}
	if err := o.ProcessConfigFile(keys.Config()); err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.HTTPHost, o.HTTPPort, o.NoSigs, o.NoLog, o.JetStream, o.StoreDir = "127.0.0.1", server.RANDOM_PORT, "127.0.0.1", server.RANDOM_PORT, true, true, true, t.TempDir()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { lose(s) })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server did not start")
	}
	c.servers = []*server.Server{s}
	const model = "llama-3.2-1b"
	js, err := jetstream.New(c.as(keys, auth.Provisioner))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Ensure(testContext(t, time.Minute), js, topology.Config{}, model); err != nil {
		t.Fatal(err)
	}
	if js, err = jetstream.New(c.as(keys, auth.Dispatcher)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		at := subject.Job{Model: model, Class: contracts.P1, Size: contracts.SizeM, Tenant: "t", Job: fmt.Sprint(i)}
		if _, err := js.Publish(testContext(t, time.Minute), at.String(), []byte("job")); err != nil {
			t.Fatal(err)
		}
	}
	got := lag(t, "http://"+s.MonitorAddr().String(), account(t, keys.Config()))
	for _, class := range contracts.Classes {
		for _, size := range contracts.Sizes {
			name, want := subject.Consumer(model, class, size), 0
			if class == contracts.P1 && size == contracts.SizeM {
				want = 3
			}
			if n, ok := got[name]; !ok || n != want {
				t.Errorf("consumer %s has a lag of %d (found %v), want %d", name, n, ok, want)
			}
		}
	}
}

// account is the second public key of resolver_preload.
func account(t *testing.T, config string) string {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	ids := regexp.MustCompile(`(?m)^  (A[A-Z2-7]{55}): `).FindAllSubmatch(text, -1)
	if len(ids) != 2 {
		t.Fatalf("%d accounts in %s, want the servers' own and the fleet's", len(ids), text)
	}
	return string(ids[1][1])
}

// lag is what the scaler sees of each consumer of JOBS.
func lag(t *testing.T, monitoring, account string) map[string]int {
	t.Helper()
	resp, err := http.Get(monitoring + "/jsz?" + url.Values{"acc": {account}, "consumers": {"true"}, "config": {"true"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Accounts []struct {
			ID      string `json:"id"`
			Streams []struct {
				Name      string `json:"name"`
				Consumers []struct {
					Name          string `json:"name"`
					NumPending    int    `json:"num_pending"`
					NumAckPending int    `json:"num_ack_pending"`
				} `json:"consumer_detail"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, a := range answer.Accounts {
		for _, s := range a.Streams {
			if a.ID != account || s.Name != topology.StreamJobs {
				continue
			}
			for _, c := range s.Consumers {
				out[c.Name] = c.NumPending + c.NumAckPending
			}
		}
	}
	return out
}
