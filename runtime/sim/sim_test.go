package sim_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/enginetest"
	"github.com/pelton-run/pelton/runtime/sim"
)

// instant lets the device's time pass at once.
func instant(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func profile(t testing.TB, name string) sim.Profile {
	t.Helper()
	p, err := sim.ProfileFor(name)
	if err != nil {
		t.Fatalf("ProfileFor(%q) = %v, want a profile", name, err)
	}
	return p
}

func TestConformance(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(*testing.T) engine.Engine {
		return sim.New(sim.Config{Sleep: instant})
	}, enginetest.Options{
		SetBudget: func(e engine.Engine, bytes int64) { e.(*sim.Engine).SetKVBudget(bytes) },
		Checks:    200,
	})
}

func TestStepTime(t *testing.T) {
	t.Parallel()
	h100, small := profile(t, "sim:h100"), profile(t, "h100-2.7b")
	for _, c := range []struct {
		name      string
		p         sim.Profile
		fed, rows int
		held      int
		want      time.Duration
	}{
		{"one token", h100, 0, 1, 1, 7200 * time.Microsecond},
		{"64 sequences at 1,000 tokens", h100, 0, 64, 64000, 10555 * time.Microsecond},
		{"prefill of 512", h100, 512, 0, 512, 11523 * time.Microsecond},
		{"prefill of 4096", h100, 4096, 0, 4096, 85183 * time.Microsecond},
		{"one token of the small model", small, 0, 1, 1, 3800 * time.Microsecond},
		{"one token on A100", profile(t, "a100"), 0, 1, 1, 11540 * time.Microsecond},
		{"one token on L40S", profile(t, "l40s"), 0, 1, 1, 17740 * time.Microsecond},
		{"one token on H200", profile(t, "h200"), 0, 1, 1, 5340 * time.Microsecond},
	} {
		if got := c.p.Step(c.fed, c.rows, c.held); math.Abs(float64(got-c.want)) > float64(c.want)/100 {
			t.Errorf("%s: Step(%d, %d, %d) = %v, want %v", c.name, c.fed, c.rows, c.held, got, c.want)
		}
	}
}

func TestProfileFor(t *testing.T) {
	t.Parallel()
	for _, name := range append(sim.Devices(), "sim", "sim:h100", "H100") {
		if p := profile(t, name); p.KVMemory <= 0 || p.C0 <= 0 || p.KVBandwidth <= 0 || p.KVBytesPerToken <= 0 {
			t.Errorf("ProfileFor(%q) = %+v, want positive figures", name, p)
		}
	}
	if _, err := sim.ProfileFor("sim:tpu"); err == nil || !strings.Contains(err.Error(), "h100") {
		t.Errorf("ProfileFor(sim:tpu) = %v, want an error that lists the devices", err)
	}
}

// TestVirtualTime runs in real time on a virtual clock.
func TestVirtualTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := profile(t, "h100")
		p.Jitter = 0
		e := sim.New(sim.Config{Profile: p})
		seq, err := e.Open(512)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := e.Step(t.Context(), []*engine.Row{{Seq: seq, Tokens: make([]int32, 256)}}); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Since(start), p.Step(256, 0, 256); got != want {
			t.Errorf("a prefill of 256 took %v, want %v", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := e.Step(ctx, []*engine.Row{{Seq: seq, Tokens: []int32{1}}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Step with 1 ms left = %v, want %v", err, context.DeadlineExceeded)
		}
		if got, want := e.Memory().Used, 256*p.KVBytesPerToken; got != want {
			t.Errorf("after a canceled step %d bytes are used, want %d as before", got, want)
		}
	})
}

func TestJitterIsSeeded(t *testing.T) {
	t.Parallel()
	times := func(seed uint64) (out []time.Duration) {
		e := sim.New(sim.Config{Seed: seed, Sleep: func(_ context.Context, d time.Duration) error {
			out = append(out, d)
			return nil
		}})
		seq, err := e.Open(100)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if err := e.Step(t.Context(), []*engine.Row{{Seq: seq, Tokens: []int32{'a'}}}); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	a, b, c := times(1), times(1), times(2)
	var sum float64
	same := 0
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("step %d took %v and %v with one seed", i, a[i], b[i])
		}
		if a[i] == c[i] {
			same++
		}
		sum += float64(a[i])
	}
	if same > 2 {
		t.Errorf("%d of 100 steps took the same time with another seed", same)
	}
	if mean := time.Duration(sum / 100); mean < 6*time.Millisecond || mean > 8*time.Millisecond {
		t.Errorf("mean step %v, want about 7.2 ms", mean)
	}
}

