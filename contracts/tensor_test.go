package contracts_test

import (
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
)

func TestEmbedAndTensorJobs(t *testing.T) {
	t.Parallel()
	good := contracts.Tensor{Name: "x", Type: contracts.Float32, Shape: []int64{2, 1}, Data: make([]byte, 8)}
	with := func(change func(*contracts.Tensor)) []contracts.Tensor {
		t := good
		change(&t)
		return []contracts.Tensor{t}
	}
	embed := func(change func(*contracts.Job)) contracts.Job {
		j := contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "m", Kind: contracts.KindEmbed}
		change(&j)
		return j
	}
	tensor := func(tensors []contracts.Tensor, outputs ...string) contracts.Job {
		return contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "m", Kind: contracts.KindTensor, Tensors: tensors, Outputs: outputs}
	}
	for name, c := range map[string]struct {
		job   contracts.Job
		param string // "": the job is good
		code  contracts.Code
	}{
		"texts":        {job: embed(func(j *contracts.Job) { j.Input = []string{"a", " "} })},
		"rows":         {job: embed(func(j *contracts.Job) { j.Rows = [][]int32{{0}, {1, 2}} })},
		"nothing":      {embed(func(*contracts.Job) {}), "input", contracts.CodeInvalidArgument},
		"both":         {embed(func(j *contracts.Job) { j.Input, j.Rows = []string{"a"}, [][]int32{{1}} }), "input", contracts.CodeInvalidArgument},
		"prompt":       {embed(func(j *contracts.Job) { j.Input, j.Prompt = []string{"a"}, "b" }), "input", contracts.CodeInvalidArgument},
		"empty text":   {embed(func(j *contracts.Job) { j.Input = []string{"a", ""} }), "input[1]", contracts.CodeInvalidArgument},
		"not UTF-8":    {embed(func(j *contracts.Job) { j.Input = []string{"\xff"} }), "input[0]", contracts.CodeInvalidArgument},
		"many texts":   {embed(func(j *contracts.Job) { j.Input = strings.Split(strings.Repeat("a ", contracts.MaxInputs), " ") }), "input", contracts.CodeInvalidArgument},
		"much text":    {embed(func(j *contracts.Job) { j.Input = []string{strings.Repeat("a", 3<<20), strings.Repeat("b", 3<<20)} }), "input", contracts.CodePayloadTooLarge},
		"empty row":    {embed(func(j *contracts.Job) { j.Rows = [][]int32{{}} }), "rows[0]", contracts.CodeInvalidArgument},
		"negative id":  {embed(func(j *contracts.Job) { j.Rows = [][]int32{{1, -1}} }), "rows[0]", contracts.CodeInvalidArgument},
		"tensor":       {job: tensor([]contracts.Tensor{good}, "y")},
		"no element":   {job: tensor(with(func(t *contracts.Tensor) { t.Shape, t.Data = []int64{0, 7}, nil }))},
		"scalar":       {job: tensor(with(func(t *contracts.Tensor) { t.Shape, t.Data = nil, t.Data[:4] }))},
		"no tensor":    {tensor(nil), "tensors", contracts.CodeInvalidArgument},
		"twice":        {tensor([]contracts.Tensor{good, good}), "tensors[1].name", contracts.CodeInvalidArgument},
		"datatype":     {tensor(with(func(t *contracts.Tensor) { t.Type = "BYTES" })), "tensors[0].datatype", contracts.CodeInvalidArgument},
		"negative":     {tensor(with(func(t *contracts.Tensor) { t.Shape = []int64{-2, -1} })), "tensors[0].shape", contracts.CodeInvalidArgument},
		"overflow":     {tensor(with(func(t *contracts.Tensor) { t.Shape = []int64{1 << 39, 1 << 39, 1 << 39} })), "tensors[0].shape", contracts.CodeInvalidArgument},
		"rank":         {tensor(with(func(t *contracts.Tensor) { t.Shape = make([]int64, 9) })), "tensors[0].shape", contracts.CodeInvalidArgument},
		"bytes":        {tensor(with(func(t *contracts.Tensor) { t.Data = t.Data[:7] })), "tensors[0].bytes", contracts.CodeInvalidArgument},
		"bool":         {tensor(with(func(t *contracts.Tensor) { t.Type, t.Shape, t.Data = contracts.Bool, []int64{1}, []byte{2} })), "tensors[0].bytes", contracts.CodeInvalidArgument},
		"output twice": {tensor([]contracts.Tensor{good}, "y", "y"), "outputs", contracts.CodeInvalidArgument},
	} {
		err := c.job.Validate()
		if c.param == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if e := contracts.AsError(err); err == nil || e.Code != c.code || e.Param != c.param {
			t.Errorf("%s: %v, want %s of %q", name, err, c.code, c.param)
		}
	}
}
