package auth_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds the waits for what must happen.
const patience = time.Minute

// fleet is a secured fleet: a broker with TLS, a dispatcher inside its process, a worker that comes over
// the network.
type fleet struct {
	t     *testing.T
	keys  *auth.Authority
	certs auth.Certs
	dir   string
	node  *node.Node
	log   *contractstest.Log // everything, at every level
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start runs a secured fleet; change adjusts the part with broker, dispatcher and door.
func start(t *testing.T, change func(*fleet, *node.Config)) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), log: &contractstest.Log{}}
	f.certs = auth.CertsIn(f.dir)
	var err error
	if f.keys, err = auth.Init(f.dir); err != nil {
		t.Fatalf("init: %v", err)
	}
	if err := f.certs.Certify("localhost", "127.0.0.1"); err != nil {
		t.Fatalf("certify: %v", err)
	}
	cfg := node.Config{Data: f.dir, Listen: "127.0.0.1:0", Dispatcher: true,
		Security: node.Security{Authority: f.keys, Cert: f.certs.Cert, Key: f.certs.Key}}
	if change != nil {
		change(f, &cfg)
	}
	f.node = f.run(cfg)
	f.run(node.Config{Remote: node.Remote{URL: f.node.NATS(), Creds: f.keys.Creds(auth.Worker), CA: f.certs.CA}, Workers: 1, WorkerName: "w"})
	return f
}

func (f *fleet) run(cfg node.Config) *node.Node {
	f.t.Helper()
	served, err := node.ServeSim("m", "sim:h100")
	if err != nil {
		f.t.Fatal(err)
	}
	cfg.Models, cfg.Log = []node.Served{served}, slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, err := node.Start(testContext(f.t), cfg)
	if err != nil {
		f.t.Fatalf("start: %v\n%s", err, f.log)
	}
	f.t.Cleanup(func() {
		if err := n.Stop(testContext(f.t)); err != nil {
			f.t.Errorf("stop: %v", err)
		}
	})
	return n
}

// connect makes a connection with new credentials of a role, over TLS.
func (f *fleet) connect(role auth.Role, name string) *nats.Conn {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "creds")
	if err := f.keys.Write(file, role, name, 0); err != nil {
		f.t.Fatal(err)
	}
	nc, err := client.Connect(f.node.NATS(), nats.UserCredentials(file), nats.RootCAs(f.certs.CA), nats.CustomInboxPrefix(auth.Inbox(role, name)))
	if err != nil {
		f.t.Fatalf("connect as %s %s: %v", role, name, err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

// refused does something and returns what the broker said about it, "" when it was allowed.
func refused(t *testing.T, nc *nats.Conn, do func() error) string {
	t.Helper()
	before := nc.LastError()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if err := nc.LastError(); err != nil && err != before {
		return err.Error()
	}
	return ""
}

func mayPublish(t *testing.T, nc *nats.Conn, subj string) bool {
	t.Helper()
	said := refused(t, nc, func() error { return nc.Publish(subj, nil) })
	return !denial(t, said, "publish", subj)
}

func maySubscribe(t *testing.T, nc *nats.Conn, subj string) bool {
	t.Helper()
	var sub *nats.Subscription
	said := refused(t, nc, func() (err error) { sub, err = nc.SubscribeSync(subj); return err })
	_ = sub.Unsubscribe() // a refused one is gone
	return !denial(t, said, "subscription", subj)
}

// denial tells whether the broker refused subj; any other complaint is a failure.
func denial(t *testing.T, said, what, subj string) bool {
	t.Helper()
	if said == "" {
		return false
	}
	said = strings.ToLower(said)
	if !strings.Contains(said, "permissions violation") || !strings.Contains(said, what) || !strings.Contains(said, strings.ToLower(subj)) {
		t.Fatalf("broker said %q about %s of %s", said, what, subj)
	}
	return true
}
