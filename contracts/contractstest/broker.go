// Package contractstest helps to test what speaks the fleet's contracts: a NATS server with JetStream
// in the test's process, a small fake fleet that answers jobs, and the golden vectors of the wire
// format.
//
// It belongs to no step of the walk; producers' own tests use it in place of steps 3 to 14. It is never
// part of a fleet. Everything here ends with the test that made it and is safe for concurrent use.
package contractstest

import (
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Broker is a NATS server with JetStream in this process, listening on a free port of loopback.
type Broker struct {
	t   T
	srv *server.Server
}

// StartBroker starts a server whose streams live in t.TempDir. change, which may be nil, adjusts its
// options: users and permissions, limits, store directory.
func StartBroker(t T, change func(*server.Options)) *Broker {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, NoLog: true, NoSigs: true}
	if change != nil {
		change(o)
	}
	if o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatalf("nats server: %v", err)
	}
	srv.Start()
	b := &Broker{t: t, srv: srv}
	t.Cleanup(b.Stop)
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatalf("nats server: not ready after a minute")
	}
	return b
}

// URL is where the server listens, for clients in other processes.
func (b *Broker) URL() string { return b.srv.ClientURL() }

// Conn is a new connection inside the process, closed when the test ends.
func (b *Broker) Conn(opts ...nats.Option) *nats.Conn {
	b.t.Helper()
	all := append([]nats.Option{nats.InProcessServer(b.srv), nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, opts...)
	nc, err := nats.Connect("", all...)
	if err != nil {
		b.t.Fatalf("connect to the nats server: %v", err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

// Stop ends the server, as the end of the test does.
func (b *Broker) Stop() {
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
}

// Server is a connection to a server of the test's own.
func Server(t T) *nats.Conn {
	t.Helper()
	return StartBroker(t, nil).Conn()
}

// Address is one on loopback, for a server that must be told where to listen or that comes back there. Until the end of
// the test the system gives its port to nobody who asks for any port: a connection that was accepted there stays open,
// beside which a server may listen.
func Address(t T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("a free port: %v", err)
	}
	address := l.Addr().String()
	out, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("a free port: %v", err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatalf("a free port: %v", err)
	}
	t.Cleanup(func() { _, _ = out.Close(), in.Close() })
	if err := closed(l); err != nil {
		t.Fatalf("a free port: %v", err)
	}
	return address
}

// closed closes a listener and waits until nobody listens there any more: until a process that is being started runs its
// program, it has the listener too.
func closed(l net.Listener) error {
	if err := l.Close(); err != nil {
		return err
	}
	for {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return nil
		}
		_ = c.Close()
		time.Sleep(time.Millisecond)
	}
}
