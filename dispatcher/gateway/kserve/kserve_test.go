package kserve_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/kserve"
)

// parse reads a body of JSON and what is behind it.
func parse(text, tail string) (*kserve.Request, error) {
	return kserve.Parse([]byte(text+tail), len(text))
}

func TestParse(t *testing.T) {
	t.Parallel()
	r, err := parse(`{"id":"7","parameters":{"x":1},"inputs":[
		{"name":"a","datatype":"INT16","shape":[2,2],"parameters":{},"data":[[1, -2],[ 3,4 ]]},
		{"name":"b","datatype":"BOOL","shape":[2],"data":[true,false]},
		{"name":"c","datatype":"FP32","shape":[1,1],"data":[1e-1]},
		{"name":"d","datatype":"UINT64","shape":[1],"data":[18446744073709551615]},
		{"name":"e","datatype":"FP64","shape":[0],"data":[]}],"outputs":[{"name":"y"},{"name":"z"}]}`, "")
	if err != nil {
		t.Fatal(err)
	}
	tenth := binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.1))
	want := &kserve.Request{ID: "7", Job: contracts.Job{V: contracts.Version, Kind: contracts.KindTensor, Outputs: []string{"y", "z"}, Tensors: []contracts.Tensor{
		{Name: "a", Type: "INT16", Shape: []int64{2, 2}, Data: []byte{1, 0, 0xfe, 0xff, 3, 0, 4, 0}},
		{Name: "b", Type: "BOOL", Shape: []int64{2}, Data: []byte{1, 0}},
		{Name: "c", Type: "FP32", Shape: []int64{1, 1}, Data: tenth},
		{Name: "d", Type: "UINT64", Shape: []int64{1}, Data: []byte{255, 255, 255, 255, 255, 255, 255, 255}},
		{Name: "e", Type: "FP64", Shape: []int64{0}},
	}}}
	if d := cmp.Diff(want, r, cmpopts.IgnoreUnexported(kserve.Request{})); d != "" {
		t.Error(d)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	tensor := func(datatype, shape, data string) string {
		return fmt.Sprintf(`{"inputs":[{"name":"a","datatype":%q,"shape":%s,"data":%s}]}`, datatype, shape, data)
	}
	binary := func(size string) string {
		return `{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":` + size + `}}]}`
	}
	for _, c := range []struct{ name, in, param, says string }{
		{"no JSON", `{"inputs"`, "", "not valid JSON"},
		{"no inputs", `{}`, "inputs", "GET /v2/models"},
		{"no list", `{"inputs":{}}`, "inputs", "array"},
		{"no object", `{"inputs":[7]}`, "inputs[0]", "object"},
		{"no data", `{"inputs":[{"name":"a","datatype":"FP32","shape":[1]}]}`, "inputs[0].data", "as an array"},
		{"no bytes", binary(`4`), "inputs[0].parameters", "4 bytes behind the JSON, 0 are there"},
		{"negative bytes", binary(`-1`), "inputs[0].parameters", "-1 bytes"},
		{"bytes of text", binary(`"4"`), "inputs[0].parameters.binary_data_size", "an integer"},
		{"data and bytes", `{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":0}}]}`, "inputs[0].data", "one of them"},
		{"too few bytes", binary(`0`), "inputs[0].bytes", "takes 4 bytes, got 0"},
		{"binary_data_output", `{"inputs":[],"parameters":{"binary_data_output":1}}`, "parameters.binary_data_output", "a boolean"},
		{"binary_data", `{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":"yes"}}]}`, "outputs[0].parameters.binary_data", "a boolean"},
		{"no such type", tensor("FP8", `[1]`, `[1]`), "inputs[0].datatype", "FP8"},
		{"BYTES", tensor("BYTES", `[1]`, `["x"]`), "inputs[0].datatype", "BYTES"},
		{"FP16", tensor("FP16", `[1]`, `[1]`), "inputs[0].datatype", "FP32"},
		{"too few", tensor("FP32", `[2]`, `[1]`), "inputs[0].bytes", "takes 8 bytes, got 4"},
		{"negative", tensor("FP32", `[-1]`, `[1]`), "inputs[0].shape", "none negative, got [-1]"},
		{"overflow of the shape", tensor("FP32", `[1099511627776,1099511627776]`, `[1]`), "inputs[0].shape", "shape"},
		{"rank", tensor("FP32", `[1,1,1,1,1,1,1,1,1]`, `[1]`), "inputs[0].shape", "more than 8"},
		{"fraction", tensor("INT8", `[1]`, `[1.5]`), "inputs[0].data", "element 0 is not a INT8"},
		{"range", tensor("UINT8", `[2]`, `[1,256]`), "inputs[0].data", "element 1 is not a UINT8"},
		{"sign", tensor("UINT8", `[1]`, `[-1]`), "inputs[0].data", "element 0"},
		{"float range", tensor("FP32", `[1]`, `[1e39]`), "inputs[0].data", "element 0"},
		{"bool", tensor("BOOL", `[1]`, `[1]`), "inputs[0].data", "element 0"},
		{"string", tensor("FP32", `[1]`, `["1"]`), "inputs[0].data", "element 0"},
		{"null", tensor("FP32", `[1]`, `[null]`), "inputs[0].data", "element 0"},
		{"name", strings.Replace(tensor("FP32", `[1]`, `[1]`), `"a"`, `""`, 1), "inputs[0].name", "name"},
		{"twice", `{"inputs":[{"name":"a","datatype":"BOOL","shape":[1],"data":[true]},{"name":"a","datatype":"BOOL","shape":[1],"data":[true]}]}`, "inputs[1].name", "twice"},
		{"id", `{"id":"` + strings.Repeat("x", contracts.MaxLabelLength+1) + `","inputs":[]}`, "id", "at most"},
		{"outputs", `{"inputs":[{"name":"a","datatype":"BOOL","shape":[1],"data":[true]}],"outputs":["y"]}`, "outputs[0]", "object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(c.in, "")
			e := contracts.AsError(err)
			if err == nil || e.Code != contracts.CodeInvalidArgument || e.Param != c.param || !strings.Contains(e.Message, c.says) {
				t.Errorf("Parse = %v (param %q), want invalid_argument of %q that says %q", err, e.Param, c.param, c.says)
			}
		})
	}
}

