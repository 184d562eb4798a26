package admission_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
)

// callCatalog holds a model of each kind of call.
func callCatalog(t testing.TB) *admission.Catalog {
	t.Helper()
	c, err := admission.NewCatalog([]admission.Model{
		{Name: "embed", Kind: contracts.KindEmbed, Tokenizer: words{}, ContextLength: 4, Vocab: 100, Dimensions: 8,
			Cut: func(ids []int32, most int) []int32 { return ids[:most] }},
		{Name: "framed", Kind: contracts.KindEmbed, Tokenizer: frames{}, ContextLength: 8, Vocab: 100, Dimensions: 8,
			Cut: func(ids []int32, most int) []int32 { return ids[:most] }},
		{Name: "sum", Kind: contracts.KindTensor, Inputs: []admission.Port{{Name: "a", Type: "FP32", Shape: []int64{-1, 2}}, {Name: "b", Type: "INT64", Shape: []int64{1}}},
			Outputs: []admission.Port{{Name: "y", Type: "FP32", Shape: []int64{-1}}}},
		{Name: "text", Tokenizer: words{}, ContextLength: 20, Vocab: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// frames is a tokenizer that puts 7 before each text and 9 behind it.
type frames struct{ words }

func (f frames) Encode(text string) []int32 {
	return slices.Concat([]int32{7}, f.words.Encode(text), []int32{9})
}

func framedJob(rows ...[]int32) *contracts.Job {
	return embedJob(func(j *contracts.Job) { j.Model, j.Input, j.Rows = "framed", nil, rows })
}

func embedJob(change func(*contracts.Job)) *contracts.Job {
	j := &contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "embed", Kind: contracts.KindEmbed, Input: []string{"a b", "c"}}
	change(j)
	return j
}

func tensorJob(change func(*contracts.Job)) *contracts.Job {
	j := &contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "sum", Kind: contracts.KindTensor, Tensors: []contracts.Tensor{
		{Name: "b", Type: "INT64", Shape: []int64{1}, Data: make([]byte, 8)},
		{Name: "a", Type: "FP32", Shape: []int64{600, 2}, Data: make([]byte, 4800)},
	}}
	change(j)
	return j
}

func same(*contracts.Job) {}

func TestCallsAreAdmitted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		job   *contracts.Job
		rows  []int // tokens of each
		units int
	}{
		"texts":   {embedJob(same), []int{2, 1}, 3},
		"cut":     {embedJob(func(j *contracts.Job) { j.Input, j.Truncate = []string{"1 2 3 4 5 6", "c"}, true }), []int{4, 1}, 5},
		"ids":     {embedJob(func(j *contracts.Job) { j.Input, j.Rows = nil, [][]int32{{0, 99, 5}} }), []int{3}, 3},
		"framed":  {framedJob([]int32{7, 3, 4, 9}, []int32{7, 9}), []int{4, 2}, 6},
		"tensors": {tensorJob(same), nil, 2}, // 4,808 bytes in units of 4 KiB
		"output":  {tensorJob(func(j *contracts.Job) { j.Outputs = []string{"y"} }), nil, 2},
	} {
		d, err := admission.Decide(c.job, callCatalog(t), nobody, limits, admission.Draw{Now: now})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var lengths []int
		for _, r := range d.Admitted.Rows {
			lengths = append(lengths, len(r))
		}
		if !slices.Equal(lengths, c.rows) || d.Admitted.KVTokens != c.units || d.Size != contracts.SizeS || d.Admitted.Digest == "" {
			t.Errorf("%s: rows of %v, %d units, size %s", name, lengths, d.Admitted.KVTokens, d.Size)
		}
		var back contracts.Admitted
		if err := contracts.Decode(d.Data, &back); err != nil || cmp.Diff(d.Admitted.Rows, back.Rows) != "" || cmp.Diff(c.job.Tensors, back.Job.Tensors) != "" || len(back.Job.Input) > 0 {
			t.Errorf("%s: encoded as %+v, %v", name, back, err)
		}
	}
}

func TestCallsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		job         *contracts.Job
		code        contracts.Code
		param, says string
	}{
		"long text":      {embedJob(func(j *contracts.Job) { j.Input[1] = "1 2 3 4 5" }), contracts.CodeContextLengthExceeded, "input[1]", "set truncate"},
		"longer text":    {embedJob(func(j *contracts.Job) { j.Input[1] = "1 2 3 4 5 6 7 8 9" }), contracts.CodeContextLengthExceeded, "input[1]", "more than 8 tokens"},
		"long row":       {embedJob(func(j *contracts.Job) { j.Input, j.Rows = nil, [][]int32{{1}, {1, 2, 3, 4, 5}} }), contracts.CodeContextLengthExceeded, "rows[1]", "5 tokens"},
		"no such token":  {embedJob(func(j *contracts.Job) { j.Input, j.Rows = nil, [][]int32{{1, 100}} }), contracts.CodeInvalidArgument, "rows[0]", "0 to 99"},
		"negative token": {embedJob(func(j *contracts.Job) { j.Input, j.Rows = nil, [][]int32{{-1}} }), contracts.CodeInvalidArgument, "rows[0]", "negative"},
		"not framed":     {framedJob([]int32{7, 3, 9}, []int32{3, 4}), contracts.CodeInvalidArgument, "rows[1]", "lacks the special tokens [7 9]"},
		"no beginning":   {framedJob([]int32{3, 4, 9}), contracts.CodeInvalidArgument, "rows[0]", "check_embedding_ctx_length"},
		"no end":         {framedJob([]int32{7, 3, 4}), contracts.CodeInvalidArgument, "rows[0]", "send the text instead"},
		"half a frame":   {framedJob([]int32{7}), contracts.CodeInvalidArgument, "rows[0]", "lacks"},
		"others' ids":    {framedJob([]int32{7, 31000, 9}), contracts.CodeInvalidArgument, "rows[0]", "check_embedding_ctx_length"},
		"many":           {embedJob(func(j *contracts.Job) { j.Input = slices.Repeat([]string{"a"}, 900) }), contracts.CodePayloadTooLarge, "input", "the vectors of 256"},
		"memory":         {embedJob(func(j *contracts.Job) { j.Input = slices.Repeat([]string{"1 2 3 4"}, 30) }), contracts.CodePayloadTooLarge, "input", "the largest live worker has 1000"},
		"text to tensor": {embedJob(func(j *contracts.Job) { j.Model = "sum" }), contracts.CodeInvalidArgument, "model", "/v2/models/sum/infer"},
		"text to embed": {embedJob(func(j *contracts.Job) { j.Kind, j.Input, j.Prompt = contracts.KindText, nil, "x" }), contracts.CodeInvalidArgument, "model",
			"/v1/embeddings"},
		"embed to text":  {embedJob(func(j *contracts.Job) { j.Model = "text" }), contracts.CodeInvalidArgument, "model", "kind chat or text"},
		"unknown input":  {tensorJob(func(j *contracts.Job) { j.Tensors[0].Name = "c" }), contracts.CodeInvalidArgument, "tensors[0].name", "a (FP32 [-1 2]), b (INT64 [1])"},
		"missing input":  {tensorJob(func(j *contracts.Job) { j.Tensors = j.Tensors[:1] }), contracts.CodeInvalidArgument, "tensors", "input a"},
		"type":           {tensorJob(func(j *contracts.Job) { j.Tensors[0].Type = "UINT64" }), contracts.CodeInvalidArgument, "tensors[0].datatype", "reads INT64"},
		"shape":          {tensorJob(func(j *contracts.Job) { j.Tensors[1].Shape = []int64{400, 3} }), contracts.CodeInvalidArgument, "tensors[1].shape", "[-1 2]"},
		"rank":           {tensorJob(func(j *contracts.Job) { j.Tensors[1].Shape = []int64{1200} }), contracts.CodeInvalidArgument, "tensors[1].shape", "[1200]"},
		"nothing":        {tensorJob(func(j *contracts.Job) { j.Tensors[1].Shape, j.Tensors[1].Data = []int64{0, 2}, nil }), contracts.CodeInvalidArgument, "tensors[1].shape", "at least 1"},
		"unknown output": {tensorJob(func(j *contracts.Job) { j.Outputs = []string{"z"} }), contracts.CodeInvalidArgument, "outputs", "y (FP32"},
		"much": {tensorJob(func(j *contracts.Job) {
			j.Tensors[1].Shape, j.Tensors[1].Data = []int64{6000, 2}, make([]byte, 48000)
		}), contracts.CodePayloadTooLarge, "tensors", "send fewer inputs"},
	} {
		capacity := func(string) admission.Capacity { return admission.Capacity{KVBytes: 1000, KVPerToken: 90} }
		l := limits
		l.MaxRecord = 256*4*8 + 8<<10
		_, err := admission.Decide(c.job, callCatalog(t), capacity, l, admission.Draw{Now: now})
		if e := contracts.AsError(err); err == nil || e.Code != c.code || e.Param != c.param || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %v (code %s, param %q), want %s of %q that says %q", name, err, e.Code, e.Param, c.code, c.param, c.says)
		}
	}
}

// TestDigest: what a job asks has the same digest in every version, and a request with more parts another one.
func TestDigest(t *testing.T) {
	t.Parallel()
	for want, parts := range map[string]int{"91327cf3d3e4175204c00d080076bd5bba8fa7424b296859a4dcb0f950f4d166": 0, "50da53a25bde1384e9a40999a64c62fa03adcb5f435b6d8fa5a09a356aeff143": 2, "c4428163edbb1bde904d71ebc8c9528f369561b407202ac8287ab01eee235f1d": 3} {
		j := contracts.Job{V: 1, ID: "x", Tenant: "t", Model: "m", Kind: contracts.KindText, Prompt: "x"}
		if parts > 0 {
			j.Labels = map[string]string{admission.LabelParts: strconv.Itoa(parts)}
		}
		if got, err := admission.Digest(&j); err != nil || got != want {
			t.Errorf("%d parts: %s, %v, want %s", parts, got, err, want)
		}
	}
}
