//go:build cgo && (linux || darwin)

package onnx_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/enginetest"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

func open(t testing.TB, change func(*onnx.Config)) *onnx.Engine {
	t.Helper()
	c := onnx.Config{ModelDir: modelDir(t), Library: libraryPath(t), Device: testDevice(t)}
	if change != nil {
		change(&c)
	}
	m, err := onnx.OpenModel(c)
	e, ours := m.(*onnx.Engine)
	if !ours {
		t.Fatalf("OpenModel(%+v) = %T, %v, want an engine", c, m, err)
	}
	t.Cleanup(func() {
		if err := e.Shutdown(); err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
	})
	return e
}

func TestConformance(t *testing.T) {
	conform(t, nil, 8)
}

// The variant of our own operators conforms on every processor, also where another is the default.
func TestConformanceOfQ4(t *testing.T) {
	dir, _, err := hub.Ensure(t.Context(), model.Store{Root: model.DefaultRoot()}, hub.Default, convert.Q4, nil)
	if err != nil {
		t.Fatal(err)
	}
	if dir == modelDir(t) {
		t.Skip("it is the default here: TestConformance")
	}
	conform(t, func(c *onnx.Config) { c.ModelDir = dir }, 4)
}

// The variant for AMX conforms on every processor: a tiny model of it, since others compute it slowly.
func TestConformanceOfBF16W4(t *testing.T) {
	path, dir := unpack(t, "llama.gguf"), t.TempDir()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const key = "llama.context_length" // then its type: 64 tokens are less than a block of memory
	binary.LittleEndian.PutUint32(raw[bytes.Index(raw, []byte(key))+len(key)+4:], 1024)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := convert.FromGGUF(t.Context(), path, dir, convert.Options{Variant: convert.BF16W4}); err != nil {
		t.Fatal(err)
	}
	conform(t, func(c *onnx.Config) { c.ModelDir = dir }, 4)
}

func conform(t *testing.T, change func(*onnx.Config), checks int) {
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		return open(t, change)
	}, enginetest.Options{
		SetBudget: func(e engine.Engine, bytes int64) { e.(onnx.Model).SetKVBudget(bytes) },
		Longest:   90,
		Checks:    checks,
	})
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir, lib := modelDir(t), libraryPath(t)
	noLibrary := filepath.Join(t.TempDir(), "libonnxruntime.so")
	for _, c := range []struct {
		name string
		cfg  onnx.Config
		want string
	}{
		{"nothing", onnx.Config{}, "PELTON_ORT_LIB"},
		{"no model", onnx.Config{Library: lib}, "no model folder"},
		{"empty folder", onnx.Config{ModelDir: t.TempDir(), Library: lib}, "not found"},
		{"no library", onnx.Config{ModelDir: dir}, "PELTON_ORT_LIB"},
		{"missing library", onnx.Config{ModelDir: dir, Library: noLibrary}, "PELTON_ORT_LIB"},
		{"folder as library", onnx.Config{ModelDir: dir, Library: t.TempDir()}, "PELTON_ORT_LIB"},
		{"threads", onnx.Config{ModelDir: dir, Library: lib, Threads: -1}, "threads is -1"},
		{"sequences", onnx.Config{ModelDir: dir, Library: lib, MaxSequences: 1 << 20}, "most sequences"},
		{"chunk", onnx.Config{ModelDir: dir, Library: lib, MaxStepTokens: 1}, "most tokens of a step"},
		{"budget", onnx.Config{ModelDir: dir, Library: lib, KVBudget: -1}, "kv budget"},
		{"changed graph", onnx.Config{ModelDir: damaged(t, dir), Library: lib}, "pull the model again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := onnx.OpenModel(c.cfg)
			if err == nil {
				_ = e.Shutdown()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("OpenModel(%+v) = %v, want an error with %q", c.cfg, err, c.want)
			}
		})
	}
}

// damaged is a copy of a model folder of which one byte of the graph differs.
func damaged(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range entries {
		from, to := filepath.Join(dir, f.Name()), filepath.Join(out, f.Name())
		if f.Name() != model.GraphFile {
			if err := os.Symlink(from, to); err != nil {
				t.Fatal(err)
			}
			continue
		}
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// logitsOf feeds a prompt and n greedy tokens to a fresh sequence.
func logitsOf(t testing.TB, e *onnx.Engine, prompt []int32, n int) (out [][]float32) {
	t.Helper()
	seq, err := e.Open(len(prompt) + n)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(seq)
	row := &engine.Row{Seq: seq, Tokens: prompt, Sample: true}
	for range n + 1 {
		if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
			t.Fatal(err, row.Err)
		}
		out = append(out, slices.Clone(row.Logits))
		row = &engine.Row{Seq: seq, Tokens: []int32{greedy(row.Logits)}, Sample: true}
	}
	return out
}

func greedy(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}

func someTokens(e *onnx.Engine, n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((i*131 + 977) % e.Info().Vocab)
	}
	return out
}

