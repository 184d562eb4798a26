package chaos

import (
	"errors"
	"net"
	"sync"
	"time"
)

// wire dials for one process that can be cut off: frozen, it neither hears nor says anything, and what
// it says meanwhile arrives when it thaws; cut, it never says anything again.
type wire struct {
	mu     sync.Mutex
	thawed chan struct{} // closed unless frozen
	broken bool
	conns  []net.Conn
}

var errCut = errors.New("the wire is cut")

func newWire() *wire {
	w := &wire{thawed: make(chan struct{})}
	close(w.thawed)
	return w
}

// Dial implements nats.CustomDialer.
func (w *wire) Dial(network, address string) (net.Conn, error) {
	if err := w.pass(); err != nil {
		return nil, err
	}
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return nil, errors.Join(errCut, c.Close())
	}
	w.conns = append(w.conns, c)
	return &wired{c, w}, nil
}

// pass waits until the wire is not frozen.
func (w *wire) pass() error {
	w.mu.Lock()
	thawed := w.thawed
	w.mu.Unlock()
	<-thawed
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return errCut
	}
	return nil
}

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.thawed:
		w.thawed = make(chan struct{})
	default:
	}
}

func (w *wire) thaw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.thawed:
	default:
		close(w.thawed)
	}
}

// cut ends the wire for ever, also a frozen one.
func (w *wire) cut() {
	w.mu.Lock()
	w.broken = true
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.thaw()
}

// wired is one connection over a wire.
type wired struct {
	net.Conn
	w *wire
}

// Read hands on what arrived once the wire is not frozen.
func (c *wired) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if broken := c.w.pass(); broken != nil {
		return 0, broken
	}
	return n, err
}

// Write waits until the wire is not frozen.
func (c *wired) Write(p []byte) (int, error) {
	if err := c.w.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
