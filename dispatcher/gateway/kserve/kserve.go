// Package kserve holds the JSON shapes of the Open Inference Protocol (KServe v2): what clients send to
// /v2/models/{model}/infer and what they get back, and how it becomes a tensor job.
//
// Previous step of the walk: dispatcher/gateway, which reads the body. Next step: the job that
// dispatcher/gateway submits. The package does no I/O, knows no model, and believes nothing of a body.
package kserve

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
)

// Request is a decoded infer request.
type Request struct {
	ID  string
	Job contracts.Job // lacks the model and what is not in the body
}

// Parse reads the body of an infer request. The error is a [*contracts.Error] that names the parameter.
func Parse(data []byte) (*Request, error) {
	f, err := body.Parse(data)
	if err != nil {
		return nil, err
	}
	r := &Request{ID: f.Text("id"), Job: contracts.Job{V: contracts.Version, Kind: contracts.KindTensor}}
	f.Object("parameters") // none changes what is computed
	for _, v := range f.List("inputs", contracts.MaxTensors) {
		t, err := input(v)
		f.Fail(err)
		r.Job.Tensors = append(r.Job.Tensors, t)
	}
	for _, v := range f.List("outputs", contracts.MaxTensors) {
		o, err := v.Object()
		f.Fail(err)
		if err == nil {
			r.Job.Outputs = append(r.Job.Outputs, o.Text("name"))
			f.Fail(o.Err())
		}
	}
	if len(r.ID) > contracts.MaxLabelLength {
		f.Failf("id", "id has %d bytes, at most %d are allowed", len(r.ID), contracts.MaxLabelLength)
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	if len(r.Job.Tensors) == 0 {
		return nil, &contracts.Error{Code: contracts.CodeInvalidArgument, Param: "inputs", Message: "inputs is missing or empty: send the model's inputs, which GET /v2/models/{model} lists"}
	}
	return r, contracts.CheckTensors("inputs", r.Job.Tensors)
}

// input reads one tensor.
func input(v body.Value) (contracts.Tensor, error) {
	o, err := v.Object()
	if err != nil {
		return contracts.Tensor{}, err
	}
	t := contracts.Tensor{Name: o.Text("name"), Type: contracts.DataType(o.Text("datatype"))}
	for _, d := range o.List("shape", contracts.MaxRank) {
		n, err := d.Int()
		o.Fail(err)
		t.Shape = append(t.Shape, n)
	}
	list := o.Get("data")
	switch {
	case !list.IsList():
		o.Failf("data", "%s.data is missing: send the elements as an array, flat or nested", v.Path())
	case t.Type.Size() == 0:
		o.Failf("datatype", "%s.datatype %.20q is not one of BOOL, UINT8 to UINT64, INT8 to INT64, FP32, FP64", v.Path(), string(t.Type))
	case t.Type == contracts.Float16:
		o.Failf("datatype", "%s: FP16 has no form in JSON: send FP32, or a tensor job over NATS", v.Path())
	default:
		t.Data, err = elements(t.Type, list.Raw(), list.Path())
		o.Fail(err)
	}
	return t, o.Err()
}

// elements are the numbers of an array, flat or nested, as they lie in memory.
func elements(kind contracts.DataType, raw []byte, path string) ([]byte, error) {
	var out []byte
	count := 0
	for len(raw) > 0 {
		if bytes.IndexByte([]byte("[], \n\r\t"), raw[0]) >= 0 {
			raw = raw[1:]
			continue
		}
		n := bytes.IndexAny(raw, "[], \n\r\t")
		if n < 0 {
			n = len(raw)
		}
		var ok bool
		if out, ok = element(out, kind, string(raw[:n])); !ok {
			return nil, &contracts.Error{Code: contracts.CodeInvalidArgument, Param: path,
				Message: path + ": element " + strconv.Itoa(count) + " is not a " + string(kind)}
		}
		raw = raw[n:]
		count++
	}
	return out, nil
}

// element appends one element.
func element(out []byte, kind contracts.DataType, text string) ([]byte, bool) {
	bits := 8 * kind.Size()
	var value uint64
	var err error
	switch kind {
	case contracts.Bool:
		if text != "true" && text != "false" {
			return out, false
		}
		if text == "true" {
			value = 1
		}
	case contracts.Float32:
		var v float64
		v, err = strconv.ParseFloat(text, 32)
		value = uint64(math.Float32bits(float32(v)))
	case contracts.Float64:
		var v float64
		v, err = strconv.ParseFloat(text, 64)
		value = math.Float64bits(v)
	case contracts.Int8, contracts.Int16, contracts.Int32, contracts.Int64:
		var v int64
		v, err = strconv.ParseInt(text, 10, bits)
		value = uint64(v)
	default:
		value, err = strconv.ParseUint(text, 10, bits)
	}
	if err != nil {
		return out, false
	}
	return append(out, binary.LittleEndian.AppendUint64(nil, value)[:kind.Size()]...), true
}