// Extensions that change the answer are refused, not passed over.
func TestParseExtensions(t *testing.T) {
	t.Parallel()
	const input = `{"name":"a","datatype":"BOOL","shape":[1],"data":[true]}`
	for in, param := range map[string]string{
		`{"inputs":[` + input + `],"outputs":[{"name":"y","parameters":{"classification":3}}]}`:                     "outputs[0].parameters.classification",
		`{"inputs":[` + input + `],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}`:             "outputs[0].parameters.shared_memory_region",
		`{"inputs":[{"name":"a","datatype":"BOOL","shape":[1],"parameters":{"shared_memory_region":"r"}}]}`:         "inputs[0].parameters.shared_memory_region",
		`{"inputs":[` + input + `],"outputs":[{"name":"y","parameters":{"classification":0,"binary_data":false}}]}`: "",
	} {
		_, err := parse(in, "")
		if param == "" && err == nil {
			continue
		}
		if e := contracts.AsError(err); err == nil || e.Code != contracts.CodeUnimplemented || e.Param != param {
			t.Errorf("%s: %v, want unimplemented of %q", in, err, param)
		}
	}
}

var inJSON = []contracts.DataType{"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"}

// Whatever a reply holds, sent back as an input it is the same tensor, bit for bit, as numbers and as bytes.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := contracts.Tensor{Name: "x", Type: rapid.SampledFrom(inJSON).Draw(t, "type"), Data: []byte{}}
		n := rapid.IntRange(0, 9).Draw(t, "n")
		in.Shape = []int64{int64(n)}
		for range n {
			in.Data = append(in.Data, element(t, in.Type)...)
		}
		how := ""
		if rapid.Bool().Draw(t, "binary") {
			how = `,"parameters":{"binary_data_output":true}`
		}
		asked, err := parse(`{"inputs":[{"name":"a","datatype":"BOOL","shape":[1],"data":[true]}]`+how+`}`, "")
		if err != nil {
			t.Fatal(err)
		}
		reply, tail := kserve.NewReply("m", asked, []contracts.Tensor{in})
		text, err := json.Marshal(reply.Outputs[0])
		if err != nil || (tail != nil) != (how != "") {
			t.Fatalf("%d bytes behind %s, %v", len(tail), text, err)
		}
		back, err := parse(`{"inputs":[`+string(text)+`]}`, string(tail))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if d := cmp.Diff(in, back.Job.Tensors[0], cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%s: %s", text, d)
		}
	})
}

func element(t *rapid.T, kind contracts.DataType) []byte {
	switch kind {
	case contracts.Bool:
		return []byte{byte(rapid.IntRange(0, 1).Draw(t, "bool"))}
	case contracts.Float32:
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(rapid.Float32().Draw(t, "float")))
	case contracts.Float64:
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(rapid.Float64().Draw(t, "double")))
	}
	return rapid.SliceOfN(rapid.Byte(), kind.Size(), kind.Size()).Draw(t, "int")
}

