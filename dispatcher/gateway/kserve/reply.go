package kserve

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// Reply is the answer to an infer request.
type Reply struct {
	Model   string   `json:"model_name"`
	Version string   `json:"model_version"`
	ID      string   `json:"id,omitempty"`
	Outputs []Output `json:"outputs"`
}

// Output is one tensor of a reply.
type Output struct {
	Name  string             `json:"name"`
	Shape []int64            `json:"shape"`
	Type  contracts.DataType `json:"datatype"`
	Data  *Elements          `json:"data,omitempty"` // nil if its bytes are behind the JSON

	Parameters *OutputParameters `json:"parameters,omitempty"`
}

// OutputParameters of an output whose bytes are behind the JSON.
type OutputParameters struct {
	Size int `json:"binary_data_size"`
}

// Metadata describes a model.
type Metadata struct {
	Name     string   `json:"name"`
	Versions []string `json:"versions"`
	Platform string   `json:"platform"`
	Inputs   []Port   `json:"inputs"`
	Outputs  []Port   `json:"outputs"`
}

// Port is an input or an output of a model; -1 is any size.
type Port struct {
	Name  string             `json:"name"`
	Type  contracts.DataType `json:"datatype"`
	Shape []int64            `json:"shape"`
}

// Elements writes a tensor's elements as one flat array. What JSON has no number for (NaN, infinity) is
// null; of FP16, which has no form in JSON, the bits as an integer (ask for it in binary).
type Elements struct {
	Type contracts.DataType
	Data []byte
}

// NewReply is the reply to r with a job's outputs, and the bytes to send behind its JSON: nil if no output
// was asked for in binary.
func NewReply(model string, r *Request, outputs []contracts.Tensor) (reply Reply, tail []byte) {
	reply = Reply{Model: model, Version: "1", ID: r.ID, Outputs: []Output{}}
	for _, t := range outputs {
		if t.Shape == nil {
			t.Shape = []int64{}
		}
		o := Output{Name: t.Name, Shape: t.Shape, Type: t.Type}
		if wanted, said := r.binary[t.Name]; wanted || !said && r.rest {
			o.Parameters = &OutputParameters{len(t.Data)}
			if tail == nil {
				tail = []byte{}
			}
			tail = append(tail, t.Data...)
		} else {
			o.Data = &Elements{t.Type, t.Data}
		}
		reply.Outputs = append(reply.Outputs, o)
	}
	return reply, tail
}

// MarshalJSON writes the shortest numbers that read back as the same elements.
func (e Elements) MarshalJSON() ([]byte, error) {
	size := max(1, e.Type.Size())
	out := append(make([]byte, 0, 4*len(e.Data)/size*2+2), '[')
	var wide [8]byte
	for i := 0; i+size <= len(e.Data); i += size {
		if i > 0 {
			out = append(out, ',')
		}
		clear(wide[:])
		copy(wide[:], e.Data[i:i+size])
		out = e.append(out, binary.LittleEndian.Uint64(wide[:]))
	}
	return append(out, ']'), nil
}

// append writes one element, given as its bits.
func (e Elements) append(out []byte, bits uint64) []byte {
	number := func(v float64, width int) []byte {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return append(out, "null"...)
		}
		return strconv.AppendFloat(out, v, 'g', -1, width)
	}
	switch e.Type {
	case contracts.Bool:
		return strconv.AppendBool(out, bits != 0)
	case contracts.Float32:
		return number(float64(math.Float32frombits(uint32(bits))), 32)
	case contracts.Float64:
		return number(math.Float64frombits(bits), 64)
	case contracts.Int8, contracts.Int16, contracts.Int32, contracts.Int64:
		shift := 64 - 8*e.Type.Size()
		return strconv.AppendInt(out, int64(bits<<shift)>>shift, 10)
	}
	return strconv.AppendUint(out, bits, 10)
}

// Owns tells whether the protocol says what is at path, and so how errors look there.
func Owns(path string) bool { return path == "/v2" || strings.HasPrefix(path, "/v2/") }

// Error is the protocol's error object.
type Error struct {
	Error string `json:"error"`
}
