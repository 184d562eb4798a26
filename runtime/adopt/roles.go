package adopt

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelton-run/pelton/runtime/model"
)

// ErrUnsupported is returned, wrapped, for a folder that is no decoder as this package knows them; the
// text says what is in the way.
var ErrUnsupported = errors.New("not supported")

// kinds names the number types of onnx.proto that a decoder's inputs and outputs may have.
var kinds = map[int64]string{1: model.Float32, 6: model.Int32, 7: model.Int64, 9: model.Bool, 10: model.Float16}

// Spellings of the caches, by the tools that write them: Optimum, onnx-community and the genai builder;
// older genai builders and scripts.
var (
	pastName    = regexp.MustCompile(`^(past_key_values\.)(\d+)(\.key|\.value|\.decoder\.key|\.decoder\.value)$|^(past_(?:key|value)(?:s)?[_.])(\d+)()$`)
	presentName = regexp.MustCompile(`^(present\.)(\d+)(\.key|\.value|\.decoder\.key|\.decoder\.value)$|^(present_(?:key|value)(?:s)?[_.])(\d+)()$`)
)

// decoder is what a graph's inputs and outputs tell of it.
type decoder struct {
	graph                  model.Graph
	layers, kvHeads, dim   int // 0: the graph leaves it open
	vocab                  int
	pastKeys, presentCount int
}

// readRoles gives each input and output its role, by name. Names that a configuration gives come first.
func readRoles(g *graphFile, named names) (decoder, error) {
	var d decoder
	var odd []string
	for _, in := range g.inputs {
		if g.initializers[in.name] {
			continue
		}
		v := model.Value{Name: in.name, Type: kinds[in.kind]}
		switch in.name {
		case named.ids:
			d.graph.IDs = v
		case named.mask:
			d.graph.Mask = v
		case named.positions:
			d.graph.Positions = v
		case "use_cache_branch":
			d.graph.UseCache = v
		case "num_logits_to_keep", "logits_to_keep":
			if len(in.dims) > 0 {
				odd = append(odd, in.name)
			}
			d.graph.Keep = v
		default:
			if !d.cache(v, in.dims, pastName, named.past, &d.graph.PastKey, &d.graph.PastValue, &d.pastKeys) {
				odd = append(odd, in.name)
			}
		}
	}
	if len(odd) > 0 {
		return d, fmt.Errorf("the graph wants inputs that a plain decoder does not have: %s: %w", list(odd), ErrUnsupported)
	}
	for _, out := range g.outputs {
		v := model.Value{Name: out.name, Type: kinds[out.kind]}
		if out.name == named.logits {
			d.graph.Logits = v
			d.graph.Last = size(out.dims, 1) == 1
			d.vocab = size(out.dims, 2)
		} else {
			d.cache(v, nil, presentName, named.present, &d.graph.Key, &d.graph.Value, &d.presentCount)
		}
	}
	return d, d.check()
}

func (d *decoder) check() error {
	switch {
	case d.graph.IDs.Name == "" || d.graph.Logits.Name == "":
		return fmt.Errorf("the graph has no input_ids or no logits: it generates no text: %w", ErrUnsupported)
	case d.pastKeys == 0:
		return fmt.Errorf("the graph has no past_key_values: export it with its cache (text-generation-with-past): %w", ErrUnsupported)
	case d.pastKeys != 2*d.layers || d.presentCount != d.pastKeys:
		return fmt.Errorf("the graph has %d inputs and %d outputs of the cache for %d layers: %w", d.pastKeys, d.presentCount, d.layers, ErrUnsupported)
	}
	return nil
}

// cache takes v as a key or a value of the cache if it is called like one.
func (d *decoder) cache(v model.Value, dims []string, spelling *regexp.Regexp, given [2]string, key, val *model.Value, count *int) bool {
	name, layer := template(v.Name, spelling, given)
	if name == "" || (dims != nil && len(dims) != 4) {
		return false
	}
	to := key
	if isValue(name, given) {
		to = val
	}
	if to.Name != "" && (to.Name != name || to.Type != v.Type) {
		return false
	}
	*to = model.Value{Name: name, Type: v.Type}
	*count++
	d.layers = max(d.layers, layer+1)
	if dims != nil {
		d.kvHeads, d.dim = size(dims, 1), size(dims, 3)
	}
	return true
}

// template replaces the number of the layer in a name by %d.
func template(name string, spelling *regexp.Regexp, given [2]string) (string, int) {
	for _, g := range given {
		before, after, ok := strings.Cut(g, "%d")
		middle := strings.TrimSuffix(strings.TrimPrefix(name, before), after)
		if n, err := strconv.Atoi(middle); ok && err == nil && n >= 0 && before+middle+after == name {
			return g, n
		}
	}
	m := spelling.FindStringSubmatch(name)
	if m == nil {
		return "", 0
	}
	m = slices.DeleteFunc(m[1:], func(s string) bool { return s == "" })
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return "", 0
	}
	return m[0] + "%d" + strings.Join(m[2:], ""), n
}

func isValue(name string, given [2]string) bool {
	if name == given[0] || name == given[1] {
		return name == given[1]
	}
	return strings.Contains(strings.TrimPrefix(name, "past_key_values"), "value")
}

// size is dimension i when it is fixed, else 0.
func size(dims []string, i int) int {
	if i >= len(dims) {
		return 0
	}
	n, err := strconv.Atoi(dims[i])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// list names a few things.
func list(all []string) string {
	if len(all) > 4 {
		return strings.Join(all[:4], ", ") + fmt.Sprintf(" and %d more", len(all)-4)
	}
	return strings.Join(all, ", ")
}

// variantOf names the kind of numbers that a graph holds.
func variantOf(g *graphFile, d decoder) string {
	half := ""
	if d.graph.PastKey.Type == model.Float16 {
		half = "f16"
	}
	switch {
	case g.bits > 0:
		return "q" + strconv.FormatInt(g.bits, 10) + half
	case g.operators["MatMulInteger"]+g.operators["DynamicQuantizeMatMul"]+g.operators["QLinearMatMul"] > 0:
		return "int8"
	case half != "":
		return "fp16"
	}
	return "fp32"
}
