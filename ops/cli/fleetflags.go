package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
)

// engineFlags say how models are run.
func engineFlags(c *cobra.Command) {
	f := c.Flags()
	f.String("engine", "onnx", "onnx, or sim: a modelled device that needs no model")
	f.String("device", "auto", "auto, cpu, cuda:N, tensorrt:N, rocm:N, openvino, coreml; with --engine sim sim:h100, sim:h200, sim:a100 or sim:l40s, with :2.7b or :8b-fp8 behind it, sim:instant, or sim:FILE.json of pelton bench --calibrate")
	f.String("memory", "auto", "upper bound of each worker's resident memory, weights of all its models included, for example 800MiB")
	f.Int("threads", 0, "`threads` of each engine; 0 is one for each core")
	f.Duration("batch-delay", 0, "how long a call of an embedding or tensor model waits for others to join it; 0 is only while the model is busy")
	f.String("sim-tokenizer", "", "tokenizer.json `file` (byte-level BPE) by which --engine sim counts prompts; without it a byte is a token")
	f.Int("sim-context", 0, "context of --engine sim in tokens; 0 is 8192")
	f.String("models", model.DefaultRoot(), "`folder` of the converted models")
	f.String("ort-lib", "", "`path` of the ONNX Runtime library; found or fetched when empty")
}

// samplingFlags steer generation. Temperature and top-p default to what the default model's authors
// recommend; the other flags, when not given, leave the default to the dispatcher.
func samplingFlags(c *cobra.Command) {
	f := c.Flags()
	f.Int("max-tokens", 0, "most tokens to generate")
	f.Float64("temperature", 0.2, "0 is greedy")
	f.Float64("top-p", 0.9, "nucleus sampling: keep the most likely tokens up to this mass")
	f.Int("top-k", 0, "sample among the k most likely tokens")
	f.Int64("seed", 0, "seed of the random numbers")
	f.StringArray("stop", nil, "`text` that ends the answer (repeatable)")
}

func (a *app) params() contracts.Params {
	p := contracts.Params{Stop: a.settings.list("stop"), Temperature: a.float("temperature"), TopP: a.float("top-p")}
	given := func(name string) bool { return a.settings.source[name] != "default" }
	if given("max-tokens") {
		p.MaxTokens = new(a.settings.number("max-tokens"))
	}
	if given("top-k") {
		p.TopK = new(a.settings.number("top-k"))
	}
	if given("seed") {
		v, _ := strconv.ParseInt(a.settings.text("seed"), 10, 64)
		p.Seed = &v
	}
	return p
}

func (a *app) float(name string) *float64 {
	v, _ := strconv.ParseFloat(a.settings.text(name), 64)
	return &v
}

func orDefault(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// simModel is the name of the modelled device's model when it is given none.
const simModel = "sim"

// knownModel tells whether name (with or without :VARIANT) is in the catalog or already converted.
func knownModel(name string) bool {
	if name, _ = hub.SplitRef(name); strings.HasPrefix(name, "hf:") {
		return true
	}
	if _, ok := hub.Lookup(name); ok {
		return true
	}
	list, err := model.Store{Root: model.DefaultRoot()}.List()
	for _, m := range list {
		if err == nil && m.Name == name {
			return true
		}
	}
	return false
}

// serve makes the named models ready to be opened: fetched, converted, the library found. No name
// means the default model; with --engine sim a modelled device needs none.
func (a *app) serve(ctx context.Context, names []string) ([]node.Served, error) {
	return a.serveWith(ctx, names, true)
}

// admit is serve for a process that only admits jobs: it runs no engine and needs no library, and the
// model "sim" is a modelled one beside the others.
func (a *app) admit(ctx context.Context, names []string) ([]node.Served, error) {
	real := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == simModel })
	if a.settings.text("engine") == "sim" || len(real) == len(names) {
		return a.serveWith(ctx, names, false)
	}
	var out []node.Served
	if len(real) > 0 {
		var err error
		if out, err = a.serveWith(ctx, real, false); err != nil {
			return nil, err
		}
	}
	modeled, err := a.serveSim([]string{simModel})
	return append(out, modeled...), err
}

