package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/integration/harness"
)

// TestModelsShareMemory serves two models in memory for one: the first job of the one that is not
// loaded has it loaded.
func TestModelsShareMemory(t *testing.T) {
	t.Parallel()
	p := harness.Up(t, t.TempDir(), "--memory", "460MiB", "--models", harness.Twins(t, "a", "b"), "--model", "a", "--model", "b")
	c := connect(t, p)
	ctx := testContext(t, 10*time.Minute)
	var answers []string
	for _, name := range []string{"b", "a", "b"} {
		s, err := c.Run(ctx, &contracts.Job{Model: name, Kind: contracts.KindText, Prompt: "Once upon a time",
			Params: contracts.Params{MaxTokens: new(8), Temperature: new(0.0), IgnoreEOS: true}})
		if err != nil {
			t.Fatal(err)
		}
		_, text, final := collect(t, s)
		if final.Code != "" {
			t.Fatalf("job of %s: %s %s", name, final.Code, final.Message)
		}
		answers = append(answers, text)
	}
	if answers[0] != answers[1] || answers[1] != answers[2] {
		t.Errorf("the same model under two names, loaded again and again, says %q", answers)
	}
	var body string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last heartbeats: %s", body)
		}
	})
	waitFor(t, ctx, "heartbeats that say which model is loaded", func() bool {
		var workers struct { // a new one each time: what JSON leaves out would stay as it was
			Data []contracts.Heartbeat `json:"data"`
		}
		var err error
		_, body, err = p.Get(ctx, "/v1/workers")
		if err != nil || json.Unmarshal([]byte(body), &workers) != nil || len(workers.Data) != 2 {
			return false
		}
		for _, w := range workers.Data {
			if w.Fingerprint == "" || w.Asleep != (w.Model == "a") {
				return false
			}
		}
		return true
	})
	if peak, err := p.Peak(); err != nil || peak > 460<<20 {
		t.Errorf("peak resident memory is %d MiB of 460, %v", peak>>20, err)
	}
	for _, want := range []string{`pelton_model_loads_total{event="loaded",model="b"}`, `pelton_model_loaded_bytes{model="a"} 0`, "pelton_memory_difference_bytes"} {
		if _, body, err := p.Get(ctx, "/metrics"); err != nil || !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s, %v", want, err)
		}
	}
}
