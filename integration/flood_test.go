package integration

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pelton-run/pelton/integration/harness"
)

// TestFlood: with 10,000 idle connections open, and 200 that send their headers a byte at a time, the
// HTTP door goes on serving; the slow ones are cut, the idle ones stay good.
func TestFlood(t *testing.T) {
	const slow = 200
	idle := 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := int(limit.Cur) - slow - 500; most < idle {
		t.Logf("%d open files are allowed: %d connections instead of %d", limit.Cur, most, idle)
		idle = most
	}
	p := harness.Up(t, t.TempDir(), "--engine", "sim")
	before, err := p.Peak()
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(p.HTTP, "http://")
	idlers, slowers := make([]net.Conn, idle), make([]net.Conn, slow)
	t.Cleanup(func() {
		for _, c := range append(idlers, slowers...) {
			if c != nil {
				_ = c.Close()
			}
		}
	})
	var g errgroup.Group
	g.SetLimit(64)
	for i := range idlers {
		g.Go(func() (err error) {
			if idlers[i], err = net.Dial("tcp", address); err != nil {
				return err
			}
			return livez(idlers[i])
		})
	}
	for i := range slowers {
		g.Go(func() (err error) {
			if slowers[i], err = net.Dial("tcp", address); err != nil {
				return err
			}
			_, err = io.WriteString(slowers[i], "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	resp, err := http.Post(p.HTTP+"/v1/completions", "application/json", strings.NewReader(`{"model":"sim","prompt":"hello","max_tokens":5}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a completion among %d connections: %s, %v", idle+slow, resp.Status, err)
	}
	_ = resp.Body.Close()
	after, err := p.Peak()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a completion among %d connections took %s; peak resident memory grew from %d to %d MiB", idle+slow, time.Since(asked).Round(time.Millisecond), before>>20, after>>20)
	if most := before + 512<<20; after > most {
		t.Errorf("%d connections cost %d MiB, want at most 512", idle+slow, (after-before)>>20)
	}
	for _, c := range slowers {
		g.Go(func() error { return cut(c) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if err := livez(idlers[idle/2]); err != nil {
		t.Errorf("an idle connection after the flood: %v", err)
	}
}

// livez asks one question on a connection and reads the answer.
func livez(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return errors.Join(errors.New("/livez: "+resp.Status), err)
	}
	return nil
}

// cut goes on sending a byte each 100 ms, as a slow client does, until the server ends the connection.
func cut(c net.Conn) error {
	over := make(chan struct{})
	defer close(over)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = c.Write([]byte("x"))
			case <-over:
				return
			}
		}
	}()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("a client that sends its headers without end was served for 30 s")
	}
	return nil
}
