package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/node"
)

// cluster is three NATS servers with JetStream in this process, or more.
type cluster struct {
	t       *testing.T
	auth    string // configuration file that says who may connect; "" asks nobody
	creds   string // of parts that join
	routes  []*url.URL
	servers []*server.Server
}

func startCluster(t *testing.T, auth string) *cluster {
	t.Helper()
	c := &cluster{t: t, auth: auth}
	var ports []int
	for range 3 {
		u := &url.URL{Scheme: "nats", Host: contractstest.Address(t)}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			t.Fatal(err)
		}
		ports, c.routes = append(ports, port), append(c.routes, u)
	}
	for _, port := range ports {
		c.add(port)
	}
	for _, s := range c.servers {
		if !s.ReadyForConnections(time.Minute) {
			t.Fatal("a broker node did not start")
		}
	}
	return c
}

// add starts one more server, with its routes on a port.
func (c *cluster) add(port int) *server.Server {
	c.t.Helper()
	o := &server.Options{}
	if err := o.ProcessConfigFile(c.auth); err != nil {
		c.t.Fatal(err)
	}
	o.ServerName, o.Host, o.Port, o.NoSigs, o.NoLog = "n"+strconv.Itoa(len(c.servers)), "127.0.0.1", server.RANDOM_PORT, true, true
	o.JetStream, o.StoreDir, o.Routes = true, c.t.TempDir(), c.routes
	o.Cluster = server.ClusterOpts{Name: "pelton", Host: "127.0.0.1", Port: port}
	s, err := server.NewServer(o)
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	c.t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	c.servers = append(c.servers, s)
	return s
}

// url lists the servers, beginning with the first: that is where a client connects.
func (c *cluster) url(first int) string {
	var urls []string
	for i := range c.servers {
		urls = append(urls, c.servers[(first+i)%len(c.servers)].ClientURL())
	}
	return strings.Join(urls, ",")
}

// leader is the server that leads a stream, which a busy cluster may have to elect first.
func (c *cluster) leader(js jetstream.JetStream, stream string) *server.Server {
	c.t.Helper()
	for ctx := testContext(c.t, time.Minute); ; {
		s, err := js.Stream(ctx, stream)
		if err == nil {
			info := s.CachedInfo()
			if info.Config.Replicas != 3 || info.Cluster == nil {
				c.t.Fatalf("stream %s has %d replicas, want 3", stream, info.Config.Replicas)
			}
			if i := slices.IndexFunc(c.servers, func(s *server.Server) bool { return s.Name() == info.Cluster.Leader }); i >= 0 {
				return c.servers[i]
			}
		}
		if ctx.Err() != nil {
			c.t.Fatalf("stream %s has no leader: %v", stream, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// join starts a part of the fleet that connects to the cluster.
func (c *cluster) join(cfg node.Config) {
	c.t.Helper()
	served, err := node.ServeSim("m", "sim:h100")
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.Remote.Creds = c.creds
	cfg.Models, cfg.Topology, cfg.Log = []node.Served{served}, topology.Config{Replicas: 3}, slog.New(slog.DiscardHandler)
	n, err := node.Start(testContext(c.t, time.Minute), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			c.t.Errorf("stop: %v", err)
		}
	})
}

// TestReplicatedBroker: with every stream on three servers, the loss of the one that leads OUT in the
// middle of the streams costs no token: each answer is that of a run that nothing disturbed.
func TestReplicatedBroker(t *testing.T) {
	const jobs, tokens = 12, 400
	c := startCluster(t, "")
	c.join(node.Config{Remote: node.Remote{URL: c.url(0)}, Dispatcher: true, Workers: 1, WorkerName: "a"})
	c.join(node.Config{Remote: node.Remote{URL: c.url(1)}, Workers: 1, WorkerName: "b"})
	nc, err := nats.Connect(c.url(2), nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	producer := client.New(nc, "default", client.WithIdle(time.Second), client.WithTimeout(time.Minute))
	ctx := testContext(t, 3*time.Minute)
	var seen atomic.Int64
	round := func(disturb func()) []string {
		answers := make([]string, jobs)
		var running sync.WaitGroup
		for i := range jobs {
			s, err := producer.Run(ctx, &contracts.Job{Model: "m", Kind: contracts.KindText, Prompt: "job " + strconv.Itoa(i),
				Params: contracts.Params{MaxTokens: new(tokens), Seed: new(int64(i)), IgnoreEOS: true}})
			if err != nil {
				t.Fatalf("job %d: %v", i, err)
			}
			running.Go(func() {
				n := 0
				for chunk, err := range s.Chunks() {
					if err != nil {
						t.Errorf("job %d after %d tokens: %v", i, n, err)
						return
					}
					if !chunk.Final() && chunk.Index != n {
						t.Errorf("job %d: index %d after %d tokens", i, chunk.Index, n)
					}
					n += len(chunk.Tokens)
					seen.Add(int64(len(chunk.Tokens)))
					answers[i] += chunk.Text
					if chunk.Final() && (n != tokens || chunk.Err() != nil) {
						t.Errorf("job %d: %d tokens, %v", i, n, chunk.Err())
					}
				}
			})
		}
		disturb()
		running.Wait()
		return answers
	}
	calm := round(func() {})
	seen.Store(0)
	got := round(func() {
		for seen.Load() < jobs*tokens/20 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		c.leader(js, topology.StreamOut).Shutdown()
		t.Logf("the leader of OUT is gone after %d of %d tokens", seen.Load(), jobs*tokens)
	})
	if !slices.Equal(got, calm) {
		t.Errorf("answers differ from the undisturbed ones:\n%q\n%q", got, calm)
	}
}

// again repeats what a cluster without a leader does not answer.
func again(ctx context.Context, t *testing.T, what string, do func(context.Context) error) {
	t.Helper()
	for {
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := do(once)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestReplicatedPause: a queue that was paused stays so when the server is lost that leads JOBS, and opens again on those
// that are left.
func TestReplicatedPause(t *testing.T) {
	c := startCluster(t, "")
	nc, err := nats.Connect(c.url(2), nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t, 3*time.Minute)
	until := func(state contracts.QueueState) {
		t.Helper()
		again(ctx, t, string(state), func(ctx context.Context) error { return topology.SetQueue(ctx, js, "m", state) })
	}
	again(ctx, t, "layout", func(ctx context.Context) error {
		_, err := topology.Ensure(ctx, js, topology.Config{Replicas: 3}, "m")
		return err
	})
	until(contracts.QueuePaused)
	lost := c.leader(js, topology.StreamJobs)
	lost.Shutdown()
	lost.WaitForShutdown()
	all := func(state contracts.QueueState) {
		t.Helper()
		again(ctx, t, "depths", func(ctx context.Context) error {
			depths, err := topology.Depths(ctx, js)
			if err == nil && len(depths) != 16 {
				err = fmt.Errorf("%d queues", len(depths))
			}
			for _, d := range depths {
				if err == nil && d.State != state {
					t.Errorf("%+v, want %s", d, state)
				}
			}
			return err
		})
	}
	all(contracts.QueuePaused)
	until(contracts.QueueDraining)
	all(contracts.QueueDraining)
	until(contracts.QueueOpen)
	all(contracts.QueueOpen)
}