func (a *app) serveWith(ctx context.Context, names []string, run bool) ([]node.Served, error) {
	switch engine := a.settings.text("engine"); engine {
	case "sim":
		return a.serveSim(names)
	case "onnx":
	default:
		return nil, usageError{fmt.Errorf("--engine %s: the engines are onnx and sim", engine)}
	}
	on, err := device.Parse(a.settings.text("device"))
	if err != nil {
		return nil, usageError{fmt.Errorf("--device: %w; use --engine sim for modelled devices", err)}
	}
	if len(names) == 0 {
		names = []string{hub.Default}
	}
	bar := a.newProgress()
	defer bar.finish()
	given, store := a.settings.text("ort-lib"), model.Store{Root: a.settings.text("models")}
	serve := func(ctx context.Context, name, variant string, on device.Device, p hub.Progress) (node.Served, error) {
		dir, m, err := hub.Ensure(ctx, store, name, variant, p)
		library := ""
		if err == nil && run { // which is fetched for a model that there is
			library, err = hub.Library(ctx, given, p)
		}
		if err != nil {
			return node.Served{}, err
		}
		return node.ServeONNX(dir, m, library, a.settings.number("threads"), on)
	}
	gpu := on
	if run {
		gpus, err := device.GPUs()
		if err != nil {
			a.log.Warn("gpus cannot be counted", "error", err)
		}
		library, err := hub.FindLibrary(given)
		if err != nil && given != "" {
			return nil, err
		} else if err != nil {
			gpus = nil // the one that is fetched is for CPUs
		}
		gpu = on.Choose(library, gpus)
	}
	var out []node.Served
	for _, ref := range names {
		name, variant := hub.SplitRef(ref)
		half := ""
		if variant == "" && gpu.Kind == device.CUDA {
			half = hub.ForGPU(name)
		}
		var s node.Served
		if half == "" {
			s, err = serve(ctx, name, variant, on, bar.report)
		} else if s, err = serve(ctx, name, half, gpu, bar.report); err == nil && on.Kind == device.Auto {
			s.Else = func(ctx context.Context) (node.Served, error) {
				return serve(ctx, name, "", device.Device{Kind: device.CPU}, nil)
			}
		}
		if err != nil {
			return nil, err
		}
		if e, ok := hub.Lookup(s.Name); ok {
			s.Aliases = e.Aliases
		}
		out = append(out, s)
	}
	return out, nil
}

// pinFlag names the models that stay in memory.
func pinFlag(c *cobra.Command) {
	c.Flags().StringArray("pin", nil, "`NAME` of a model that is never unloaded to make room for another (repeatable)")
}

// pin marks the models that --pin names.
func (a *app) pin(served []node.Served) error {
	for _, name := range a.settings.list("pin") {
		i := slices.IndexFunc(served, func(s node.Served) bool { return s.Name == name || slices.Contains(s.Aliases, name) })
		if i < 0 {
			return usageError{fmt.Errorf("--pin %s: no --model has this name", name)}
		}
		served[i].Pinned = true
	}
	return nil
}

func (a *app) serveSim(names []string) ([]node.Served, error) {
	device := a.settings.text("device")
	if device == "auto" {
		device = "sim:h100"
	}
	if len(names) == 0 {
		names = []string{simModel}
	}
	var out []node.Served
	for _, name := range names {
		s, err := node.SimConfig{Device: device, Tokenizer: a.settings.text("sim-tokenizer"), Context: a.settings.number("sim-context")}.Serve(name)
		if err != nil {
			return nil, usageError{err}
		}
		out = append(out, s)
	}
	return out, nil
}

// memory is the bound of --memory in bytes, 0 for auto.
func (a *app) memory() (int64, error) {
	v := a.settings.text("memory")
	if v == "auto" {
		return 0, nil
	}
	n, err := memory.ParseSize(v)
	if err != nil {
		return 0, usageError{fmt.Errorf("--memory: %w", err)}
	}
	return n, nil
}

// dataFolder is where the embedded broker keeps its streams by default.
func dataFolder() string {
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "pelton")
	}
	return filepath.Join(model.Home(), ".local", "share", "pelton")
}
