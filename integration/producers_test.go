package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/integration/harness"
)

// produce asks the fleet behind url for a chat and prints the answer as it comes.
type produce func(ctx context.Context, url, model, prompt string, stdout, stderr io.Writer) error

// otherLanguage is one of contracts/examples, as a process of its own.
func otherLanguage(l contractstest.Language) produce {
	return func(ctx context.Context, url, model, prompt string, stdout, stderr io.Writer) error {
		cmd := l.Producer(ctx, url, model, prompt)
		cmd.Stdout, cmd.Stderr = stdout, stderr
		return cmd.Run()
	}
}

// goProducer does in Go what contracts/examples do.
func goProducer(ctx context.Context, url, model, prompt string, stdout, _ io.Writer) error {
	nc, err := client.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	s, err := client.New(nc, "").Run(ctx, &contracts.Job{Model: model, Kind: contracts.KindChat,
		Messages: []contracts.Message{{Role: "user", Content: prompt}}, Params: contracts.Params{MaxTokens: new(256)}})
	if err != nil {
		return err
	}
	for c, err := range s.Chunks() {
		if err == nil {
			err = c.Err()
		}
		if err != nil {
			return err
		}
		if _, err := io.WriteString(stdout, c.Text); err != nil {
			return err
		}
	}
	_, err = io.WriteString(stdout, "\n")
	return err
}

// TestProducers: producers in three languages print exactly the text that the job's stream holds.
func TestProducers(t *testing.T) {
	t.Parallel()
	python, typescript := otherLanguage(contractstest.Python(t)), otherLanguage(contractstest.TypeScript(t))
	for fleet, tt := range map[string]struct {
		model     string
		args      []string
		producers map[string]produce
	}{
		"simulated model": {"sim", []string{"--engine", "sim", "--model", "sim"}, map[string]produce{"go": goProducer, "python": python, "typescript": typescript}},
		"real model":      {model, []string{"--model", model}, map[string]produce{"python": python}},
	} {
		t.Run(fleet, func(t *testing.T) {
			t.Parallel()
			p := harness.Up(t, t.TempDir(), tt.args...)
			var seen []string
			for language, produce := range tt.producers {
				var stdout, stderr bytes.Buffer
				if err := produce(testContext(t, 3*time.Minute), p.NATS, tt.model, "why is the sky 水 blue?", &stdout, &stderr); err != nil {
					t.Fatalf("%s: %v\n%s%s\nfleet: %s", language, err, &stdout, &stderr, p.Log())
				}
				job := newJob(t, p, seen)
				seen = append(seen, job)
				s, err := connect(t, p).Follow(testContext(t, 5*time.Minute), job, -1)
				if err != nil {
					t.Fatal(err)
				}
				tokens, text, final := collect(t, s)
				if got := stdout.String(); got != text+"\n" || len(tokens) == 0 || final.Code != "" {
					t.Errorf("%s printed %q, the stream of %d tokens (code %q) says %q\n%s", language, got, len(tokens), final.Code, text, &stderr)
				}
			}
		})
	}
}

// newJob is the id of the fleet's only job that is not in seen.
func newJob(t *testing.T, p *harness.Process, seen []string) string {
	t.Helper()
	_, body, err := p.Get(t.Context(), "/v1/jobs")
	var list struct {
		Data []contracts.Status `json:"data"`
	}
	if err != nil || json.Unmarshal([]byte(body), &list) != nil {
		t.Fatalf("list of jobs: %v %s", err, body)
	}
	list.Data = slices.DeleteFunc(list.Data, func(s contracts.Status) bool { return slices.Contains(seen, s.Job) })
	if len(list.Data) != 1 {
		t.Fatalf("%d new jobs, wanted 1: %s", len(list.Data), body)
	}
	return list.Data[0].Job
}