func TestReply(t *testing.T) {
	t.Parallel()
	outputs := []contracts.Tensor{
		{Name: "f", Type: "FP32", Shape: []int64{3}, Data: []byte{0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff, 0xcd, 0xcc, 0xcc, 0x3d}},
		{Name: "h", Type: "FP16", Shape: []int64{1}, Data: []byte{0, 0x3c}},
		{Name: "scalar", Type: "INT8", Data: []byte{0x80}},
	}
	const input = `{"id":"9","inputs":[{"name":"a","datatype":"BOOL","shape":[1],"data":[true]}]`
	const begin = `{"model_name":"m","model_version":"1","id":"9","outputs":[`
	for asked, want := range map[string]string{
		`}`: `{"name":"f","shape":[3],"datatype":"FP32","data":[null,null,0.1]},` +
			`{"name":"h","shape":[1],"datatype":"FP16","data":[15360]},` +
			`{"name":"scalar","shape":[],"datatype":"INT8","data":[-128]}]}`,
		`,"parameters":{"binary_data_output":true},"outputs":[{"name":"f","parameters":{"binary_data":false}},{"name":"h"},{"name":"scalar"}]}`: `{"name":"f","shape":[3],"datatype":"FP32","data":[null,null,0.1]},` +
			`{"name":"h","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2}},` +
			`{"name":"scalar","shape":[],"datatype":"INT8","parameters":{"binary_data_size":1}}]}` + "\x00\x3c\x80",
		`,"outputs":[{"name":"h","parameters":{"binary_data":true}}]}`: `{"name":"f","shape":[3],"datatype":"FP32","data":[null,null,0.1]},` +
			`{"name":"h","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2}},` +
			`{"name":"scalar","shape":[],"datatype":"INT8","data":[-128]}]}` + "\x00\x3c",
	} {
		r, err := parse(input+asked, "")
		if err != nil {
			t.Fatal(err)
		}
		reply, tail := kserve.NewReply("m", r, outputs)
		got, err := json.Marshal(reply)
		if got = append(got, tail...); err != nil || string(got) != begin+want {
			t.Errorf("%s:\ngot  %q, %v\nwant %q", asked, got, err, begin+want)
		}
	}
}

func TestBytesBehindTheJSON(t *testing.T) {
	t.Parallel()
	const text = `{"inputs":[{"name":"a","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}},{"name":"b","datatype":"BOOL","shape":[1],"data":[true]},` +
		`{"name":"c","datatype":"FP16","shape":[1],"parameters":{"binary_data_size":2}}]}`
	r, err := parse(text, "\x01\x00\xff\xff\x00\x3c")
	if err != nil || string(r.Job.Tensors[0].Data) != "\x01\x00\xff\xff" || string(r.Job.Tensors[2].Data) != "\x00\x3c" {
		t.Errorf("%+v, %v", r, err)
	}
	for tail, says := range map[string]string{"\x01\x00\xff": "has 4 bytes behind the JSON, 3 are there", "\x01\x00\xff\xff\x00\x3c\x00": "1 bytes behind the JSON belong to no input"} {
		if _, err := parse(text, tail); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want an error that says %q", tail, err, says)
		}
	}
	for _, n := range []int{-1, len(text) + 1} {
		if _, err := kserve.Parse([]byte(text), n); err == nil || !strings.Contains(err.Error(), kserve.LengthHeader) {
			t.Errorf("JSON of %d bytes: %v", n, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"inputs":[{"name":"a","datatype":"INT16","shape":[2,2],"data":[[1,-2],[3,4]]}]}`, "")
	f.Add(`{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[[[}]}`, "")
	f.Add(`{"inputs":[{"name":"a","datatype":"INT8","shape":[3],"parameters":{"binary_data_size":3}}]}`, "abc")
	f.Fuzz(func(t *testing.T, text, tail string) {
		r, err := parse(text, tail)
		if err != nil {
			if e := contracts.AsError(err); e.Code != contracts.CodeInvalidArgument {
				t.Errorf("%v has the code %s", err, e.Code)
			}
			return
		}
		r.Job.ID, r.Job.Tenant, r.Job.Model = "j", "t", "m"
		if err := r.Job.Validate(); err != nil {
			t.Errorf("what was parsed is no valid job: %v", err)
		}
	})
}
