package auth_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/ops/auth"
)

// serial is the serial number of the certificate with which the server on this connection answers.
func serial(t *testing.T, state tls.ConnectionState) string {
	t.Helper()
	if len(state.PeerCertificates) == 0 || state.Version != tls.VersionTLS13 {
		t.Fatalf("TLS version %x with %d certificates, want 1.3 and one", state.Version, len(state.PeerCertificates))
	}
	return state.PeerCertificates[0].SerialNumber.String()
}

func natsSerial(t *testing.T, nc *nats.Conn) string {
	t.Helper()
	state, err := nc.TLSConnectionState()
	if err != nil {
		t.Fatal(err)
	}
	return serial(t, state)
}

// unbroken fails the test when a connection was lost in the meantime.
func unbroken(t *testing.T, what string, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil || nc.Stats().Reconnects != 0 {
		t.Errorf("%s: %v, %d reconnects, want a connection that nobody disturbed", what, err, nc.Stats().Reconnects)
	}
}

// TestRotation: a running fleet takes up a new certificate; connections that stand are not disturbed, new
// ones see it, and a damaged file changes nothing.
func TestRotation(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	old := f.connect(auth.Producer, "ann")
	before := natsSerial(t, old)
	if again := natsSerial(t, f.connect(auth.Producer, "ann")); again != before {
		t.Errorf("without a new certificate the serial number went from %s to %s", before, again)
	}
	if err := f.certs.Certify("localhost", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	after := natsSerial(t, f.connect(auth.Producer, "ann"))
	if after == before {
		t.Error("a new connection got the old certificate")
	}
	if err := os.WriteFile(f.certs.Cert, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := natsSerial(t, f.connect(auth.Producer, "ann")); got != after {
		t.Errorf("with a damaged file the certificate is %s, want the last good one %s", got, after)
	}
	unbroken(t, "the first connection", old)
}

// TestCluster: NATS servers of their own take clients, routes and monitoring over TLS with the files that
// are written for them, ask for credentials, and rotate certificates by a reload.
func TestCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, err := auth.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	certs := auth.CertsIn(dir)
	if err := certs.Certify("127.0.0.1", "localhost"); err != nil {
		t.Fatal(err)
	}
	first := natsServer(t, dir, "a", "")
	second := natsServer(t, dir, "b", fmt.Sprintf("nats-route://%s", first.ClusterAddr()))
	await(t, "a route between the servers", func() bool { return first.NumRoutes() > 0 && second.NumRoutes() > 0 })
	// Nobody comes back by himself: the server's reload and a client's CONNECT race with each other.
	connect := func(s *server.Server) *nats.Conn {
		nc, err := client.Connect(s.ClientURL(), nats.NoReconnect(), nats.RootCAs(certs.CA), nats.UserCredentials(keys.Creds(auth.Producer)), nats.CustomInboxPrefix(auth.Inbox(auth.Producer, "default")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	old := connect(first)
	connect(second) // both servers know the account before it changes
	before := natsSerial(t, old)
	if got := monitorSerial(t, first, certs.CA); got != before {
		t.Errorf("monitoring has certificate %s, clients %s", got, before)
	}
	routes := first.NumRoutes()
	if err := certs.Certify("127.0.0.1", "localhost"); err != nil {
		t.Fatal(err)
	}
	reload(t, first, second)
	if after := natsSerial(t, connect(first)); after == before {
		t.Error("after the reload a new connection got the old certificate")
	}
	unbroken(t, "the first connection", old)
	if got := first.NumRoutes(); got != routes {
		t.Errorf("%d routes after the reload, want the %d from before", got, routes)
	}
	if nc, err := nats.Connect(first.ClientURL(), nats.RootCAs(certs.CA)); err == nil {
		nc.Close()
		t.Error("a client without credentials is let in")
	}
	stolen := filepath.Join(t.TempDir(), "stolen")
	if err := keys.Write(stolen, auth.Producer, "default", 0); err != nil {
		t.Fatal(err)
	}
	rotateRole(t, dir, keys)
	reload(t, first, second)
	if nc, err := nats.Connect(first.ClientURL(), nats.RootCAs(certs.CA), nats.UserCredentials(stolen)); err == nil {
		nc.Close()
		t.Error("credentials of before the role's new key are let in")
	}
	unbroken(t, "a connection with the new credentials", connect(first))
	stranger := auth.CertsIn(t.TempDir())
	if err := stranger.Certify("127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if routeTaken(t, first, certs, stranger) {
		t.Error("a route with a certificate of another authority is let in")
	}
	if !routeTaken(t, first, certs, certs) {
		t.Error("a route with a certificate of the fleet is refused")
	}
}

// rotateRole withdraws all credentials of the producers: a new signing key, as SECURITY.md has it.
func rotateRole(t *testing.T, dir string, keys *auth.Authority) {
	t.Helper()
	for _, file := range []string{filepath.Join(dir, "auth", "keys", "producer.nk"), keys.Creds(auth.Producer)} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := auth.Init(dir); err != nil {
		t.Fatal(err)
	}
}

func reload(t *testing.T, servers ...*server.Server) {
	t.Helper()
	for _, s := range servers {
		if err := s.Reload(); err != nil {
			t.Fatalf("reload: %v", err)
		}
	}
}

// natsServer runs a server from a configuration file, as nats-server does.
func natsServer(t *testing.T, dir, name, route string) *server.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	config := fmt.Sprintf(`
server_name: %s
listen: 127.0.0.1:-1
https: 127.0.0.1:-1
include %q
tls { include %q }
cluster {
  name: c, listen: 127.0.0.1:-1, pool_size: -1, routes: [%s]
  tls {
    include %q
    verify: true
  }
}
`, name, rel(t, file, dir, "auth/server.conf"), rel(t, file, dir, "tls/tls.conf"), route, rel(t, file, dir, "tls/tls.conf"))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%v in\n%s", err, config)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server did not get ready")
	}
	return s
}

// rel is a path as an include of file must have it.
func rel(t *testing.T, file, dir, path string) string {
	t.Helper()
	r, err := filepath.Rel(filepath.Dir(file), filepath.Join(dir, path))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// http is a client that trusts the fleet's authority.
func (f *fleet) http() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(f.t, f.certs.CA)}, DisableKeepAlives: true}}
}

func monitorSerial(t *testing.T, s *server.Server, ca string) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, ca)}, DisableKeepAlives: true}}
	resp, err := c.Get(fmt.Sprintf("https://%s/healthz", s.MonitorAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return serial(t, *resp.TLS)
}

func pool(t *testing.T, ca string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(data)
	return p
}

// routeTaken tells whether s goes on with a route that shows own's certificate: it asks the newcomer to
// prove itself in the handshake, whose refusal comes with the first read.
func routeTaken(t *testing.T, s *server.Server, trusted, own auth.Certs) bool {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(own.Cert, own.Key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool(t, trusted.CA), Certificates: []tls.Certificate{cert}}}).DialContext(testContext(t), "tcp", s.ClusterAddr().String())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(make([]byte, 4))
	return err == nil && n > 0
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
