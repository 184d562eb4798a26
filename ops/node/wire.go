package node

import (
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// wireBytes is how much of a client's writes waits for the broker before the client has to.
const wireBytes = 1 << 20

// wires dials the broker inside the process. The server's own pipe has no buffer: who writes waits until the
// server has read, and with it everybody who shares the connection.
type wires struct{ srv *server.Server }

// InProcessConn implements nats.InProcessConnProvider.
func (w wires) InProcessConn() (net.Conn, error) {
	pipe, err := w.srv.InProcessConn()
	if err != nil {
		return nil, err
	}
	return newWire(pipe), nil
}

// wire is a connection whose writes return at once while not too much waits. A failed write shows at a later one.
type wire struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond
	waiting []byte
	closed  bool
	err     error
}

func newWire(pipe net.Conn) *wire {
	w := &wire{Conn: pipe}
	w.changed.L = &w.mu
	go w.carry()
	return w
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) > wireBytes && w.err == nil && !w.closed {
		w.changed.Wait()
	}
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.err != nil {
		return 0, w.err
	}
	w.waiting = append(w.waiting, p...)
	w.changed.Broadcast()
	return len(p), nil
}

// Close implements net.Conn. What was written before still goes out.
func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Broadcast()
	return nil
}

// SetWriteDeadline implements net.Conn: a write waits only for a server in the same process.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// carry hands on what was written until the wire is closed or the server is gone.
func (w *wire) carry() {
	defer func() { _ = w.Conn.Close() }()
	var out []byte
	for {
		w.mu.Lock()
		for len(w.waiting) == 0 && !w.closed {
			w.changed.Wait()
		}
		if len(w.waiting) == 0 {
			w.mu.Unlock()
			return
		}
		if cap(out) > wireBytes {
			out = nil
		}
		out, w.waiting = w.waiting, out[:0]
		w.changed.Broadcast()
		w.mu.Unlock()
		if _, err := w.Conn.Write(out); err != nil {
			w.mu.Lock()
			w.err, w.waiting = err, nil
			w.changed.Broadcast()
			w.mu.Unlock()
			return
		}
	}
}
