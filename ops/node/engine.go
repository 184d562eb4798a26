package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Served is a model that this process serves: what the dispatcher needs to admit its jobs, and how a
// worker opens an engine for it.
type Served struct {
	Name          string
	Aliases       []string
	Variant       string
	Tokenizer     *tokenizer.Tokenizer
	EOS           []int32
	ContextLength int
	Vocab         int
	Created       time.Time
	Pinned        bool // stays in memory although others need it
	// Else, optional, makes ready the same model in a form that is served when this one does not open.
	Else func(context.Context) (Served, error)

	files   int64         // bytes of its files
	own     bool          // its engine has memory of its own, on a device, real or modelled
	on      device.Device // the real one
	answers *answers      // a model that answers in one call; nil writes text
	open    func(ctx context.Context, log *slog.Logger, r room) (engine.Engine, error)
}

// room is what an engine with memory of its own may take of it.
type room struct {
	kv     int64          // bytes of KV cache; 0 is its own default
	beside onnx.Neighbors // on its device
}

// Model is what the dispatcher is told of s.
func (s Served) Model() dispatcher.Model {
	m := dispatcher.Model{Name: s.Name, Aliases: s.Aliases, ContextLength: s.ContextLength, Vocab: s.Vocab, Created: s.Created}
	m.Tokenizer = s.Tokenizer.Within(m.Counted())
	if s.answers != nil {
		s.answers.addTo(&m)
	}
	return m
}

// ServeONNX prepares a converted model; its tokenizer is loaded at once, the engine when a worker
// starts.
func ServeONNX(dir string, m model.Manifest, library string, threads int, on device.Device) (Served, error) {
	if m.Kind != "" {
		return serveGraph(dir, m, library, threads, on)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return Served{}, fmt.Errorf("model %s: %w", m.Name, err)
	}
	var files int64
	for _, f := range m.Files {
		files += f.Size
	}
	return Served{
		Name: m.Name, Variant: m.Variant, Tokenizer: tok, EOS: m.EOS, ContextLength: m.Shape.ContextLength, Vocab: m.Shape.Vocab, Created: m.Created,
		files: files, own: m.Shape.PageTokens > 0, on: on,
		open: func(_ context.Context, log *slog.Logger, r room) (engine.Engine, error) {
			return onnx.OpenModel(onnx.Config{ModelDir: dir, Library: library, Threads: threads, Device: on, KVBudget: r.kv, Neighbors: r.beside, Logger: log})
		},
	}, nil
}

// ServeSim prepares a modelled device such as "sim:h100" under a model name.
func ServeSim(name, device string) (Served, error) { return SimConfig{Device: device}.Serve(name) }

// SimConfig says what a modelled device serves.
type SimConfig struct {
	Device    string // such as "sim:h100"
	Tokenizer string // file of a tokenizer.json by which prompts are counted; "" counts bytes
	Context   int    // tokens; 0 is 8192
}

// maxTokenizer is the most bytes of a tokenizer.json.
const maxTokenizer = 64 << 20

// Serve prepares the device under a model name.
func (c SimConfig) Serve(name string) (Served, error) {
	if c.Context < 0 {
		return Served{}, fmt.Errorf("context of %d tokens: it must not be negative", c.Context)
	}
	cfg := sim.Config{Model: name, ContextLength: c.Context}
	var err error
	if cfg.Profile, err = sim.ProfileFor(c.Device); err != nil {
		return Served{}, err
	}
	vocabulary := sim.TokenizerJSON()
	if c.Tokenizer != "" {
		if vocabulary, cfg.Vocab, err = likeFile(c.Tokenizer); err != nil {
			return Served{}, err
		}
	}
	tok, err := tokenizer.Parse(vocabulary, sim.ChatTemplate())
	if err != nil {
		return Served{}, err
	}
	probe := sim.New(cfg)
	info := probe.Info()
	if err := probe.Shutdown(); err != nil {
		return Served{}, err
	}
	return Served{
		Name: name, Variant: info.Variant, Tokenizer: tok, EOS: sim.EOS(), ContextLength: info.ContextLength, Vocab: info.Vocab, Created: time.Now(), own: true,
		open: func(_ context.Context, _ *slog.Logger, r room) (engine.Engine, error) {
			cfg := cfg
			if r.kv > 0 {
				cfg.KVBudget = r.kv
			}
			return sim.New(cfg), nil
		},
	}, nil
}

// likeFile is a vocabulary that counts as the one of a tokenizer.json does.
func likeFile(path string) (vocabulary []byte, size int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("tokenizer to simulate: %w", err)
	}
	defer func() { _ = f.Close() }()
	file, err := io.ReadAll(io.LimitReader(f, maxTokenizer))
	if err != nil {
		return nil, 0, fmt.Errorf("tokenizer to simulate: %w", err)
	}
	return sim.TokenizerLike(file)
}

// OpenEngine loads a converted model for use outside the fleet, with the memory that the machine has. A variant for
// GPUs runs on gpu, the others on the CPU.
func OpenEngine(dir string, m model.Manifest, library string, threads int, gpu device.Device) (engine.Engine, error) {
	c := onnx.Config{ModelDir: dir, Library: library, Threads: threads}
	if m.Shape.PageTokens > 0 {
		c.Device = gpu
		return onnx.OpenModel(c)
	}
	e, err := onnx.OpenModel(c)
	if err != nil {
		return nil, err
	}
	free, _, err := memory.Limit()
	if err != nil {
		return nil, errors.Join(err, e.Shutdown())
	}
	e.SetKVBudget(free / 2)
	return e, nil
}
