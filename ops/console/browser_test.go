package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
)

// TestBrowser: an operator's visit in Chromium: strangers and tenants are asked for a key, the operator sees
// workers and figures of a fleet under load, and nothing of the key stays after it is forgotten.
func TestBrowser(t *testing.T) {
	modules := os.Getenv("PELTON_BROWSER")
	if modules == "" {
		t.Skip("make console-check runs this; it needs chromium")
	}
	base, operator, tenant := fleet(t)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	loaded := make(chan error, 1)
	go func() {
		var plan loadgen.Plan
		for i := range 2400 {
			plan = append(plan, loadgen.Request{At: time.Duration(i) * 50 * time.Millisecond, Input: 20, Output: 20, Seed: uint64(i)})
		}
		_, err := loadgen.Run(ctx, loadgen.Config{Plan: plan, Prompter: loadgen.Prompter{PerToken: 4}, Timeout: time.Minute,
			Target: &loadgen.HTTP{URL: base, Model: "sim", Key: tenant, IgnoreEOS: true, Client: loadgen.NewClient(http.DefaultClient, 16)}})
		loaded <- err
	}()
	cmd := exec.CommandContext(ctx, "node", "testdata/browse.mjs", modules, base+"/console/", tenant, operator)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	stop()
	if lost := <-loaded; lost != nil && !errors.Is(lost, context.Canceled) {
		t.Errorf("load: %v", lost)
	}
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var saw struct {
		Stranger, Tenant, Asked, Left bool
		Workers, Figures, Faults      []string
		Lines, Kept                   int
		State                         string
	}
	if err := json.Unmarshal(out, &saw); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
	if saw.Stranger || saw.Tenant || saw.Left || saw.Asked || saw.Kept != 0 || len(saw.Faults) > 0 {
		t.Error("a stranger, a tenant or somebody who left sees the fleet, the operator is asked again, or something went wrong")
	}
	if len(saw.Workers) != 9 || saw.Workers[1] != "sim" || saw.Workers[2] != "ready" || !strings.HasPrefix(saw.State, "1 workers") {
		t.Errorf("the operator sees the worker %q and %q", saw.Workers, saw.State)
	}
	if len(saw.Figures) != 6 || saw.Lines != 6 {
		t.Errorf("the operator sees the figures %q in %d lines", saw.Figures, saw.Lines)
	}
}
