package convert

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/runtime/gguf"
)

// Names of tensors in a file; those of a layer carry the prefix "blk.N.".
const (
	tensorEmbed     = "token_embd.weight"
	tensorHead      = "output.weight" // absent when the embedding is the head too
	tensorLastNorm  = "output_norm.weight"
	tensorRopeFreqs = "rope_freqs.weight"
)

// layerTensors are the tensors that every layer has.
var layerTensors = []string{
	"attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight",
	"ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
}

// Tensors that the layers of some families have beside them.
var (
	biasTensors     = []string{"attn_q.bias", "attn_k.bias", "attn_v.bias"}
	headNormTensors = []string{"attn_q_norm.weight", "attn_k_norm.weight"}
)

// tensors are the names within a layer of all tensors that the family's layers have.
func (f family) tensors() []string {
	out := slices.Clone(layerTensors)
	if f.bias {
		out = append(out, biasTensors...)
	}
	if f.headNorms {
		out = append(out, headNormTensors...)
	}
	return out
}

// chunkBytes is about how much of a tensor is read at a time.
const chunkBytes = 1 << 20

// part is one of the source matrices that are stacked into one matrix of the graph.
type part struct {
	name string
	rows int
	// heads is set for Q and K of interleaved families. GGUF stores their rows for a rotary kernel that turns neighboring pairs;
	// the graph's kernel turns the first half of a head against the second.
	heads int
}

// checkTensors makes sure that the file has the tensors of its family's decoder and no others: a tensor
// that is not used, such as a bias elsewhere, would make the model wrong. It returns the bytes that will be converted.
func checkTensors(f *gguf.File, h hyper) (int64, error) {
	wanted := map[string]bool{tensorEmbed: true, tensorLastNorm: true}
	layers := h.tensors()
	for i := range h.Layers {
		for _, name := range layers {
			wanted[layerName(i, name)] = true
		}
	}
	total := int64(0)
	for _, t := range f.Tensors {
		switch {
		case wanted[t.Name]:
			delete(wanted, t.Name)
		case t.Name != tensorHead && t.Name != tensorRopeFreqs:
			return 0, fmt.Errorf("tensor %s is not part of a %s decoder as this converter knows it", t.Name, strings.TrimSuffix(h.arch, "."))
		}
		total += t.Size
	}
	for _, name := range []string{tensorEmbed, tensorLastNorm} {
		if wanted[name] {
			return 0, fmt.Errorf("tensor %s is missing", name)
		}
	}
	for i := range h.Layers {
		for _, name := range layers {
			if name = layerName(i, name); wanted[name] {
				return 0, fmt.Errorf("tensor %s is missing", name)
			}
		}
	}
	return total, nil
}

func layerName(layer int, name string) string { return fmt.Sprintf("blk.%d.%s", layer, name) }

// tensor finds a part's source and checks its shape.
func (b *builder) tensor(p part, columns int) (gguf.Tensor, error) {
	t, ok := b.src.Tensor(p.name)
	if !ok {
		return t, fmt.Errorf("tensor %s is missing", p.name)
	}
	if len(t.Dims) != 2 || t.Dims[0] != columns || t.Dims[1] != p.rows {
		return t, fmt.Errorf("tensor %s has shape %v, wanted [%d %d]", p.name, t.Dims, columns, p.rows)
	}
	return t, nil
}

// chunks reads a part piece by piece, its rows in the graph's order, and gives each piece to visit. It
// reports progress and stops when the context ends.
func (b *builder) chunks(p part, columns int, visit func(t gguf.Tensor, raw []byte, rows int) error) error {
	t, err := b.tensor(p, columns)
	if err != nil {
		return err
	}
	step := max(1, chunkBytes/t.RowBytes())
	if p.heads > 0 {
		dim := p.rows / p.heads
		step = max(1, step/dim) * dim
	}
	for from := 0; from < p.rows; from += step {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		n := min(step, p.rows-from)
		raw, err := b.src.Raw(t, from, from+n)
		if err != nil {
			return err
		}
		if p.heads > 0 {
			raw = unpermute(raw, t.RowBytes(), p.rows/p.heads)
		}
		if err := visit(t, raw, n); err != nil {
			return fmt.Errorf("tensor %s, rows from %d: %w", t.Name, from, err)
		}
		b.advance(int64(len(raw)))
	}
	return nil
}

// unpermute turns rows for neighboring pairs into rows for halves, head by head of dim rows: row
// k*dim/2 + j of a head comes from row 2*j + k.
func unpermute(raw []byte, rowBytes, dim int) []byte {
	out := make([]byte, 0, len(raw))
	for head := 0; head < len(raw); head += dim * rowBytes {
		for i := range dim {
			from := head + (2*(i%(dim/2))+i/(dim/2))*rowBytes
			out = append(out, raw[from:from+rowBytes]...)
		}
	}
	return out
}

// vector reads a norm's weights or a bias, size values.
func (b *builder) vector(name string, size int) ([]float32, error) {
	t, ok := b.src.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("tensor %s is missing", name)
	}
	if t.Elements() != int64(size) || t.Rows() != 1 {
		return nil, fmt.Errorf("tensor %s has shape %v, wanted [%d]", name, t.Dims, size)
	}
	v, err := b.src.Floats(t, 0, 1)
	if err != nil {
		return nil, err
	}
	b.advance(t.Size)
	return v, finite(v)
}
