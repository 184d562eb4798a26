package cli_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pelton-run/pelton/ops/cli"
)

// terminal is one that the test types at and reads.
type terminal struct {
	t      *testing.T
	screen *os.File // what the test has of it
	tty    *os.File // what the program has of it
	seen   strings.Builder
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	screen := os.NewFile(uintptr(fd), "screen")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := screen.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = screen.Close(), tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 12, Col: 120}); err != nil {
		t.Fatal(err)
	}
	return &terminal{t: t, screen: screen, tty: tty}
}

// until reads until text was written that was not before.
func (x *terminal) until(text string) string {
	x.t.Helper()
	x.seen.Reset()
	b := make([]byte, 4096)
	for !strings.Contains(x.seen.String(), text) {
		n, err := x.screen.Read(b)
		if err != nil {
			x.t.Fatalf("waiting for %q: %v after %q", text, err, x.seen.String())
		}
		x.seen.Write(b[:n])
	}
	return x.seen.String()
}

func (x *terminal) mode() unix.Termios {
	x.t.Helper()
	m, err := unix.IoctlGetTermios(int(x.tty.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return *m
}

// lookable is what a dispatcher tells of a fleet: a worker that makes 50 tokens a second by its clock.
type lookable struct {
	down  atomic.Bool
	looks atomic.Int64
}

func (l *lookable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := l.looks.Add(1)
	switch {
	case l.down.Load():
		w.WriteHeader(http.StatusBadGateway)
	case r.URL.Path == "/v1/workers":
		_, _ = fmt.Fprintf(w, `{"data":[{"worker":"host\u001b[2J-1","state":"ready","sent":%d,"started":1,"model":"m","device":"cpu","slots":8,"jobs":[{"job":"j","slots":2}],"stats":{"output_tokens":%d}}]}`, 1000*n, 50*n)
	case r.URL.Path == "/v1/queues":
		_, _ = io.WriteString(w, `{"data":[{"model":"m","class":"p0","size":"s","state":"paused","pending":3},{"model":"m","class":"p0","size":"m","state":"paused","pending":4},{"model":"m","class":"p0","size":"","state":"paused","held":5},{"model":"m","class":"p1","size":"s","state":"open"}]}`)
	case r.URL.Path == "/metrics":
		_, _ = fmt.Fprintf(w, "# HELP x\nprocess_start_time_seconds 1.5e+09\npelton_jobs_total{class=\"p0\",model=\"m\",outcome=\"shed\"} %d\n", n)
		for le, count := range map[string]int64{"0.1": 0, "0.2": 100 * n, "+Inf": 100 * n} {
			_, _ = fmt.Fprintf(w, "pelton_gateway_time_to_first_token_seconds_bucket{class=\"p0\",model=\"m\",le=\"%s\"} %d\n", le, count)
		}
	}
}

// TestTop: top draws the fleet until q, says when the fleet does not answer, recovers, and leaves the terminal as it
// was, whether q or Ctrl-C ends it.
func TestTop(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"q", "\x03"} {
		fleet := &lookable{}
		s := httptest.NewServer(fleet)
		t.Cleanup(s.Close)
		x := openTerminal(t)
		before := x.mode()
		code := make(chan int, 1)
		go func() { code <- cli.Main([]string{"top", "--server", s.URL}, x.tty, x.tty, io.Discard) }()
		frame := x.until("waiting  5 held")
		if !strings.HasPrefix(frame, "\x1b[?1049h") || !strings.Contains(frame, "7 waiting") {
			t.Errorf("the first frame is %q", frame)
		}
		x.until("50.0")
		fleet.down.Store(true)
		x.until("NO ANSWER")
		fleet.down.Store(false)
		x.until("\x1b[H") // one frame may be of before
		if again := x.until("paused") + x.until("\x1b[H"); strings.Contains(again, "\x1b[2J") {
			t.Errorf("a name reaches the terminal as a command: %q", again)
		}
		if _, err := x.screen.WriteString(key); err != nil {
			t.Fatal(err)
		}
		x.until("\x1b[?25h\x1b[?1049l")
		if got := <-code; got != 0 {
			t.Errorf("%q: exit code %d", key, got)
		}
		if x.mode() != before {
			t.Errorf("%q: the terminal is left as %+v, it was %+v", key, x.mode(), before)
		}
	}
}

// TestTopOnce: where the output is no terminal, one plain frame with all figures.
func TestTopOnce(t *testing.T) {
	t.Parallel()
	fleet := &lookable{}
	s := httptest.NewServer(fleet)
	defer s.Close()
	var out, errs strings.Builder
	begin := time.Now()
	if code := cli.Main([]string{"top", "--server", s.URL}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	text := out.String()
	for _, want := range []string{"1 workers  1 running  7 waiting  5 held  50.0 tokens/s", "first token p50 150ms  p95 195ms ", "refused: shed ", "host?[2J-1", "2/8", "p0     paused  7        5"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the frame after %v:\n%s", want, time.Since(begin), text)
		}
	}
	if strings.Contains(text, "\x1b") || strings.Contains(text, "p1") {
		t.Errorf("an escape or an empty class is in the frame:\n%s", text)
	}
	fleet.down.Store(true)
	if code := cli.Main([]string{"top", "--server", s.URL}, strings.NewReader(""), &out, &errs); code != 1 || !strings.Contains(errs.String(), "502") {
		t.Errorf("a door that does not answer: exit code %d, %s", code, errs.String())
	}
}