// TestBitsDoNotDependOnThreads opens the same model with other settings: equal fingerprints promise
// equal bits.
func TestBitsDoNotDependOnThreads(t *testing.T) {
	a := open(t, func(c *onnx.Config) { c.Threads = 1 })
	b := open(t, func(c *onnx.Config) { c.Threads, c.Spin, c.MaxSequences, c.MaxStepTokens = 2, onnx.SpinOff, 3, 33 })
	if a.Info().Fingerprint != b.Info().Fingerprint {
		t.Errorf("fingerprints %q and %q, want equal ones", a.Info().Fingerprint, b.Info().Fingerprint)
	}
	prompt := someTokens(a, 20)
	want, got := logitsOf(t, a, prompt, 6), logitsOf(t, b, prompt, 6)
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("logits %d differ between 1 thread and 2", i)
		}
	}
}

func TestLogitsOfEachPosition(t *testing.T) {
	e := open(t, nil)
	for _, n := range []int{1, 2, 20, 65, 130} {
		tokens := someTokens(e, n)
		all, err := e.Logits(t.Context(), tokens)
		if err != nil || len(all) != n {
			t.Fatalf("Logits of %d tokens = %d rows, %v", n, len(all), err)
		}
		if n > e.Info().MaxStepTokens {
			continue
		}
		if want := logitsOf(t, e, tokens, 0)[0]; !slices.Equal(all[n-1], want) {
			t.Errorf("the last of %d rows differs from the sampled one", n)
		}
	}
	if _, err := e.Logits(t.Context(), []int32{-1}); !errors.Is(err, engine.ErrBadToken) {
		t.Errorf("Logits of a bad token = %v, want %v", err, engine.ErrBadToken)
	}
	if _, err := e.Logits(t.Context(), nil); err == nil {
		t.Error("Logits of nothing = nil, want an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Logits(ctx, someTokens(e, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("Logits with a canceled context = %v, want %v", err, context.Canceled)
	}
	if m := e.Memory(); m.Reserved != 0 {
		t.Errorf("after Logits Memory() = %+v, want nothing reserved", m)
	}
}

// TestCancelsRunningStep cancels a step in its first quarter, as long as one takes on this machine, and earlier if the
// cancel came too late.
func TestCancelsRunningStep(t *testing.T) {
	e := open(t, func(c *onnx.Config) { c.MaxStepTokens = 512 })
	prompt := someTokens(e, 512)
	start := time.Now()
	logitsOf(t, e, prompt, 0)
	whole := time.Since(start)
	var seq engine.Seq
	for delay := whole / 4; ; delay /= 2 {
		var err error
		if seq, err = e.Open(2000); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(delay, cancel)
		start = time.Now()
		err = e.Step(ctx, []*engine.Row{{Seq: seq, Tokens: prompt, Sample: true}})
		took := time.Since(start)
		timer.Stop()
		cancel()
		if errors.Is(err, context.Canceled) {
			t.Logf("a step of %d tokens, %v, canceled after %v came back after %v", len(prompt), whole, delay, took)
			break
		}
		if e.Close(seq); err != nil || delay == 0 {
			t.Fatalf("Step canceled after %v = %v after %v, want %v", delay, err, took, context.Canceled)
		}
	}
	defer e.Close(seq)
	if e.Memory().Used != 0 {
		t.Errorf("after a canceled step Memory() = %+v, want nothing used", e.Memory())
	}
	row := &engine.Row{Seq: seq, Tokens: prompt[:30], Sample: true}
	if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
		t.Fatalf("Step after a canceled one = %v, %v, want nil", err, row.Err)
	}
	if want := logitsOf(t, e, prompt[:30], 0)[0]; !slices.Equal(row.Logits, want) {
		t.Error("the sequence of a canceled step gives other logits than a fresh one")
	}
}

// anonymous is the process's resident memory that no file backs, in bytes: a kernel may drop pages of
// the weights' file and of the program at any time.
func anonymous(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("RssAnon is missing")
	return 0
}

// TestResidentMemoryIsWhatIsReserved fills the cache and compares the account with the system's. It has two threads
// on any machine: each takes some memory of its own.
func TestResidentMemoryIsWhatIsReserved(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("resident memory is exact on linux only")
		return
	}
	e := open(t, func(c *onnx.Config) { c.Threads = 2 })
	weights, arena := e.Footprint()
	debug.FreeOSMemory()
	before := anonymous(t)
	var open []engine.Seq
	for i := range 5 {
		seq, err := e.Open(600)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, seq)
		for fed := 0; fed < 512; fed += 64 {
			row := &engine.Row{Seq: seq, Tokens: someTokens(e, 64)}
			if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
				t.Fatal(i, err, row.Err)
			}
		}
	}
	debug.FreeOSMemory()
	held := anonymous(t) - before
	used := e.Memory().Used
	const slack = 12 << 20
	if held < used-slack || held > used+slack {
		t.Errorf("with %s used the process grew by %s", memory.FormatSize(used), memory.FormatSize(held))
	}
	for _, s := range open {
		e.Close(s)
	}
	left := anonymous(t) - before
	if left > slack {
		t.Errorf("after Close the process still holds %s more than before", memory.FormatSize(left))
	}
	t.Logf("weights %s, arena %s; kv used %s, resident %s, left after close %s", memory.FormatSize(weights), memory.FormatSize(arena),
		memory.FormatSize(used), memory.FormatSize(held), memory.FormatSize(left))
}