// write generates n greedy bytes, by the logits and by what the engine says is likeliest.
func write(t *testing.T, e *sim.Engine, prompt string, n int) (text string, ended int) {
	t.Helper()
	seq, err := e.Open(len(prompt) + n)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(seq)
	other, err := e.Open(len(prompt) + n)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(other)
	var ids []int32
	for _, b := range []byte(prompt) {
		ids = append(ids, int32(b))
	}
	var out strings.Builder
	for range n {
		row := &engine.Row{Seq: seq, Tokens: ids, Sample: true}
		short := &engine.Row{Seq: other, Tokens: ids, Sample: true, Likeliest: true}
		if err := e.Step(t.Context(), []*engine.Row{row, short}); err != nil || row.Err != nil || short.Err != nil {
			t.Fatal(err, row.Err, short.Err)
		}
		best := 0
		for i, v := range row.Logits {
			if v > row.Logits[best] {
				best = i
			}
		}
		if int(short.Token) != best || short.Logits != nil {
			t.Fatalf("behind %q %q is called the likeliest, with %d logits; the largest is %q's", out.String(), rune(short.Token), len(short.Logits), rune(best))
		}
		if best > 255 {
			ended++
		} else {
			out.WriteByte(byte(best))
		}
		ids = []int32{int32(best)}
	}
	return out.String(), ended
}

func TestTextIsWords(t *testing.T) {
	t.Parallel()
	e := sim.New(sim.Config{Sleep: instant})
	seen := map[string]bool{}
	for _, prompt := range []string{"Why is the sky blue?", "Why is the sky blue", "\n", "Ü", "assistant\n"} {
		text, ended := write(t, e, prompt, 400)
		if ended > 0 {
			t.Errorf("%q ended %d times, want never unless asked", prompt, ended)
		}
		words := strings.Fields(text)
		if len(words) < 50 || len(words) > 200 {
			t.Errorf("%q gives %d words in 400 bytes, want 50 to 200: %q", prompt, len(words), text)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			t.Errorf("%q gives the unprintable %q", prompt, text[i:])
		}
		if seen[text] {
			t.Errorf("%q gives the text of another prompt", prompt)
		}
		seen[text] = true
	}
}

func TestEndsWhenAsked(t *testing.T) {
	t.Parallel()
	_, ended := write(t, sim.New(sim.Config{Sleep: instant, EndOneIn: 20}), "a river", 2000)
	if ended < 50 || ended > 160 {
		t.Errorf("%d of 2000 positions end, want about 100", ended)
	}
}

func BenchmarkStep(b *testing.B) {
	e := sim.New(sim.Config{Sleep: instant, KVBudget: 1 << 40})
	var rows []*engine.Row
	for range 64 {
		seq, err := e.Open(8192)
		if err != nil {
			b.Fatal(err)
		}
		rows = append(rows, &engine.Row{Seq: seq, Tokens: []int32{'a'}, Sample: true, Likeliest: true})
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; i%8000 == 0 {
			for _, r := range rows {
				e.Close(r.Seq)
				r.Seq, _ = e.Open(8192)
			}
		}
		if err := e.Step(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
	}
}

// A profile that is written and read is the same one, and what a file may not say is refused.
func TestProfileFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, name := range sim.Devices() {
		want := profile(t, name)
		var b strings.Builder
		if err := want.Write(&b); err != nil {
			t.Fatal(err)
		}
		if got := profile(t, "sim:"+write(name+".json", b.String())); got != want {
			t.Errorf("read %+v, want what was written: %+v", got, want)
		}
	}
	for name, text := range map[string]string{
		"empty.json": "", "unknown.json": `{"name":"x","speed":1}`, "zero.json": `{"name":"x"}`, "negative.json": `{"name":"x","c0_ms":-1,"kv_bytes_per_second":1,"kv_bytes_per_token":1,"kv_memory":100}`,
		"large.json": strings.Repeat(" ", 70_000),
		"still.json": `{"name":"x","c0_ms":1,"kv_bytes_per_second":1e-300,"kv_bytes_per_token":1,"kv_memory":100}`,
		"token.json": `{"name":"x","c0_ms":1,"kv_bytes_per_second":1,"kv_bytes_per_token":1000000000000000000,"kv_memory":100}`,
	} {
		if p, err := sim.ProfileFor(write(name, text)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %+v, %v, want an error that names the file", name, p, err)
		}
	}
	if h := profile(t, "h100:2.7b"); h != profile(t, "h100-2.7b") || profile(t, "h100:8b") != profile(t, "h100") {
		t.Errorf("h100:2.7b is %+v, want h100-2.7b", h)
	}
}
