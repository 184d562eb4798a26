package admission

import (
	"fmt"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Tokenizer turns prompts into token ids. It must be safe for concurrent use. It need not count what is far too
// long: when there are more ids than [Model.Counted], they need not be all.
type Tokenizer interface {
	// Encode returns the ids of text; special tokens are never parsed out of it.
	Encode(text string) []int32
	// Chat renders a chat with the model's template and returns its ids.
	Chat(messages []tokenizer.Message, addGenerationPrompt bool) ([]int32, error)
}

// Model is one model whose jobs can be admitted.
type Model struct {
	Name          string
	Aliases       []string // other names that producers may use
	Tokenizer     Tokenizer
	ContextLength int // most tokens of prompt and answer together, or of a text to embed
	Vocab         int // token ids are below this
	Created       time.Time

	Kind       contracts.Kind                      // KindEmbed, KindTensor, or "" for a model that writes text
	Dimensions int                                 // of the vectors of KindEmbed
	Cut        func(ids []int32, most int) []int32 // shortens a text of KindEmbed
	Inputs     []Port                              // of KindTensor
	Outputs    []Port
}

// ModelStatus is a model as those see it who ask for it.
type ModelStatus struct {
	Name          string
	Aliases       []string
	Created       time.Time
	ContextLength int
	Workers       int    // live ones that take its jobs; 0 means that jobs wait
	Fingerprint   string // of one of them, "" without any

	Kind       contracts.Kind // KindEmbed, KindTensor, or "" for a model that writes text
	Dimensions int            // of the vectors of KindEmbed
	JobRows    int            // texts that one of several jobs of a request holds; 0 is not known
	Inputs     []Port
	Outputs    []Port
}

// Counted is up to how many tokens of a prompt are counted.
func (m *Model) Counted() int { return 2 * m.ContextLength }

// valid tells whether m has what its kind needs.
func (m *Model) valid() bool {
	switch m.Kind {
	case contracts.KindTensor:
		return m.Name != "" && len(m.Inputs) > 0
	case contracts.KindEmbed:
		if m.Dimensions < 1 || m.Cut == nil {
			return false
		}
	}
	return m.Name != "" && m.Tokenizer != nil && m.ContextLength >= 2 && m.Vocab >= 1
}

// Catalog is the set of models by name and alias; the first one is the default. It is immutable, but for what it
// remembers of earlier work, and safe for concurrent use.
type Catalog struct {
	models  []Model
	byName  map[string]*Model
	schemas schemas
}

// NewCatalog checks the models and indexes them.
func NewCatalog(models []Model) (*Catalog, error) {
	c := &Catalog{models: append([]Model(nil), models...), byName: map[string]*Model{}}
	if len(models) == 0 {
		return nil, fmt.Errorf("no model is configured: at least one is needed")
	}
	for i := range c.models {
		m := &c.models[i]
		if !m.valid() {
			return nil, fmt.Errorf("model %d %q needs a name, a tokenizer, a context length of 2 or more and a vocabulary (or dimensions, or inputs, as its kind is)", i, m.Name)
		}
		for _, name := range append([]string{m.Name}, m.Aliases...) {
			if other := c.byName[name]; other != nil && other != m {
				return nil, fmt.Errorf("the name %q belongs to both models %q and %q", name, other.Name, m.Name)
			}
			c.byName[name] = m
		}
	}
	return c, nil
}

// Models lists the models, the default first. The caller must not change them.
func (c *Catalog) Models() []Model { return c.models }

// Statuses lists the models, the default first, with those of the live workers that serve them.
func (c *Catalog) Statuses(l Limits, live []contracts.Heartbeat) []ModelStatus {
	var out []ModelStatus
	for _, m := range c.models {
		s := ModelStatus{Name: m.Name, Aliases: m.Aliases, Created: m.Created, ContextLength: m.ContextLength,
			Kind: m.Kind, Dimensions: m.Dimensions, JobRows: m.JobRows(l), Inputs: m.Inputs, Outputs: m.Outputs}
		for _, w := range live {
			if w.Model == m.Name && w.State == contracts.WorkerReady {
				s.Workers++
				s.Fingerprint = w.Fingerprint
			}
		}
		out = append(out, s)
	}
	return out
}

// Names lists the models' names, the default first.
func (c *Catalog) Names() []string {
	names := make([]string, len(c.models))
	for i := range c.models {
		names[i] = c.models[i].Name
	}
	return names
}

// Find returns the model of a name or an alias; the empty name is the default model.
func (c *Catalog) Find(name string) (*Model, error) {
	if name == "" {
		return &c.models[0], nil
	}
	if m := c.byName[name]; m != nil {
		return m, nil
	}
	return nil, &contracts.Error{Code: contracts.CodeModelNotFound, Param: "model",
		Message: fmt.Sprintf("model %q is not served here: use one of %s", name, strings.Join(c.Names(), ", "))}
}
