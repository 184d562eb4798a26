package node

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// pair is a wire and the end that the server would have.
func pair(t *testing.T) (*wire, net.Conn) {
	t.Helper()
	here, there := net.Pipe()
	w := newWire(here)
	t.Cleanup(func() { _ = errors.Join(w.Close(), there.Close()) })
	return w, there
}

// Writes return while nobody reads, and arrive whole and in order, also after Close.
func TestWireKeepsWrites(t *testing.T) {
	t.Parallel()
	w, server := pair(t)
	var want []byte
	for i := range 100 {
		p := bytes.Repeat([]byte{byte(i)}, i)
		want = append(want, p...)
		if n, err := w.Write(p); n != len(p) || err != nil {
			t.Fatalf("write %d: %d bytes, %v", i, n, err)
		}
		clear(p) // a writer may use its memory again
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want the %d written", len(got), err, len(want))
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v, want %v", err, net.ErrClosed)
	}
}

// Who writes more than the wire holds waits until the server reads.
func TestWireIsBounded(t *testing.T) {
	t.Parallel()
	w, server := pair(t)
	block := make([]byte, wireBytes+1)
	written := make(chan error, 3)
	go func() {
		for range 3 { // one on its way, one waiting, one that does not fit
			_, err := w.Write(block)
			written <- err
		}
	}()
	for range 2 {
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-written:
		t.Fatalf("the third write returned with %v before anything was read", err)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := io.ReadFull(server, make([]byte, 3*len(block))); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

// A server that is gone shows as an error, and nobody waits for it.
func TestWireBreaks(t *testing.T) {
	t.Parallel()
	w, server := pair(t)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		if _, err := w.Write(make([]byte, wireBytes+1)); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("writes to a server that is gone succeed")
		}
	}
	if _, err := w.Read(make([]byte, 1)); err == nil {
		t.Error("read from a server that is gone succeeds")
	}
}
