// Package harness starts real fleets for tests: the pelton binary as processes of its own.
//
// It belongs to integration/ and is used by its tests only. Processes are started with ports that the
// system chooses, in data folders of the test, are ended by the process id they were started with, and on Linux by
// the kernel when the tests are killed.
package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var folder string // of the binary, once it is built

var build = sync.OnceValues(func() (string, error) {
	var err error
	if folder, err = os.MkdirTemp("", "pelton-test-"); err != nil {
		return "", err
	}
	bin := filepath.Join(folder, "pelton")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/pelton-run/pelton/ops/cmd/pelton").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// Binary is the path of the pelton binary, built once for the test process.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Main is what TestMain of a package that starts fleets calls: it runs the tests, and removes the binary after them.
// When `go test` is killed, which does not end the tests, it ends them.
func Main(m *testing.M) {
	end := func(code int) {
		if folder != "" {
			_ = os.RemoveAll(folder)
		}
		os.Exit(code)
	}
	parent := os.Getppid()
	if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent)); string(name) == "go\n" {
		go func() {
			for os.Getppid() == parent {
				time.Sleep(time.Second)
			}
			end(1)
		}()
	}
	end(m.Run())
}

// Process is a running `pelton up`, `pelton worker` or `pelton dispatcher`.
type Process struct {
	HTTP string // base URL of the HTTP door, "" when it has none
	NATS string // URL of the broker

	t      testing.TB
	cmd    *exec.Cmd
	exited chan struct{}
	stderr *buffer
}

// buffer keeps the end of what a process printed.
type buffer struct {
	wanted string        // closes seen when it was printed, unless empty
	seen   chan struct{} // closed once
	mu     sync.Mutex
	b      []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	if b.wanted != "" && strings.Contains(string(b.b), b.wanted) {
		b.wanted = ""
		close(b.seen)
	}
	if len(b.b) > 64<<10 {
		b.b = b.b[len(b.b)-32<<10:]
	}
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}

// startTime is how long a process may take to say that it is ready; loading a model on a busy machine
// takes some seconds.
const startTime = 2 * time.Minute

// Start runs the binary with args and waits for the word "ready". The process is killed at the end of
// the test if it still runs.
func Start(t testing.TB, args ...string) *Process {
	t.Helper()
	return start(t, nil, "", args)
}

// StartParts is Start for a dispatcher or a broker that nobody serves yet: it waits until the process is
// up. The process must be given its addresses, because it prints them when it is ready.
func StartParts(t testing.TB, args ...string) *Process {
	t.Helper()
	return start(t, nil, "up; ", args)
}

// start waits for the word "ready", or for up on stderr unless it is empty. The process is in box from
// its first byte of memory, unless that is nil.
func start(t testing.TB, box *Box, up string, args []string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: box.Command(Binary(t), args...), exited: make(chan struct{}), stderr: &buffer{wanted: up, seen: make(chan struct{})}}
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Begin(p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	ready := make(chan error, 2)
	go p.read(stdout, ready, args[0] == "worker")
	select {
	case err := <-ready:
		if err != nil {
			t.Fatalf("pelton %s: %v\n%s", strings.Join(args, " "), err, p.stderr)
		}
	case <-p.stderr.seen:
	case <-time.After(startTime):
		t.Fatalf("pelton %s: not ready after %s\n%s", strings.Join(args, " "), startTime, p.stderr)
	}
	return p
}

// Up starts a whole fleet on ports of its own with its streams in data.
func Up(t testing.TB, data string, args ...string) *Process {
	t.Helper()
	return Start(t, append([]string{"up", "--http", "127.0.0.1:0", "--nats", "127.0.0.1:0", "--data", data}, args...)...)
}

// UpIn is Up for a fleet that is confined to a box.
func UpIn(t testing.TB, box *Box, data string, args ...string) *Process {
	t.Helper()
	return start(t, box, "", append([]string{"up", "--http", "127.0.0.1:0", "--nats", "127.0.0.1:0", "--data", data}, args...))
}

// read waits for the lines that name the addresses and then for the end of the output. A worker has no
// address but the broker's.
func (p *Process) read(stdout io.Reader, ready chan<- error, worker bool) {
	lines := bufio.NewScanner(stdout)
	seen := false
	for lines.Scan() {
		word, value, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ready":
			seen = true
		case "nats":
			p.NATS = strings.TrimSpace(value)
			if worker && seen {
				seen = false
				ready <- nil
			}
		case "http":
			p.HTTP = strings.TrimSpace(value)
		case "":
			if seen {
				seen = false
				ready <- nil
			}
		}
	}
	_ = p.cmd.Wait()
	close(p.exited)
	ready <- errors.New("it ended")
}

// Signal sends a signal and does not wait.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the end of what the process wrote on stderr.
func (p *Process) Log() string { return p.stderr.String() }

// Kill ends the process at once, as kill -9 does, and waits until it is gone.
func (p *Process) Kill() { p.end(syscall.SIGKILL, time.Minute) }

// Stop asks the process to drain and waits until it is gone.
func (p *Process) Stop() { p.end(syscall.SIGTERM, time.Minute) }

// Exit waits until the process ends by itself and returns its exit code.
func (p *Process) Exit() int {
	select {
	case <-p.exited:
	case <-time.After(startTime):
		p.t.Fatalf("process %d did not end within %s\n%s", p.PID(), startTime, p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *Process) end(sig syscall.Signal, limit time.Duration) {
	select {
	case <-p.exited:
		return
	default:
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.exited:
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		p.t.Errorf("process %d did not end within %s after %s\n%s", p.PID(), limit, sig, p.stderr)
	}
}

// Peak is the largest resident memory the process ever had, in bytes (VmHWM).
func (p *Process) Peak() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("VmHWM is missing")
}

// Get reads a path of the HTTP door.
func (p *Process) Get(ctx context.Context, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.HTTP+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}
