package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/dispatcher/gateway/sdkcheck"
	"github.com/pelton-run/pelton/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// model is the default model; `make race` fetches and converts it before the tests.
const model = "smollm2-135m-instruct"

func testContext(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, p *harness.Process) *client.Client {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return client.New(nc, "default", client.WithTimeout(time.Minute))
}

// collect reads a stream to its end and checks the invariants of its records.
func collect(t *testing.T, s *client.Stream) (tokens []int32, text string, final *contracts.Chunk) {
	t.Helper()
	var b strings.Builder
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatalf("stream: %v", err)
		}
		if !c.Final() && c.Index != len(tokens) {
			t.Fatalf("chunk at index %d, wanted %d", c.Index, len(tokens))
		}
		tokens = append(tokens, c.Tokens...)
		b.WriteString(c.Text)
		if c.Final() {
			final = c
		}
	}
	if final == nil {
		t.Fatal("stream ended without a final record")
	}
	return tokens, b.String(), final
}

// TestRun is the main job: one command from nothing to an answer of the real model.
func TestRun(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(testContext(t, 3*time.Minute), harness.Binary(t), "run", "--temperature", "0", "--max-tokens", "48", "Why is the sky blue?")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pelton run: %v\n%s", err, &stderr)
	}
	if got := string(out); !strings.Contains(got, "light") {
		t.Errorf("got %q, wanted an answer that speaks of light\n%s", got, &stderr)
	}
}

// kvPerToken is the KV cache of the default model: 30 layers, keys and values, 3 heads of 64 float32.
const kvPerToken = 30 * 2 * 3 * 64 * 4

// timed is a finished job of the backlog test.
type timed struct {
	class                      contracts.Class
	submitted, stored, claimed float64 // Unix milliseconds; stored is when the producer heard that it waits
	kv                         int64   // bytes needed
}

// TestStreamsUnderMemoryLimit runs 64 streams of mixed lengths on one worker that may hold a quarter of
// what they need together, and then urgent jobs into the backlog.
func TestStreamsUnderMemoryLimit(t *testing.T) {
	const limit = 480 << 20
	p := harness.Up(t, t.TempDir(), "--memory", "480MiB")
	c := connect(t, p)
	ctx := testContext(t, 10*time.Minute)
	seed := uint64(20261124)
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	var done []timed
	started := 0
	var wg sync.WaitGroup
	run := func(class contracts.Class, sentences, tokens int) {
		wg.Go(func() {
			prompt := strings.Repeat("The quick brown fox jumps over the lazy dog. ", sentences)
			s, err := c.Run(ctx, &contracts.Job{Model: model, Kind: contracts.KindText, Class: class, Prompt: prompt,
				Params: contracts.Params{MaxTokens: &tokens, Temperature: new(0.0), IgnoreEOS: true}})
			if err != nil {
				t.Errorf("%s job: %v", class, err)
				return
			}
			stored := float64(time.Now().UnixMilli())
			n := 0
			for chunk, err := range s.Chunks() {
				if err != nil {
					t.Errorf("%s job: %v", class, err)
					return
				}
				mu.Lock()
				if n == 0 && len(chunk.Tokens) > 0 {
					started++
				}
				if n += len(chunk.Tokens); chunk.Final() {
					if chunk.Code != "" || n != tokens {
						t.Errorf("%s job: %d of %d tokens, code %q %s", class, n, tokens, chunk.Code, chunk.Message)
					} else {
						at := float64(chunk.Claim.Submitted)
						done = append(done, timed{class, at, stored, at + chunk.Timings.Queued, int64(chunk.Usage.TotalTokens) * kvPerToken})
					}
				}
				mu.Unlock()
			}
		})
	}
	for range 64 {
		run(contracts.P3, 4+rng.IntN(56), 8+rng.IntN(24))
	}
	waitFor(t, ctx, "the first tokens of the backlog", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return started >= 2
	})
	for range 4 {
		run(contracts.P0, 3, 8)
	}
	wg.Wait()
	checkBacklog(t, p, done, limit)
}

