package integration

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/admin"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
)

// as connects with new credentials of a role, to whatever server is there.
func (c *cluster) as(keys *auth.Authority, role auth.Role) *nats.Conn {
	c.t.Helper()
	nc, err := client.Connect(c.url(0), nats.UserCredentials(keys.Creds(role)), nats.CustomInboxPrefix(auth.Inbox(role, nameOf(role))))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

func nameOf(role auth.Role) string {
	if role == auth.Producer {
		return "default"
	}
	return string(role)
}

// settled waits until admin sees what ok wants.
func (c *cluster) settled(nc *nats.Conn, what string, ok func(*admin.Status) bool) *admin.Status {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	for {
		s, err := admin.Look(ctx, nc, topology.Config{}, "m")
		if err == nil && ok(s) {
			return s
		}
		if ctx.Err() != nil {
			c.t.Fatalf("waited for %s: %+v, %v", what, s, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestRepair: one server of three is lost for good, and later another. Status names it, repair gives its
// copies to a new server and makes what is missing; all is copied and restored; and a job that was queued
// before it all is done.
func TestRepair(t *testing.T) {
	keys, err := auth.Init(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, keys.Config())
	provisioner := c.as(keys, auth.Provisioner)
	js, err := jetstream.New(provisioner)
	if err != nil {
		t.Fatal(err)
	}
	for ctx := testContext(t, 2*time.Minute); ; { // until the cluster has a leader it answers nothing
		soon, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := topology.Ensure(soon, js, topology.Config{Replicas: 3}, "m")
		cancel()
		if err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	c.settled(provisioner, "three copies of all", (*admin.Status).Well)
	c.creds = keys.Creds(auth.Dispatcher)
	c.join(node.Config{Remote: node.Remote{URL: c.url(0)}, Dispatcher: true})
	producer := client.New(c.as(keys, auth.Producer), "default", client.WithoutReplay(), client.WithTimeout(time.Minute))
	_, err = producer.Submit(testContext(t, time.Minute), &contracts.Job{ID: "waiting", Model: "m", Kind: contracts.KindText, Prompt: "hello", Params: contracts.Params{MaxTokens: new(5), IgnoreEOS: true}})
	if err != nil {
		t.Fatal(err)
	}
	layout := admin.RepairOptions{Models: []string{"m"}}
	c.refused(provisioner, withLost(layout, "n2", nil), "stop it first")
	if err := js.DeleteConsumer(testContext(t, time.Minute), topology.StreamJobs, subject.Consumer("m", contracts.P0, contracts.SizeS)); err != nil {
		t.Fatal(err)
	}
	lose(c.servers[2])
	s := c.settled(provisioner, "the loss of n2", func(s *admin.Status) bool {
		return len(s.Drift) == 1 && !slices.ContainsFunc(s.Streams, func(s admin.Stream) bool { return !strings.Contains(strings.Join(s.Problems, " "), "n2 is offline") })
	})
	t.Logf("after the loss: %v, %v", s.Streams[0].Problems, s.Drift)
	c.refused(provisioner, withLost(layout, "n2", nil), "add one")
	c.add(server.RANDOM_PORT)
	c.repaired(provisioner, withLost(layout, "n2", nil), "n3")
	keeper := c.as(keys, auth.Keeper)
	c.repaired(provisioner, withLost(layout, "n2", keeper), "n3") // out of the cluster too, where it counts for the majority
	lose(c.servers[1])
	c.add(server.RANDOM_PORT)
	c.repaired(provisioner, withLost(layout, "n1", keeper), "n4")
	c.restored(provisioner)
	c.creds = keys.Creds(auth.Worker)
	c.join(node.Config{Remote: node.Remote{URL: c.url(0)}, Workers: 1, WorkerName: "w"})
	for ctx := testContext(t, 2*time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var last contracts.Chunk
		m, err := stored(ctx, js, topology.StreamOut, subject.Out("default", "waiting"))
		if err == nil {
			err = contracts.Decode(m.Data, &last)
		}
		if err == nil && last.Final() {
			if last.Err() != nil || last.Usage.CompletionTokens != 5 {
				t.Errorf("the job from before ended with %+v, want 5 tokens", last)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the job from before is not done: %+v, %v", last, err)
		}
	}
}

// TestRepairReplicas: consumers have as many copies as their streams, when a fleet grows and when it is restored
// from three servers to one and back; a layout that does not say how many changes none.
func TestRepairReplicas(t *testing.T) {
	c := startCluster(t, "")
	nc, err := client.Connect(c.url(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t, 4*time.Minute)
	for _, n := range []int{1, 3, 0} {
		again(ctx, t, "layout", func(ctx context.Context) error {
			drift, err := topology.Ensure(ctx, js, topology.Config{Replicas: n}, "m")
			if n == 0 && len(drift) > 0 {
				t.Errorf("a layout without a number of copies changed %v", drift)
			}
			return err
		})
	}
	again(ctx, t, "layout without a stream", func(ctx context.Context) error { // as an older version leaves it
		if err := js.DeleteStream(ctx, topology.StreamDead); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		_, err := topology.Ensure(ctx, js, topology.Config{}, "m")
		return err
	})
	c.settled(nc, "three copies of all", copies(t, js, 3))
	three, one := filepath.Join(t.TempDir(), "three"), filepath.Join(t.TempDir(), "one")
	again(ctx, t, "backup", func(ctx context.Context) error {
		_, err := admin.Backup(ctx, nc, three, nil)
		return err
	})
	single := contractstest.StartBroker(t, nil).Conn()
	if _, err := admin.Restore(ctx, single, three, admin.RestoreOptions{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	if s, err := admin.Look(ctx, single, topology.Config{}, "m"); err != nil || !s.Well() {
		t.Errorf("restored to one server: %+v, %v", s, err)
	}
	if _, err := admin.Backup(ctx, single, one, nil); err != nil {
		t.Fatal(err)
	}
	again(ctx, t, "restore", func(ctx context.Context) error {
		_, err := admin.Restore(ctx, nc, one, admin.RestoreOptions{Replace: true, Replicas: 3})
		return err
	})
	c.settled(nc, "three copies of all that was restored", copies(t, js, 3))
}

// copies tells whether all is well, and every consumer of jobs has so many copies.
func copies(t *testing.T, js jetstream.JetStream, want int) func(*admin.Status) bool {
	return func(s *admin.Status) bool {
		if !s.Well() {
			return false
		}
		stream, err := js.Stream(t.Context(), topology.StreamJobs)
		if err != nil {
			return false
		}
		list := stream.ListConsumers(t.Context())
		ok := 0
		for i := range list.Info() {
			if i.Cluster != nil && len(i.Cluster.Replicas) == want-1 && i.Config.Replicas == 0 {
				ok++
			}
		}
		return ok == len(topology.Config{}.Consumers("m"))
	}
}

// restored makes all streams of the cluster again from a backup of it.
func (c *cluster) restored(nc *nats.Conn) {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "backup")
	ctx := testContext(c.t, 4*time.Minute)
	again := func(what string, do func() error) {
		err := do()
		for ; err != nil && ctx.Err() == nil; err = do() {
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
	again("backup", func() error {
		m, err := admin.Backup(ctx, nc, dir, nil)
		if err == nil && len(m.Streams) != 4 {
			c.t.Errorf("backup of %+v", m.Streams)
		}
		return err
	})
	again("restore", func() error {
		_, err := admin.Restore(ctx, nc, dir, admin.RestoreOptions{Replace: true, Running: true})
		return err
	})
	s := c.settled(nc, "three copies of what was restored", (*admin.Status).Well)
	for _, stream := range s.Streams {
		if stream.Replicas != 3 || stream.Name == topology.StreamJobs && stream.Waiting != 1 {
			c.t.Errorf("restored %+v", stream)
		}
	}
}

// stored is the last message on a subject.
func stored(ctx context.Context, js jetstream.JetStream, stream, subj string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	return s.GetLastMsgForSubject(ctx, subj)
}

// refused waits until a repair is refused for the reason wanted; until then the cluster may be busy.
func (c *cluster) refused(nc *nats.Conn, o admin.RepairOptions, want string) {
	c.t.Helper()
	for ctx := testContext(c.t, 2*time.Minute); ; time.Sleep(100 * time.Millisecond) {
		done, err := admin.Repair(ctx, nc, o)
		if err != nil && strings.Contains(err.Error(), want) {
			return
		}
		if err == nil || ctx.Err() != nil {
			c.t.Fatalf("repair %+v did %v: %v, want an error with %q", o, done, err, want)
		}
	}
}

// TestRecreate: streams with one copy are lost with their server. They are deleted and made anew only when
// that is asked for, and only those that have no leader.
func TestRecreate(t *testing.T) {
	c := startCluster(t, "")
	nc, err := client.Connect(c.url(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	var s *admin.Status
	for ctx := testContext(t, 2*time.Minute); ; time.Sleep(100 * time.Millisecond) { // the cluster elects its leader
		soon, cancel := context.WithTimeout(ctx, 20*time.Second)
		_, err := admin.Repair(soon, nc, admin.RepairOptions{Layout: topology.Config{Replicas: 1}, Models: []string{"m"}})
		cancel()
		if err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	s = c.settled(nc, "one copy of all", (*admin.Status).Well)
	c.refused(nc, admin.RepairOptions{Recreate: []string{topology.StreamOut}}, "has a leader")
	leads := func(name string) (streams []string) {
		for _, stream := range s.Streams {
			if stream.Leader == name {
				streams = append(streams, stream.Name)
			}
		}
		return streams
	}
	i := slices.IndexFunc(c.servers, func(s *server.Server) bool { return len(leads(s.Name())) > 0 })
	lost := leads(c.servers[i].Name())
	lose(c.servers[i])
	for ctx := testContext(t, 4*time.Minute); ; time.Sleep(100 * time.Millisecond) {
		done, err := admin.Repair(ctx, nc, admin.RepairOptions{Recreate: lost, Models: []string{"m"}})
		if t.Logf("lost %v: did %v, %v", lost, done, err); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
		if len(done) > 0 { // what was made anew is not lost any more
			lost = slices.DeleteFunc(lost, func(name string) bool {
				return slices.Contains(done, topology.Drift{Object: "stream " + name, Change: "deleted"})
			})
		}
	}
	c.settled(nc, "all streams again", (*admin.Status).Well)
}

func withLost(o admin.RepairOptions, lost string, keeper *nats.Conn) admin.RepairOptions {
	o.Lost, o.Cluster = lost, keeper
	return o
}

func lose(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// repaired repairs, and waits until all is well with copies on the new server.
func (c *cluster) repaired(nc *nats.Conn, o admin.RepairOptions, fresh string) {
	c.t.Helper()
	var err error
	var done []topology.Drift
	for ctx := testContext(c.t, 4*time.Minute); ; time.Sleep(100 * time.Millisecond) { // the new server joins
		var some []topology.Drift
		some, err = admin.Repair(ctx, nc, o)
		done = append(done, some...)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		c.t.Fatalf("repair after %v: %v", done, err)
	}
	c.t.Logf("repaired: %v", done)
	s := c.settled(nc, "copies on "+fresh, (*admin.Status).Well)
	for _, stream := range s.Streams {
		if stream.Leader != fresh && !slices.ContainsFunc(stream.Peers, func(p admin.Peer) bool { return p.Name == fresh && p.Current }) {
			c.t.Errorf("stream %s has no copy on %s: %+v", stream.Name, fresh, stream)
		}
	}
}
