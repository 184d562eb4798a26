package model

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
)

// Bounds of a manifest's fields. They are far above any known model and keep every product of two or
// three of them inside 64 bits.
const (
	maxLayers  = 1 << 10
	maxWidth   = 1 << 20
	maxHeads   = 1 << 12
	maxHeadDim = 1 << 12
	maxVocab   = 1 << 24
	maxContext = 1 << 26
	maxEOS     = 64
	maxFiles   = 64

	maxPorts    = 64
	maxPortName = 128
	maxRank     = 8
	maxBatch    = 1 << 16
)

// plainName is what models, variants and files may be called: it is one path element on every system
// and one shell word, and never hidden.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._+-]{0,98}[A-Za-z0-9_+-])?$`)

// CheckName says whether a model, variant or file may have this name: up to 100 letters, digits and
// . _ + - that begin with a letter, a digit or _ and do not end with a dot.
func CheckName(name string) error {
	if !plainName.MatchString(name) {
		return fmt.Errorf("name %.110q: use up to 100 letters, digits and . _ + -, a letter or digit first and no dot last", name)
	}
	return nil
}

// Validate returns everything that is wrong with the manifest, joined; nil when nothing is. It reads
// no file.
func (m Manifest) Validate() error {
	own := m.Kind == "" && m.Graph == nil
	if m.Format != Format && m.Format != 3 && (m.Format != 2 || m.Shape.PageTokens > 0) && (m.Format != 1 || own) {
		return fmt.Errorf("format %d is not the %d that this version reads: pull the model again", m.Format, Format)
	}
	var all []error
	add := func(ok bool, format string, args ...any) {
		if !ok {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	for what, name := range map[string]string{"model": m.Name, "variant": m.Variant, "architecture": m.Architecture} {
		if err := CheckName(name); err != nil {
			all = append(all, fmt.Errorf("%s %w", what, err))
		}
	}
	switch m.Kind {
	case "", KindEmbed:
		add(m.Parameters > 0, "parameters %d: must be above 0", m.Parameters)
		all = append(all, m.Shape.validate()...)
		needed := []string{GraphFile, WeightsFile, TokenizerFile}
		if m.Graph != nil {
			needed = []string{m.Graph.File, TokenizerFile}
			all = append(all, m.Graph.validate()...)
		}
		all = append(all, validateFiles(m.Files, needed...)...)
	case KindTensor:
		all = append(all, validateFiles(m.Files, GraphFile)...)
	default:
		add(false, "kind %.100q is not one that this version serves", m.Kind)
	}
	if m.Kind != "" {
		all = append(all, validatePorts("inputs", m.Inputs)...)
		all = append(all, validatePorts("outputs", m.Outputs)...)
		add(m.MaxBatch >= 0 && m.MaxBatch <= maxBatch, "max_batch %d: must be 0 to %d", m.MaxBatch, maxBatch)
	}
	add(len(m.EOS) <= maxEOS, "eos: %d tokens, at most %d", len(m.EOS), maxEOS)
	for _, id := range m.EOS {
		add(id >= 0 && int(id) < max(m.Shape.Vocab, 1), "eos token %d is outside the vocabulary of %d", id, m.Shape.Vocab)
	}
	add(m.Source.SHA256 == "" || isSum(m.Source.SHA256), "source sha256 %.70q is no checksum", m.Source.SHA256)
	return errors.Join(all...)
}

// Foresee is Validate before the files are there, so that nothing is written for a manifest that would be refused:
// names are what they will be called.
func (m Manifest) Foresee(names ...string) error {
	m.Files = nil
	for _, name := range names {
		m.Files = append(m.Files, File{Name: name, SHA256: hex.EncodeToString(make([]byte, sha256.Size))})
	}
	return m.Validate()
}

func (s Shape) validate() []error {
	var all []error
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"layers", s.Layers, maxLayers},
		{"hidden", s.Hidden, maxWidth},
		{"heads", s.Heads, maxHeads},
		{"kv_heads", s.KVHeads, maxHeads},
		{"head_dim", s.HeadDim, maxHeadDim},
		{"ffn", s.FFN, maxWidth},
		{"vocab", s.Vocab, maxVocab},
		{"context_length", s.ContextLength, maxContext},
	} {
		if f.value < 1 || f.value > f.max {
			all = append(all, fmt.Errorf("shape: %s %d: must be 1 to %d", f.name, f.value, f.max))
		}
	}
	if s.KVWidth != 0 && s.KVWidth != 2 && s.KVWidth != 4 {
		all = append(all, fmt.Errorf("shape: kv_width %d: must be 2 or 4", s.KVWidth))
	}
	if s.PageTokens < 0 || s.PageTokens > maxContext || s.PageTokens&(s.PageTokens-1) != 0 {
		all = append(all, fmt.Errorf("shape: page_tokens %d: must be a power of two", s.PageTokens))
	}
	if s.KVHeads > 0 && s.Heads%s.KVHeads != 0 {
		all = append(all, fmt.Errorf("shape: %d heads are no multiple of %d kv_heads", s.Heads, s.KVHeads))
	}
	return all
}

// validatePorts checks the names, types and shapes of a graph's inputs or outputs.
func validatePorts(what string, ports []Port) []error {
	var all []error
	if len(ports) == 0 || len(ports) > maxPorts {
		return []error{fmt.Errorf("%s: %d of them, must be 1 to %d", what, len(ports), maxPorts)}
	}
	for i, p := range ports {
		if p.Name == "" || len(p.Name) > maxPortName || slices.ContainsFunc(ports[:i], func(o Port) bool { return o.Name == p.Name }) {
			all = append(all, fmt.Errorf("%s: name %.110q: must be 1 to %d bytes and stand there once", what, p.Name, maxPortName))
		}
		if p.Type == "" || len(p.Type) > maxPortName || len(p.Shape) > maxRank {
			all = append(all, fmt.Errorf("%s %.110s: type %.20q and %d dimensions, at most %d", what, p.Name, p.Type, len(p.Shape), maxRank))
		}
		for _, d := range p.Shape {
			if d < -1 || d > maxWidth*maxWidth {
				all = append(all, fmt.Errorf("%s %.110s: dimension %d", what, p.Name, d))
			}
		}
	}
	return all
}

func validateFiles(files []File, needed ...string) []error {
	var all []error
	if len(files) > maxFiles {
		return []error{fmt.Errorf("files: %d of them, at most %d", len(files), maxFiles)}
	}
	var names []string
	for _, f := range files {
		switch {
		case CheckName(f.Name) != nil || filepath.Base(f.Name) != f.Name || f.Name == ManifestFile:
			all = append(all, fmt.Errorf("file %.110q: not a name of a file in the folder", f.Name))
		case slices.Contains(names, f.Name):
			all = append(all, fmt.Errorf("file %s is listed twice", f.Name))
		case f.Size < 0:
			all = append(all, fmt.Errorf("file %s: size %d", f.Name, f.Size))
		case !isSum(f.SHA256):
			all = append(all, fmt.Errorf("file %s: sha256 %.70q is no checksum", f.Name, f.SHA256))
		}
		names = append(names, f.Name)
	}
	for _, name := range needed {
		if !slices.Contains(names, name) {
			all = append(all, fmt.Errorf("file %s is not listed", name))
		}
	}
	return all
}

// isSum tells whether s is a sha256 as lower-case hexadecimal digits.
func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}
