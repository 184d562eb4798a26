package hub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

// childVariable makes the test binary call Ensure once, as another pelton would, and exit.
const childVariable = "HUB_TEST_CHILD"

// order is what a child is told to do.
type order struct {
	Index   string
	Root    string
	Variant string
	Catalog []hub.Entry
	Log     string // file to which every conversion appends a line
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		if err := child(text); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child prints each stage and at last the folder.
func child(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	h := hub.New(hub.Config{
		Index: o.Index, Catalog: o.Catalog, Backoff: time.Millisecond,
		Convert: func(ctx context.Context, path, dir string, opt convert.Options) (model.Manifest, error) {
			f, err := os.OpenFile(o.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return model.Manifest{}, err
			}
			_, err = f.WriteString(opt.Variant + "\n")
			if err = errors.Join(err, f.Close()); err != nil {
				return model.Manifest{}, err
			}
			return fakeConvert(ctx, path, dir, opt)
		},
	})
	stage := ""
	dir, _, err := h.Ensure(context.Background(), model.Store{Root: o.Root}, "tiny", o.Variant, func(e hub.Event) {
		if e.Stage != stage {
			stage = e.Stage
			println(stage) // to standard error, unbuffered
		}
	})
	if err == nil {
		_, err = os.Stdout.WriteString(dir)
	}
	return err
}

func (s *setup) child(t *testing.T, log, variant string) *exec.Cmd {
	t.Helper()
	s.settle()
	text, err := json.Marshal(order{Index: s.cfg.Index, Root: s.store.Root, Variant: variant, Catalog: s.cfg.Catalog, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	return cmd
}

func TestProcessesShareOneDownload(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	log := filepath.Join(t.TempDir(), "log")
	// The first to come is held until another one waits for it.
	waiting := make(chan struct{})
	var once sync.Once
	s.file = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		select {
		case <-waiting:
		case <-r.Context().Done():
		}
		return false
	}
	var wg sync.WaitGroup
	for range 3 {
		cmd := s.child(t, log, "q8")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			var said []string
			for lines := bufio.NewScanner(stderr); lines.Scan(); {
				if said = append(said, lines.Text()); lines.Text() == hub.Waiting {
					once.Do(func() { close(waiting) })
				}
			}
			if err := cmd.Wait(); err != nil || out.String() != filepath.Join(s.store.Root, "tiny-model", "q8") {
				t.Errorf("a process ended with %v and %q; it said %q", err, out.String(), said)
			}
		})
	}
	wg.Wait()
	converted, err := os.ReadFile(log)
	if pages, ranges := s.requests(); err != nil || string(converted) != "q8\n" || pages != 1 || len(ranges) != 1 {
		t.Errorf("conversions %q, %v, pages %d, files %q; want one of each", converted, err, pages, ranges)
	}
}

// TestKilledDownloadGoesOn kills a process in the middle of its download.
func TestKilledDownloadGoesOn(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	const sent = 1 << 20
	s.file = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n == 1 {
			s.serve(&staller{cutter{ResponseWriter: w, left: sent}, r.Context()}, r, whl)
		}
		return n == 1
	}
	cmd := s.child(t, filepath.Join(t.TempDir(), "log"), "q8")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if info, err := os.Stat(s.part()); err == nil && info.Size() == sent {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the process fetched nothing within a minute")
		}
		time.Sleep(5 * time.Millisecond) // another process's file has no signal to wait on
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "q8", nil); err != nil {
		t.Fatal(err)
	}
	if _, ranges := s.requests(); len(ranges) != 2 || ranges[1] != "bytes=1048576-" {
		t.Errorf("ranges asked for: %q, want the second to go on at 1 MiB", ranges)
	}
}

// TestKilledConversionLeavesNothingVisible kills a process while it converts.
func TestKilledConversionLeavesNothingVisible(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	// The conversion blocks on opening this pipe's other end, which nobody opens for reading.
	log := filepath.Join(t.TempDir(), "log")
	makePipe(t, log)
	cmd := s.child(t, log, "q8")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.HasPrefix(lines.Text(), "converting"); {
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, stderr)
	_ = cmd.Wait()
	if list, err := s.store.List(); err != nil || len(list) != 0 {
		t.Errorf("the store lists %v, %v after a killed conversion; want nothing", list, err)
	}
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "q8", nil); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(filepath.Join(s.store.Root, "tiny-model"))
	if len(left) != 1 {
		t.Errorf("the model's folder holds %v, want only q8", left)
	}
}

func TestWaitingCanBeCanceled(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	ctx, cancel := context.WithCancel(t.Context())
	held, release := make(chan struct{}), make(chan struct{})
	s.file = func(http.ResponseWriter, *http.Request, int) bool { close(held); <-release; return false }
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
			t.Errorf("the first Ensure: %v", err)
		}
	})
	<-held
	_, _, err := s.Ensure(ctx, s.store, "tiny", "", func(e hub.Event) {
		if e.Stage == hub.Waiting {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the second Ensure = %v, want context.Canceled", err)
	}
	close(release)
	wg.Wait()
}

func TestGoroutinesShareOneConversion(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var made []string
	s := newSetup(t, func(c *hub.Config) {
		c.Convert = func(ctx context.Context, path, dir string, opt convert.Options) (model.Manifest, error) {
			mu.Lock()
			made = append(made, opt.Variant)
			mu.Unlock()
			return fakeConvert(ctx, path, dir, opt)
		}
	})
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", []string{"q8", "fp32"}[i%2], nil); err != nil {
				t.Errorf("Ensure: %v", err)
			}
		})
	}
	wg.Wait()
	if _, ranges := s.requests(); len(made) != 2 || len(ranges) != 1 {
		t.Errorf("conversions %v, files %q; want q8 and fp32 from one download", made, ranges)
	}
}
