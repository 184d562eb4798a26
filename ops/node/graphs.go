package node

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/wordpiece"
	"github.com/pelton-run/pelton/worker"
)

// answers is what a model that answers in one call adds to a Served.
type answers struct {
	manifest model.Manifest
	words    *wordpiece.Tokenizer // of a model that embeds
	open     func(*slog.Logger) (engine.Graph, error)
}

// serveGraph prepares a model that answers in one call, on a device.
func serveGraph(dir string, m model.Manifest, library string, threads int, on device.Device) (Served, error) {
	a := &answers{manifest: m, open: func(log *slog.Logger) (engine.Graph, error) {
		return onnx.OpenNet(onnx.Config{ModelDir: dir, Library: library, Threads: threads, Device: on, Logger: log})
	}}
	s := Served{Name: m.Name, Variant: m.Variant, ContextLength: m.Shape.ContextLength, Vocab: m.Shape.Vocab, Created: m.Created, answers: a}
	if m.Kind == model.KindEmbed {
		var err error
		if a.words, err = wordpiece.Load(dir); err != nil {
			return Served{}, fmt.Errorf("model %s: %w", m.Name, err)
		}
	}
	return s, nil
}

// Try is a path of the HTTP door and the rest of a curl line that shows what s does; "" for a model that
// writes text.
func (s Served) Try() (path, body string) {
	switch {
	case s.answers == nil:
		return "", ""
	case s.answers.words == nil:
		return "/v2/models/" + s.Name, ""
	}
	return "/v1/embeddings", fmt.Sprintf(` -H 'Content-Type: application/json' -d '{"model":"%s","input":"Why is the sky blue?"}'`, s.Name)
}

// addTo tells the dispatcher what kind of model it is.
func (a *answers) addTo(m *admission.Model) {
	m.Kind = contracts.Kind(a.manifest.Kind)
	m.Inputs, m.Outputs = ports(a.manifest.Inputs), ports(a.manifest.Outputs)
	m.Tokenizer = nil
	if a.words != nil {
		m.Tokenizer, m.Cut, m.Dimensions = chatless{a.words.Within(m.Counted())}, a.words.Cut, a.manifest.Dimensions()
	}
}

// chatless is a tokenizer of a model that knows no chats.
type chatless struct{ *wordpiece.Tokenizer }

// Chat refuses: no such job comes so far.
func (chatless) Chat([]admission.Message, bool) ([]int32, error) {
	return nil, errors.New("the model has no chat template")
}

func ports(list []model.Port) []admission.Port {
	out := make([]admission.Port, len(list))
	for i, p := range list {
		out[i] = admission.Port{Name: p.Name, Type: contracts.DataType(p.Type), Shape: p.Shape}
	}
	return out
}

// openGraphs loads the graphs of served, and checks that a process bounded by --memory can hold them.
func openGraphs(cfg Config, served []*Served) (_ []engine.Graph, err error) {
	var out []engine.Graph
	defer func() {
		if err != nil {
			for _, g := range out {
				err = errors.Join(err, g.Shutdown())
			}
		}
	}()
	for _, s := range served {
		g, err := s.answers.open(cfg.Log)
		if err != nil {
			return out, fmt.Errorf("model %s: %w", s.Name, err)
		}
		out = append(out, g)
		if most := cfg.Memory * int64(cfg.Workers); most > 0 && memory.Resident()+contracts.CallRoom > most {
			return out, fmt.Errorf("model %s: the process holds %s with it and its jobs need %s more, --memory allows %s: raise it, or serve fewer models",
				s.Name, memory.FormatSize(memory.Resident()), memory.FormatSize(contracts.CallRoom), memory.FormatSize(most))
		}
	}
	return out, nil
}

// worker is the configuration of a worker for the graph.
func (a *answers) worker(g engine.Graph, cfg Config) worker.Config {
	m := a.manifest
	return worker.Config{
		Trace: cfg.Metrics.Worker(m.Name), Memory: memory.NewBudget(contracts.CallRoom),
		Calls: &worker.Calls{Graph: g, Kind: contracts.Kind(m.Kind), MaxTokens: m.Shape.ContextLength, Vocab: m.Shape.Vocab, MaxBatch: m.MaxBatch, Delay: cfg.BatchDelay},
	}
}
