package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/worker/gather"
)

// Calls says how a worker serves a model that answers in one call, instead of one that writes text.
type Calls struct {
	Graph     engine.Graph   // stays the caller's, who shuts it down after Run
	Kind      contracts.Kind // KindEmbed or KindTensor
	MaxTokens int            // of a text to embed
	Vocab     int            // of a model that embeds: token ids are below it
	MaxBatch  int            // rows that calls of several tensor jobs are joined to; up to 1 is never
	Delay     time.Duration  // how long a call waits for others to join; default 0: only while the graph is busy
}

// Memory that jobs are counted with while they are here: their inputs, the joined inputs, the outputs.
const (
	callSlots  = 1024    // jobs at once
	tensorUnit = 4 << 10 // bytes of inputs that count as one token
	tensorCost = 4 * tensorUnit
)

// info describes the graph as if it were an engine: what a token costs, and how many jobs fit.
func (c *Calls) info() engine.Info {
	g := c.Graph.Info()
	i := engine.Info{
		Model: g.Model, Variant: g.Variant, Backend: g.Backend, Device: g.Device, Fingerprint: g.Fingerprint,
		Vocab: c.Vocab, ContextLength: c.MaxTokens, MaxSequences: callSlots, KVBytesPerToken: tensorCost,
	}
	if c.Kind == contracts.KindEmbed {
		i.KVBytesPerToken = contracts.EmbedCost(int(dimensions(g)))
	}
	return i
}

// dimensions is the length of the vectors of a model that embeds.
func dimensions(g engine.GraphInfo) int64 {
	if len(g.Outputs) == 0 || len(g.Outputs[0].Shape) != 2 {
		return 1
	}
	return max(1, g.Outputs[0].Shape[1])
}

func (c *Calls) validate() []error {
	var errs []error
	switch {
	case c.Graph == nil:
		errs = append(errs, errors.New("a graph is needed"))
	case c.Kind != contracts.KindEmbed && c.Kind != contracts.KindTensor:
		errs = append(errs, fmt.Errorf("a graph serves jobs of kind embed or tensor, not %q", c.Kind))
	case c.Kind == contracts.KindEmbed && (c.MaxTokens < 1 || c.Vocab < 1):
		errs = append(errs, fmt.Errorf("a model that embeds texts of %d tokens over a vocabulary of %d: each must be at least 1", c.MaxTokens, c.Vocab))
	}
	if c.MaxBatch < 0 || c.Delay < 0 {
		errs = append(errs, errors.New("max batch and delay must not be negative"))
	}
	return errs
}

// check checks an admitted job for the graph and counts what it needs.
func (c *Calls) check(r *request, rows [][]int32) *contracts.Error {
	if r.job.Kind != c.Kind {
		return contracts.Errorf(contracts.CodeUnimplemented, "jobs of kind %q are not served by this worker: use %s", r.job.Kind, c.Kind)
	}
	r.rows = rows
	probe := r.job
	probe.Rows = rows
	if err := probe.Validate(); err != nil {
		return contracts.AsError(err)
	}
	if c.Kind == contracts.KindTensor {
		bytes := 0
		for i := range r.job.Tensors {
			bytes += len(r.job.Tensors[i].Data)
		}
		r.units = max(1, (bytes+tensorUnit-1)/tensorUnit)
		return nil
	}
	for i, row := range rows {
		if len(row) > c.MaxTokens {
			return contracts.Errorf(contracts.CodeContextLengthExceeded, "input %d has %d tokens, the model reads %d", i, len(row), c.MaxTokens)
		}
		for _, id := range row {
			if int(id) >= c.Vocab {
				return contracts.Errorf(contracts.CodeInvalidArgument, "input %d holds token %d, ids go from 0 to %d", i, id, c.Vocab-1)
			}
		}
		r.units += len(row)
	}
	r.counted = r.units
	return nil
}

// buckets are the lengths up to which texts share calls, so that little of a padded batch is padding.
var buckets = []int{16, 32, 64, 128, 256, 512, 1024}

func bucketOf(tokens int) int {
	at, _ := slices.BinarySearch(buckets, tokens)
	if at == len(buckets) {
		return tokens
	}
	return buckets[at]
}

// texts cuts rows into calls of at most limit tokens, rows of like lengths together. places tells which
// rows are in each call.
func texts(rows [][]int32, limit int) (calls []gather.Call, places [][]int) {
	order := make([]int, len(rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(rows[a]) - len(rows[b]) })
	for len(order) > 0 {
		n, tokens, bucket := 0, 0, bucketOf(len(rows[order[0]]))
		for n < len(order) && bucketOf(len(rows[order[n]])) == bucket && (n == 0 || tokens+len(rows[order[n]]) <= limit) {
			tokens += len(rows[order[n]])
			n++
		}
		calls, places = append(calls, text(rows, order[:n], tokens, bucket)), append(places, order[:n])
		order = order[n:]
	}
	return calls, places
}

