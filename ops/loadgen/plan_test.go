package loadgen_test

import (
	"io"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// moments are the rate of the arrivals and the coefficient of variation of their gaps.
func moments(times []time.Duration) (rate, cv float64) {
	var sum, squares float64
	last := time.Duration(0)
	for _, t := range times {
		gap := (t - last).Seconds()
		sum, squares, last = sum+gap, squares+gap*gap, t
	}
	n := float64(len(times))
	mean := sum / n
	return 1 / mean, math.Sqrt(squares/n-mean*mean) / mean
}

func TestArrivals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		process loadgen.Process
		cv      float64
	}{
		{loadgen.Process{Kind: "poisson", Rate: 50}, 1},
		{loadgen.Process{Kind: "constant", Rate: 50}, 0},
		{loadgen.Process{Kind: "gamma", Rate: 50, CV: 0.5}, 0.5},
		{loadgen.Process{Kind: "gamma", Rate: 50, CV: 1}, 1},
		{loadgen.Process{Kind: "gamma", Rate: 50, CV: 3}, 3},
	} {
		for seed := range uint64(5) {
			times := c.process.Draw(seeded(seed), 2000*time.Second, 0) // 100,000 arrivals
			rate, cv := moments(times)
			if math.Abs(rate-50) > 50*0.01*(1+2*c.cv) || math.Abs(cv-c.cv) > 0.03*(1+c.cv) {
				t.Errorf("%+v, seed %d: rate %.2f and cv %.3f, want 50 and %v", c.process, seed, rate, cv, c.cv)
			}
			if !slices.IsSorted(times) || times[len(times)-1] >= 2000*time.Second {
				t.Errorf("%+v, seed %d: times are not in order or beyond the end", c.process, seed)
			}
		}
	}
	p := loadgen.Process{Kind: "poisson", Rate: 50}
	if a, b := p.Draw(seeded(1), time.Minute, 0), p.Draw(seeded(1), time.Minute, 0); !slices.Equal(a, b) {
		t.Error("the same seed gave two plans")
	}
	if n := len(loadgen.Process{Kind: "poisson", Rate: 1e-12}.Draw(seeded(1), time.Minute, 3)); n != 0 {
		t.Errorf("%d arrivals in a minute at one in 30,000 years", n)
	}
	if n := len(p.Draw(seeded(1), time.Minute, 7)); n != 7 {
		t.Errorf("%d arrivals, at most 7 were asked for", n)
	}
	for _, bad := range []loadgen.Process{{Kind: "uniform", Rate: 1}, {Kind: "poisson"}, {Kind: "gamma", Rate: 1}, {Kind: "poisson", Rate: math.Inf(1)}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
}

func TestMix(t *testing.T) {
	t.Parallel()
	classes, err := loadgen.ParseWeights("p1:1,p3:3")
	if err != nil {
		t.Fatal(err)
	}
	input, err := loadgen.ParseLengths("100-900")
	if err != nil {
		t.Fatal(err)
	}
	m := loadgen.Mix{Input: input, Output: loadgen.Lengths{Low: 7, High: 7}, MaxInput: 800, Classes: classes, CancelShare: 0.25, CancelAfter: time.Second}
	const n = 20_000
	p := make(loadgen.Plan, n)
	p[0].Input, p[0].Output = 5000, 3 // as a trace says
	p = m.Fill(seeded(3), p)
	var urgent, canceled, sum float64
	for _, r := range p[1:] {
		if r.Class == "p1" {
			urgent++
		}
		if r.CancelAfter > 0 {
			canceled++
		}
		if r.Input < 100 || r.Input > 800 || r.Output != 7 || r.Tenant != "" {
			t.Fatalf("request %+v", r)
		}
		sum += float64(r.Input)
	}
	if p[0].Input != 800 || p[0].Output != 3 {
		t.Errorf("the trace's lengths 5000 and 3 became %d and %d, want 800 and 3", p[0].Input, p[0].Output)
	}
	if math.Abs(urgent/n-0.25) > 0.015 || math.Abs(canceled/n-0.25) > 0.015 {
		t.Errorf("shares %.3f of p1 and %.3f canceled, want 0.25", urgent/n, canceled/n)
	}
	// uniform on 100 to 900 with the upper 100 cut to 800
	if want := (700.0*449.5 + 101*800) / 801; math.Abs(sum/n-want) > 5 {
		t.Errorf("mean input %.1f, want %.1f", sum/n, want)
	}
	for _, bad := range []string{"a:0", ":1", "a:x", "a:1,", "a:NaN"} {
		if _, err := loadgen.ParseWeights(bad); err == nil {
			t.Errorf("weights %q are valid", bad)
		}
	}
	for _, bad := range []string{"", "0", "9-3", "a", "1-"} {
		if _, err := loadgen.ParseLengths(bad); err == nil {
			t.Errorf("lengths %q are valid", bad)
		}
	}
}

