package contracts

import (
	"fmt"
	"slices"
)

// DataType is the type of a tensor's elements, by the names of the Open Inference Protocol (KServe v2).
type DataType string

// The data types. Elements are little endian; a BOOL is one byte, 0 or 1.
const (
	Bool    DataType = "BOOL"
	Uint8   DataType = "UINT8"
	Uint16  DataType = "UINT16"
	Uint32  DataType = "UINT32"
	Uint64  DataType = "UINT64"
	Int8    DataType = "INT8"
	Int16   DataType = "INT16"
	Int32   DataType = "INT32"
	Int64   DataType = "INT64"
	Float16 DataType = "FP16"
	Float32 DataType = "FP32"
	Float64 DataType = "FP64"
)

// Size is the bytes of one element, 0 for a type that this protocol does not have.
func (t DataType) Size() int {
	switch t {
	case Bool, Uint8, Int8:
		return 1
	case Uint16, Int16, Float16:
		return 2
	case Uint32, Int32, Float32:
		return 4
	case Uint64, Int64, Float64:
		return 8
	}
	return 0
}

// Limits on tensors.
const (
	MaxTensors = 64 // of one job, and of its answer
	MaxRank    = 8  // dimensions
	MaxInputs  = 2048
)

// Embedding is the name of the tensor in which an embed job's answer is: FP32 of shape [inputs, dimensions],
// each row of length 1.
const Embedding = "embedding"

// CallRoom is the memory, in bytes, in which a worker holds the jobs of a model that answers in one call: a job's
// inputs, what is joined for the graph, and its outputs. A job that needs more than all of it is refused.
const CallRoom = 64 << 20

// EmbedCost is how many bytes of CallRoom a token of an embed job takes: its ids in the job and in the call, and
// its share of a vector of so many dimensions, three times in memory, of a text of four tokens.
func EmbedCost(dimensions int) int64 { return 32 + 3*int64(dimensions) }

// Tensor is an array with a name.
type Tensor struct {
	Name  string   `msgpack:"name" json:"name"`
	Type  DataType `msgpack:"datatype" json:"datatype"`
	Shape []int64  `msgpack:"shape" json:"shape"`
	Data  []byte   `msgpack:"bytes" json:"bytes"` // the elements in row-major order, little endian
}

// Elements is the product of a shape's dimensions, -1 when one is negative or the product is over 1<<40.
func Elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > 1<<40 || d > 0 && n > (1<<40)/d {
			return -1
		}
		n *= d
	}
	return n
}

// check says what is wrong with the tensor itself, nil when nothing is.
func (t *Tensor) check(param string) error {
	if err := validName(param+".name", t.Name); err != nil {
		return err
	}
	size := t.Type.Size()
	if size == 0 {
		return Invalid(param+".datatype", "datatype %.20q of tensor %q is not one of BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64", string(t.Type), t.Name)
	}
	n := Elements(t.Shape)
	if len(t.Shape) > MaxRank || n < 0 {
		return Invalid(param+".shape", "shape of tensor %q must have at most %d dimensions, none negative, got %v", t.Name, MaxRank, t.Shape[:min(len(t.Shape), MaxRank+1)])
	}
	if n*int64(size) != int64(len(t.Data)) {
		return Invalid(param+".bytes", "tensor %q of %s and shape %v takes %d bytes, got %d", t.Name, t.Type, t.Shape, n*int64(size), len(t.Data))
	}
	if t.Type == Bool && slices.ContainsFunc(t.Data, func(b byte) bool { return b > 1 }) {
		return Invalid(param+".bytes", "tensor %q: a BOOL is 0 or 1", t.Name)
	}
	return nil
}

// CheckTensors checks each tensor by itself and that no name comes twice. The error is an [*Error].
func CheckTensors(param string, tensors []Tensor) error {
	if len(tensors) == 0 || len(tensors) > MaxTensors {
		return Invalid(param, "a tensor job needs 1 to %d tensors, got %d", MaxTensors, len(tensors))
	}
	for i := range tensors {
		at := fmt.Sprintf("%s[%d]", param, i)
		if err := tensors[i].check(at); err != nil {
			return err
		}
		if slices.ContainsFunc(tensors[:i], func(t Tensor) bool { return t.Name == tensors[i].Name }) {
			return Invalid(at+".name", "tensor %q comes twice", tensors[i].Name)
		}
	}
	return nil
}

func (j *Job) validateEmbed() error {
	if len(j.Messages) > 0 || j.Prompt != "" || len(j.Tokens) > 0 {
		return Invalid("input", "an embed job takes input or rows, not messages, prompt or tokens")
	}
	n := len(j.Input) + len(j.Rows)
	if n == 0 || n > MaxInputs || len(j.Input) > 0 && len(j.Rows) > 0 {
		return Invalid("input", "an embed job needs 1 to %d texts in input, or as many rows of token ids in rows, not both", MaxInputs)
	}
	total := 0
	for i, s := range j.Input {
		param := fmt.Sprintf("input[%d]", i)
		if s == "" {
			return Invalid(param, "%s is empty: send at least one character", param)
		}
		if err := validText(param, s); err != nil {
			return err
		}
		if total += len(s); total > MaxPromptLength {
			return &Error{Code: CodePayloadTooLarge, Param: "input", Message: fmt.Sprintf("the texts have more than %d bytes together: send fewer in one job", MaxPromptLength)}
		}
	}
	for i, row := range j.Rows {
		if len(row) == 0 || len(row) > MaxItems || slices.ContainsFunc(row, func(t int32) bool { return t < 0 }) {
			return Invalid(fmt.Sprintf("rows[%d]", i), "rows[%d] must be 1 to %d token ids, none negative", i, MaxItems)
		}
	}
	return nil
}

func (j *Job) validateTensor() error {
	if len(j.Messages) > 0 || j.Prompt != "" || len(j.Tokens)+len(j.Input)+len(j.Rows) > 0 {
		return Invalid("tensors", "a tensor job takes tensors and nothing else")
	}
	if err := CheckTensors("tensors", j.Tensors); err != nil {
		return err
	}
	if len(j.Outputs) > MaxTensors {
		return Invalid("outputs", "%d outputs, at most %d are allowed", len(j.Outputs), MaxTensors)
	}
	for i, name := range j.Outputs {
		if err := validName(fmt.Sprintf("outputs[%d]", i), name); err != nil {
			return err
		}
		if slices.Contains(j.Outputs[:i], name) {
			return Invalid("outputs", "output %q comes twice", name)
		}
	}
	return nil
}