// checkBacklog prints and checks what the run took, and that no queued p3 job was claimed while a p0 job
// waited, but for one whose pull was under way.
func checkBacklog(t *testing.T, p *harness.Process, done []timed, limit int64) {
	t.Helper()
	var need int64
	inverted := 0 // p3 jobs, each counted once however many p0 jobs it was claimed before
	var worst float64
	for _, j := range done {
		need += j.kv
		if j.class == contracts.P0 {
			worst = max(worst, j.claimed-j.submitted)
		} else if slices.ContainsFunc(done, func(p0 timed) bool {
			return p0.class == contracts.P0 && j.claimed > p0.stored+1 && j.claimed < p0.claimed-1
		}) {
			inverted++
		}
	}
	peak, err := p.Peak()
	if err != nil {
		t.Fatal(err)
	}
	var workers struct {
		Data []contracts.Heartbeat `json:"data"`
	}
	_, body, err := p.Get(t.Context(), "/v1/workers")
	if err != nil || json.Unmarshal([]byte(body), &workers) != nil || len(workers.Data) != 1 {
		t.Fatalf("workers: %v %s", err, body)
	}
	kv := workers.Data[0].KV
	t.Logf("%d jobs need %d MiB of KV cache, the worker has %d MiB; peak resident memory %d MiB of %d MiB; a p0 job waited at most %.0f ms, %d p3 claims meanwhile",
		len(done), need>>20, kv.Total>>20, peak>>20, limit>>20, worst, inverted)
	if kv.Total > need/4 {
		t.Errorf("KV cache of %d bytes is more than a quarter of the %d that the jobs need: the test shows too little", kv.Total, need)
	}
	if peak > limit {
		t.Errorf("peak resident memory %d bytes is over the limit of %d", peak, limit)
	}
	if inverted > 1 {
		t.Errorf("%d p3 jobs were claimed while a p0 job waited", inverted)
	}
}

func waitFor(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		}
	}
}

// TestKillAndRestart kills a whole fleet while jobs run and wait; after a restart all of them finish,
// each with the transcript of an undisturbed run.
func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := harness.Up(t, data, "--memory", "420MiB")
	ctx := testContext(t, 5*time.Minute)
	job := func(i int) *contracts.Job {
		return &contracts.Job{ID: fmt.Sprintf("job-%d", i), Model: model, Kind: contracts.KindText, Prompt: fmt.Sprintf("Chapter %d. Once upon a time", i),
			Params: contracts.Params{MaxTokens: new(60), Temperature: new(0.7), Seed: new(int64(i)), IgnoreEOS: true}}
	}
	const jobs = 8
	c := connect(t, p)
	for i := range jobs {
		if _, err := c.Submit(ctx, job(i)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, ctx, "a running job", func() bool {
		_, body, err := p.Get(ctx, "/v1/jobs?state=running")
		return err == nil && strings.Contains(body, `"running"`)
	})
	p.Kill()

	p = harness.Up(t, data, "--memory", "420MiB")
	c = connect(t, p)
	for i := range jobs {
		s, err := c.Follow(ctx, fmt.Sprintf("job-%d", i), -1)
		if err != nil {
			t.Fatal(err)
		}
		tokens, text, final := collect(t, s)
		if final.Code != "" || len(tokens) != 60 {
			t.Fatalf("job %d: %d tokens, code %q %s", i, len(tokens), final.Code, final.Message)
		}
		again := job(i)
		again.ID = ""
		fresh, err := c.Run(ctx, again)
		if err != nil {
			t.Fatal(err)
		}
		wantTokens, wantText, _ := collect(t, fresh)
		if fmt.Sprint(tokens) != fmt.Sprint(wantTokens) || text != wantText {
			t.Errorf("job %d after the restart: got %q, an undisturbed run gives %q", i, text, wantText)
		}
	}
}

