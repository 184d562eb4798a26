package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/calibrate"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

// calibrateFlags are those of bench --calibrate.
func calibrateFlags(c *cobra.Command) {
	f := c.Flags()
	f.Bool("calibrate", false, "instead of sending load, measure --model's engine in this process, fit a modelled device to it and print the error")
	f.Duration("calibrate-for", time.Minute, "how long --calibrate measures")
	f.String("profile", "", "`file.json` that --calibrate writes; --device sim:file.json and simulate --device file.json read it")
	f.Int("threads", 0, "`threads` of the engine that --calibrate measures; 0 is one for each core")
	f.String("device", "cuda:0", "`GPU` on which --calibrate measures a variant for GPUs")
	f.String("models", model.DefaultRoot(), "`folder` of the converted models, for --calibrate")
	f.String("ort-lib", "", "`path` of the ONNX Runtime library, for --calibrate; found or fetched when empty")
}

// calibrate measures an engine and writes the profile of a device that takes as long.
func (a *app) calibrate(ctx context.Context) error {
	ref := cmp.Or(a.settings.text("model"), hub.Default)
	span := a.settings.duration("calibrate-for")
	if span < 0 {
		return usageError{errors.New("--calibrate-for must not be negative")}
	}
	to, err := openResult(a.settings.text("profile")) // before minutes of work
	if err != nil {
		return err
	}
	bar := a.newProgress()
	defer bar.finish()
	name, variant := hub.SplitRef(ref)
	e, _, m, err := a.openEngine(ctx, name, variant, bar)
	if err != nil {
		return err
	}
	defer func() { _ = e.Shutdown() }()
	points, err := calibrate.Sweep(ctx, e, span, time.Now)
	if err != nil {
		return err
	}
	r, err := calibrate.Fit(points, e.Info(), e.Memory())
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		r.Profile.Weights += f.Size
	}
	var profile bytes.Buffer
	if err := r.Profile.Write(&profile); err != nil {
		return err
	}
	if err := writeResult(to, profile.Bytes()); err != nil {
		return err
	}
	if a.forPeople() {
		p := r.Profile
		fmt.Fprintf(a.out, "step = max(%v, %v x prompt tokens + %v x rows) + KV bytes / %.3g a second + %v, jitter %.1f %%\noff by %.1f %% (root mean square), %.1f %% at worst\n\n",
			p.C0, p.PerToken, p.PerRow, p.KVBandwidth, p.Sched, 100*p.Jitter, 100*r.Error, 100*r.Worst)
	}
	return a.print(pointsTable(points, r, map[string]any{"profile": json.RawMessage(profile.Bytes()), "error": r.Error, "worst": r.Worst, "points": points}))
}

// pointsTable compares what was measured with what the profile says.
func pointsTable(points []calibrate.Point, r calibrate.Result, value any) table {
	t := table{head: []string{"PROMPT TOKENS", "ROWS", "HELD", "STEPS", "MEDIAN MS", "PROFILE MS", "OFF"}, value: value}
	for _, p := range points {
		got, says := p.Median(), r.Profile.Step(p.Prompt, p.Rows, p.Held)
		t.rows = append(t.rows, []string{fmt.Sprint(p.Prompt), fmt.Sprint(p.Rows), fmt.Sprint(p.Held), fmt.Sprint(len(p.Took)),
			fmt.Sprintf("%.3f", got.Seconds()*1000), fmt.Sprintf("%.3f", says.Seconds()*1000), fmt.Sprintf("%+.1f %%", 100*(says.Seconds()/got.Seconds()-1))})
	}
	return t
}