// text is the call for some of the rows, packed one after the other.
func text(rows [][]int32, which []int, tokens, bucket int) gather.Call {
	ids, lengths := make([]byte, 0, 8*tokens), make([]byte, 0, 4*len(which))
	for _, i := range which {
		for _, id := range rows[i] {
			ids = binary.LittleEndian.AppendUint64(ids, uint64(id))
		}
		lengths = binary.LittleEndian.AppendUint32(lengths, uint32(len(rows[i])))
	}
	return gather.Call{
		Inputs: []engine.Tensor{
			{Name: model.EmbedIDs, Type: "INT64", Shape: []int64{int64(tokens)}, Data: ids},
			{Name: model.EmbedLengths, Type: "INT32", Shape: []int64{int64(len(which))}, Data: lengths},
		},
		Units: tokens, Rows: len(which), Bucket: fmt.Sprint(bucket),
	}
}

// vectors puts the vectors of all calls into the order of the rows.
func vectors(rows int, places [][]int, outputs [][]engine.Tensor) ([]contracts.Tensor, error) {
	var all contracts.Tensor
	for c, where := range places {
		if len(outputs[c]) != 1 || len(outputs[c][0].Shape) != 2 || outputs[c][0].Shape[0] != int64(len(where)) {
			return nil, fmt.Errorf("the graph yields %d outputs for %d texts", len(outputs[c]), len(where))
		}
		v := outputs[c][0]
		each := len(v.Data) / len(where)
		if all.Data == nil {
			all = contracts.Tensor{Name: contracts.Embedding, Type: contracts.DataType(v.Type), Shape: []int64{int64(rows), v.Shape[1]}, Data: make([]byte, rows*each)}
		}
		for k, i := range where {
			copy(all.Data[i*each:(i+1)*each], v.Data[k*each:(k+1)*each])
		}
	}
	return []contracts.Tensor{all}, nil
}

// tensors is the call of a tensor job. The inputs come in the graph's order.
func (c *Calls) tensors(in []contracts.Tensor) gather.Call {
	call := gather.Call{Units: 1, Rows: 1}
	var kind strings.Builder
	rows := int64(-1)
	for _, p := range c.Graph.Info().Inputs {
		for i := range in {
			if t := &in[i]; t.Name == p.Name {
				call.Inputs = append(call.Inputs, engine.Tensor{Name: t.Name, Type: string(t.Type), Shape: t.Shape, Data: t.Data})
				if len(t.Shape) == 0 || len(p.Shape) == 0 || p.Shape[0] >= 0 || rows >= 0 && rows != t.Shape[0] {
					rows = -2 // no batch
				} else if rows != -2 {
					rows = t.Shape[0]
					fmt.Fprint(&kind, t.Type, t.Shape[1:], ";")
				}
			}
		}
	}
	if rows > 0 {
		call.Units, call.Rows = int(rows), int(rows)
		fixed := func(p engine.Port) bool { return len(p.Shape) > 0 && p.Shape[0] >= 0 } // cutting it by rows would mix answers
		if c.MaxBatch > 1 && rows < int64(c.MaxBatch) && len(call.Inputs) == len(c.Graph.Info().Inputs) && !slices.ContainsFunc(c.Graph.Info().Outputs, fixed) {
			call.Bucket = kind.String()
		}
	}
	return call
}

// fits checks a tensor job's inputs against the graph's ports before they are joined with others.
func (c *Calls) fits(call gather.Call, given int) error {
	info := c.Graph.Info()
	if len(call.Inputs) != len(info.Inputs) || given != len(info.Inputs) {
		var names []string
		for _, p := range info.Inputs {
			names = append(names, p.Name)
		}
		return fmt.Errorf("%w: the model reads exactly the inputs %s", engine.ErrBadTensor, strings.Join(names, ", "))
	}
	for i, p := range info.Inputs {
		if err := p.Check(call.Inputs[i]); err != nil {
			return err
		}
	}
	return nil
}

// wanted are the outputs that a tensor job asks for; none is all.
func wanted(names []string, outputs []engine.Tensor) ([]contracts.Tensor, error) {
	var out []contracts.Tensor
	for _, t := range outputs {
		if len(names) == 0 || slices.Contains(names, t.Name) {
			out = append(out, contracts.Tensor{Name: t.Name, Type: contracts.DataType(t.Type), Shape: t.Shape, Data: t.Data})
		}
	}
	if len(names) > 0 && len(out) != len(names) {
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "the model has no output of a name among %s", strings.Join(names, ", "))
	}
	return out, nil
}
