package admission_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
)

var rewrite = flag.Bool("rewrite", false, "rewrite what the scenarios in testdata print")

// TestScenarios plays testdata/judge.txt: blocks of a title, settings and jobs, and under each job the
// verdict that it gets. The file is the narration of the rules; -rewrite prints it anew.
func TestScenarios(t *testing.T) {
	t.Parallel()
	const file = "testdata/judge.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := player{t: t}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // what an earlier run printed
		}
		fmt.Fprintln(&out, line)
		if said := p.play(line); said != "" {
			fmt.Fprintln(&out, "  "+said)
		}
	}
	if *rewrite {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != string(text) {
		t.Errorf("the verdicts are not those of %s (-rewrite writes them):\n%s", file, &out)
	}
}

// player keeps the settings of the scenario that is played.
type player struct {
	t          *testing.T
	load       map[contracts.Class]admission.Load
	objectives admission.Objectives
}

func (p *player) play(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(line, "#") {
		p.load, p.objectives = map[contracts.Class]admission.Load{}, admission.Objectives{}
		return ""
	}
	args := map[string]string{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		args[k] = v
	}
	span := func(key string) time.Duration {
		d, err := time.ParseDuration(args[key])
		if err != nil && args[key] != "" {
			p.t.Fatalf("%q: %v", line, err)
		}
		return d
	}
	count := func(key string) int {
		n, err := strconv.Atoi(args[key])
		if err != nil && args[key] != "" {
			p.t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	class := contracts.Class(args["class"])
	switch words[0] {
	case "objective":
		p.objectives[class] = span("first")
	case "load":
		p.load[class] = admission.Load{Known: true, Wait: span("wait"), Prefill: span("prefill"), Token: span("token"), Ahead: count("ahead"), Output: count("output"), Margin: 0.1 * float64(1+slices.Index(contracts.Classes, class)), Hold: args["hold"] == "yes"}
	case "job":
		a := &contracts.Admitted{Job: contracts.Job{ID: "j", Class: class, Labels: map[string]string{admission.LabelSLO: args["slo"], admission.LabelOverload: args["allows"]}, Params: contracts.Params{MaxTokens: ptr(count("tokens"))}}}
		if d := span("deadline"); d > 0 {
			a.Job.Deadline = now.Add(d).UnixMilli()
		}
		return verdict(admission.Judge(p.objectives, a, now, func(c contracts.Class) admission.Load { return p.load[c] }))
	default:
		p.t.Fatalf("%q: no such command", line)
	}
	return ""
}

func verdict(v admission.Verdict, err error) string {
	var e *contracts.Error
	if errors.As(err, &e) {
		return fmt.Sprintf("%s, retry after %d ms: %s", e.Code, e.RetryAfterMS, e.Message)
	}
	what := "into JOBS"
	if v.Hold {
		what = "held"
	}
	if v.Changed != "" {
		what += ", " + v.Changed
	}
	return fmt.Sprintf("%s: %s, %d tokens, %d ahead, first token in %v, last in %v", what, v.Class, v.Tokens, v.Position, v.First, v.End)
}