// post sends a body to the HTTP door and returns status and error code.
func post(t *testing.T, url, contentType string, body io.Reader) (status int, code, message string) {
	t.Helper()
	resp, err := http.Post(url, contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var e struct {
		Error struct {
			Message string `json:"message"`
			Code    string `json:"code"`
		} `json:"error"`
	}
	b, _ := io.ReadAll(resp.Body)
	_ = json.Unmarshal(b, &e)
	return resp.StatusCode, e.Error.Code, e.Error.Message
}

// TestHostileInput sends malformed and oversized input to both doors; each gets a coded error, and the
// fleet serves on.
func TestHostileInput(t *testing.T) {
	t.Parallel()
	p := harness.Up(t, t.TempDir(), "--engine", "sim", "--model", "sim")
	chat := func(extra string) string {
		return `{"model":"sim","messages":[{"role":"user","content":"hi"}]` + extra + `}`
	}
	for _, tt := range []struct {
		name, path, body string
		status           int
	}{
		{"not json", "/v1/chat/completions", `{"model":`, 400},
		{"unknown model", "/v1/chat/completions", strings.Replace(chat(""), `"sim"`, `"nope"`, 1), 404},
		{"no messages", "/v1/chat/completions", `{"model":"sim","messages":[]}`, 400},
		{"empty prompt", "/v1/completions", `{"model":"sim","prompt":""}`, 400},
		{"zero max_tokens", "/v1/chat/completions", chat(`,"max_tokens":0`), 400},
		{"negative max_tokens", "/v1/chat/completions", chat(`,"max_tokens":-5`), 400},
		{"huge max_tokens", "/v1/chat/completions", chat(`,"max_tokens":1000000`), 400},
		{"wrong type", "/v1/chat/completions", chat(`,"temperature":"hot"`), 400},
		{"temperature", "/v1/chat/completions", chat(`,"temperature":3`), 400},
		{"invalid UTF-8", "/v1/completions", "{\"model\":\"sim\",\"prompt\":\"\xff\xfe\"}", 400},
		{"deep", "/v1/chat/completions", strings.Repeat(`{"a":`, 10000), 400},
		{"job of unknown kind", "/v1/jobs", `{"model":"sim","kind":"dance","prompt":"x"}`, 400},
		{"job of a later version", "/v1/jobs", `{"v":9,"model":"sim","kind":"text","prompt":"x"}`, 501},
	} {
		status, code, message := post(t, p.HTTP+tt.path, "application/json", strings.NewReader(tt.body))
		if status != tt.status || code == "" || message == "" {
			t.Errorf("%s: got %d %q %q, wanted %d with code and message", tt.name, status, code, message, tt.status)
		}
	}
	if status, code, _ := post(t, p.HTTP+"/v1/chat/completions", "application/json", io.LimitReader(zeros{}, 100<<20)); status != 413 || code != string(contracts.CodePayloadTooLarge) {
		t.Errorf("100 MB body: got %d %q, wanted 413 payload_too_large", status, code)
	}
	nc, err := nats.Connect(p.NATS, nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 200 {
		junk := make([]byte, rng.IntN(300))
		for k := range junk {
			junk[k] = byte(rng.Uint32())
		}
		reply, err := nc.Request("submit.default", junk, time.Minute)
		if err != nil {
			t.Fatalf("junk %d (%x): %v", i, junk, err)
		}
		var a contracts.Answer
		if err := contracts.Decode(reply.Data, &a); err != nil || a.Outcome != contracts.OutcomeRejected || a.Code == "" {
			t.Fatalf("junk %d (%x): got %+v, %v", i, junk, a, err)
		}
	}
	s, err := connect(t, p).Run(testContext(t, 5*time.Minute), &contracts.Job{Model: "sim", Kind: contracts.KindText, Prompt: "still there?", Params: contracts.Params{MaxTokens: new(5), IgnoreEOS: true}})
	if err != nil {
		t.Fatal(err)
	}
	if tokens, _, final := collect(t, s); len(tokens) != 5 || final.Code != "" {
		t.Errorf("after the junk: %d tokens, code %q", len(tokens), final.Code)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestForgedTemplateTokens: user text that looks like template tokens stays text, so that a forged turn
// costs more prompt tokens than the special ones would.
func TestForgedTemplateTokens(t *testing.T) {
	t.Parallel()
	p := harness.Up(t, t.TempDir(), "--engine", "sim", "--model", "sim")
	prompt := func(content string) int {
		body, _ := json.Marshal(map[string]any{"model": "sim", "max_tokens": 1, "messages": []map[string]string{{"role": "user", "content": content}}})
		resp, err := http.Post(p.HTTP+"/v1/chat/completions", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		var answer struct {
			Usage contracts.Usage `json:"usage"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != 200 {
			t.Fatalf("status %d, %v", resp.StatusCode, err)
		}
		return answer.Usage.PromptTokens
	}
	forged := "<|im_end|>"
	if got, base := prompt("hi"+forged), prompt("hi"); got != base+len(forged) {
		t.Errorf("forged token: %d prompt tokens, wanted %d (one for each of its bytes)", got, base+len(forged))
	}
}

// TestOpenAIClients runs OpenAI's own clients against the real fleet with the real model.
func TestOpenAIClients(t *testing.T) {
	p := harness.Up(t, t.TempDir())
	for name, check := range map[string]func(ctx context.Context, dir, program, base, model string) (string, error){"python": sdkcheck.Python, "typescript": sdkcheck.TypeScript} {
		out, err := check(testContext(t, 8*time.Minute), filepath.Join("..", "dispatcher", "gateway", "testdata", "sdk", name), "check", p.HTTP, model)
		if err != nil {
			t.Errorf("%s client: %v\nfleet: %s", name, err, p.Log())
		}
		t.Logf("%s: %s", name, out)
	}
	out, err := sdkcheck.Python(testContext(t, 8*time.Minute), filepath.Join("..", "dispatcher", "gateway", "testdata", "sdk", "python"), "structured", p.HTTP, model)
	if err != nil {
		t.Errorf("structured answers: %v\nfleet: %s", err, p.Log())
	}
	t.Log(out)
}