func trace(t *testing.T, name string, w loadgen.Window) loadgen.Plan {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	p, err := loadgen.ReadTrace(f, seeded(1), w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestUnreadableTrace: one that is empty is told from one that cannot be read, such as a folder.
func TestUnreadableTrace(t *testing.T) {
	t.Parallel()
	folder, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	for says, in := range map[string]io.Reader{"is empty: give one": strings.NewReader(""), "is a directory": folder} {
		if _, err := loadgen.ReadTrace(in, rand.New(rand.NewPCG(1, 1)), loadgen.Window{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

func TestTraces(t *testing.T) {
	t.Parallel()
	p := trace(t, "azure_conv.csv", loadgen.Window{})
	if len(p) != 1000 || p[0].At != 0 || p[0].Input != 374 || p[0].Output != 44 || p[1].At != 4314579*time.Microsecond {
		t.Errorf("azure: %d requests, first %+v, second %+v", len(p), p[0], p[1])
	}
	fast := trace(t, "azure_conv.csv", loadgen.Window{From: 4 * time.Second, Until: time.Second, Speed: 10})
	want := 0
	for _, r := range p {
		if r.At >= 4*time.Second && r.At < 14*time.Second {
			want++
		}
	}
	if len(fast) != want || fast[0].At != 31457900*time.Nanosecond {
		t.Errorf("azure, 4 s to 14 s at speed 10: %d requests from %v, want %d from 31.4579ms", len(fast), fast[0].At, want)
	}
	m := trace(t, "mooncake_conversation.jsonl", loadgen.Window{})
	if len(m) != 300 || m[0].Input != 6758 || m[0].Output != 500 || !reflect.DeepEqual(m[1].Blocks[:2], []int64{0, 14}) {
		t.Errorf("mooncake: %d requests, first %+v", len(m), m[0])
	}
	late, err := loadgen.ReadTrace(strings.NewReader("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,76,0\n"),
		seeded(1), loadgen.Window{Until: math.MaxInt64, Speed: 1e9})
	if err != nil || len(late) != 2 || late[0].Input != 2162 || late[1].Output != 1 {
		t.Errorf("azure of 2024: %+v, %v", late, err)
	}
	if slow := trace(t, "azure_conv.csv", loadgen.Window{Speed: 1e-12}); len(slow) != 1 || slow[0].At != 0 {
		t.Errorf("of a trace so slow that the second request comes after centuries: %+v", slow)
	}
	half := trace(t, "azure_code.csv", loadgen.Window{Share: 0.5})
	if len(half) < 430 || len(half) > 570 {
		t.Errorf("half of 1000 requests are %d", len(half))
	}
	for _, bad := range []string{"", "a,b\n1,2\n", "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,2\n", `{"timestamp": "x"}`,
		`{"timestamp": -1}`, `{"timestamp": 1e300}`, `{"timestamp": 0, "input_length": -1}`, `{"timestamp": 0, "output_length": 1000000000000}`, `{"prompt": "of pelton submit"}`,
		"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:01+00:00,1000000000000,1\n",
		"client,start_s,rate_rps,cv,distribution,p1,p2\n1,0,1,1,Pareto,1,1\n", "client,start_s,rate_rps,cv,distribution,p1,p2\n1,x,1,1,Gamma,1,1\n",
		"client,start_s,rate_rps,cv,distribution,p1,p2\n1,0,-1,1,Gamma,1,1\n", "client,start_s,rate_rps,cv,distribution,p1,p2\n1,0,1e300,1,Gamma,1,1\n",
		"client,start_s,rate_rps,cv,distribution,p1,p2\n1,0,1,1,Gamma,NaN,1\n", "client,start_s,rate_rps,cv,distribution,p1,p2\n1,0,1,1,Weibull,0,1\n",
		"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,1,1\n"} {
		if p, err := loadgen.ReadTrace(strings.NewReader(bad), seeded(1), loadgen.Window{}); err == nil {
			t.Errorf("trace %q: %d requests and no error", bad, len(p))
		}
	}
}

// TestServeGen: the rates of the clients' windows are kept, and a single client has the CV it is fitted to.
func TestServeGen(t *testing.T) {
	t.Parallel()
	p := trace(t, "servegen_m-large.csv", loadgen.Window{Until: 600 * time.Second})
	const rate = 199.279 // of the first window, summed over the file
	if got := float64(len(p)) / 600; math.Abs(got-rate) > 0.1 {
		t.Errorf("%.2f requests a second, the clients ask for %v", got, rate)
	}
	for _, c := range []struct {
		fit string
		cv  float64 // Gamma: 1/√shape; Weibull of shape 0.5: √5
	}{{"Gamma,0.25,1", 2}, {"Weibull,0.5,1", math.Sqrt(5)}} {
		p, err := loadgen.ReadTrace(strings.NewReader("client,start_s,rate_rps,cv,distribution,p1,p2\n1,0,100,2,"+c.fit+"\n"), seeded(2), loadgen.Window{})
		if err != nil {
			t.Fatal(err)
		}
		var times []time.Duration
		for _, r := range p {
			times = append(times, r.At)
		}
		if _, cv := moments(times); len(times) != 60_000 || math.Abs(cv-c.cv) > 0.12 {
			t.Errorf("%s: %d arrivals with cv %.3f, want 60000 with %.3f", c.fit, len(times), cv, c.cv)
		}
	}
}

// TestPrompts: lengths follow the gauge, shared blocks are shared text, other prompts differ at once.
func TestPrompts(t *testing.T) {
	t.Parallel()
	p := loadgen.Prompter{PerToken: 4, Overhead: 10}
	a := p.Prompt(loadgen.Request{Input: 1000, Seed: 1})
	if len(a) != 3960 || a != p.Prompt(loadgen.Request{Input: 1000, Seed: 1}) {
		t.Errorf("1000 tokens of 4 characters less 10 are %d characters, want 3960, always the same", len(a))
	}
	if b := p.Prompt(loadgen.Request{Input: 1000, Seed: 2}); b[:64] == a[:64] {
		t.Error("two prompts begin alike and would share a prefix cache")
	}
	x := p.Prompt(loadgen.Request{Input: 1034, Seed: 1, Blocks: []int64{7, 8, 9}})
	y := p.Prompt(loadgen.Request{Input: 1034, Seed: 2, Blocks: []int64{7, 8, 10}})
	if len(x) != 4096 || x != y {
		t.Errorf("two blocks of 512 tokens are %d and %d characters, want the same 4096", len(x), len(y))
	}
	if z := p.Prompt(loadgen.Request{Input: 1034, Blocks: []int64{7, 11}}); z[:2048] != x[:2048] || z[2048:] == x[2048:] {
		t.Error("only the first of two blocks should be shared")
	}
}
