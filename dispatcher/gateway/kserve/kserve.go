// Package kserve holds the JSON shapes of the Open Inference Protocol (KServe v2): what clients send to
// /v2/models/{model}/infer and what they get back, and how it becomes a tensor job.
//
// Tensors come and go as arrays of numbers, or by the protocol's binary extension: the elements' bytes one
// tensor after the other behind the JSON, whose length is in the header [LengthHeader].
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

// LengthHeader is the header of a request or a reply with binary tensors: the bytes of its JSON.
const LengthHeader = "Inference-Header-Content-Length"

// Request is a decoded infer request.
type Request struct {
	ID     string
	Job    contracts.Job   // lacks the model and what is not in the body
	binary map[string]bool // outputs wanted in binary, or not
	rest   bool            // whether those not named are
}

// Parse reads the body of an infer request, whose first jsonLength bytes are JSON. The error is a
// [*contracts.Error] that names the parameter.
func Parse(data []byte, jsonLength int) (*Request, error) {
	if jsonLength < 0 || jsonLength > len(data) {
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "%s is %d, the body has %d bytes: send the length of its JSON", LengthHeader, jsonLength, len(data))
	}
	f, err := body.Parse(data[:jsonLength])
	if err != nil {
		return nil, err
	}
	tail := data[jsonLength:]
	r := &Request{ID: f.Text("id"), Job: contracts.Job{V: contracts.Version, Kind: contracts.KindTensor}}
	r.binary = map[string]bool{}
	if p := f.Object("parameters"); p != nil { // no other changes what is done
		r.rest = p.Bool("binary_data_output")
		f.Fail(p.Err())
	}
	for _, v := range f.List("inputs", contracts.MaxTensors) {
		var t contracts.Tensor
		t, tail, err = input(v, tail)
		f.Fail(err)
		r.Job.Tensors = append(r.Job.Tensors, t)
	}
	for _, v := range f.List("outputs", contracts.MaxTensors) {
		o, err := v.Object()
		f.Fail(err)
		if err == nil {
			name := o.Text("name")
			r.Job.Outputs = append(r.Job.Outputs, name)
			if p := o.Object("parameters"); p != nil {
				if !p.Get("binary_data").Null() {
					r.binary[name] = p.Bool("binary_data")
				}
				if n := p.Int("classification"); n != nil && *n != 0 {
					p.Unsupported("classification", "%s.parameters.classification is not served: leave it out and sort the output yourself", v.Path())
				}
				refuseShared(p)
				o.Fail(p.Err())
			}
			f.Fail(o.Err())
		}
	}
	if len(r.ID) > contracts.MaxLabelLength {
		f.Failf("id", "id has %d bytes, at most %d are allowed", len(r.ID), contracts.MaxLabelLength)
	}
	if len(tail) > 0 {
		f.Failf("inputs", "%d bytes behind the JSON belong to no input: give each its parameters.binary_data_size", len(tail))
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	if len(r.Job.Tensors) == 0 {
		return nil, contracts.Invalid("inputs", "inputs is missing or empty: send the model's inputs, which GET /v2/models/{model} lists")
	}
	return r, contracts.CheckTensors("inputs", r.Job.Tensors)
}

// input reads one tensor; if it is binary, from the head of tail.
func input(v body.Value, tail []byte) (contracts.Tensor, []byte, error) {
	o, err := v.Object()
	if err != nil {
		return contracts.Tensor{}, tail, err
	}
	t := contracts.Tensor{Name: o.Text("name"), Type: contracts.DataType(o.Text("datatype"))}
	for _, d := range o.List("shape", contracts.MaxRank) {
		n, err := d.Int()
		o.Fail(err)
		t.Shape = append(t.Shape, n)
	}
	list, size := o.Get("data"), body.Value{}
	if p := o.Object("parameters"); p != nil {
		size = p.Get("binary_data_size")
		refuseShared(p)
		o.Fail(p.Err())
	}
	switch {
	case t.Type.Size() == 0:
		o.Failf("datatype", "%s.datatype %.20q is not one of BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64", v.Path(), string(t.Type))
	case !size.Null():
		n, err := size.Int()
		o.Fail(err)
		switch {
		case !list.Null():
			o.Failf("data", "%s has data and binary_data_size: send one of them", v.Path())
		case n < 0 || n > int64(len(tail)):
			o.Failf("parameters", "%s says that it has %d bytes behind the JSON, %d are there: is the header %s right?", v.Path(), n, len(tail), LengthHeader)
		default:
			t.Data, tail = tail[:n:n], tail[n:]
		}
	case !list.IsList():
		o.Failf("data", "%s.data is missing: send the elements as an array, flat or nested, or behind the JSON with parameters.binary_data_size", v.Path())
	case t.Type == contracts.Float16:
		o.Failf("datatype", "%s: FP16 has no form in JSON: send FP32, or the bytes behind the JSON", v.Path())
	default:
		t.Data, err = elements(t.Type, list.Raw(), list.Path())
		o.Fail(err)
	}
	return t, tail, o.Err()
}

// refuseShared refuses parameters of a tensor in shared memory, an extension that is not served.
func refuseShared(p *body.Fields) {
	if !p.Get("shared_memory_region").Null() {
		p.Unsupported("shared_memory_region", "shared memory is not served: send and take tensors in JSON or as bytes behind it")
	}
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
			return nil, contracts.Invalid(path, "%s: element %d is not a %s", path, count, kind)
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
