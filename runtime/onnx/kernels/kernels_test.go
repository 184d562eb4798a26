//go:build cgo && (linux || darwin)

package kernels_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	ort "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

// TestPlaces compares ort.h with the header that the binding carries.
func TestPlaces(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Skipf("no Go tool beside this test: %v", err)
	}
	ours, err := os.ReadFile("ort.h")
	if err != nil {
		t.Fatal(err)
	}
	var program strings.Builder
	program.WriteString("#include <stddef.h>\n#include \"onnxruntime_c_api.h\"\n")
	calls := regexp.MustCompile(`(?m)X\([^,]+, (\w+), (\d+),`).FindAllStringSubmatch(string(ours), -1)
	if len(calls) < 10 {
		t.Fatalf("ort.h has %d calls", len(calls))
	}
	for _, c := range calls {
		fmt.Fprintf(&program, "_Static_assert(offsetof(OrtApi, %s) == %s * sizeof(void *), \"%s\");\n", c[1], c[2], c[1])
	}
	_, members, _ := strings.Cut(string(ours), "struct OrtCustomOp {")
	for i, m := range regexp.MustCompile(`\(\*(\w+)\)\(`).FindAllStringSubmatch(members, -1) {
		fmt.Fprintf(&program, "_Static_assert(offsetof(struct OrtCustomOp, %s) == %d * sizeof(void *), \"%s\");\n", m[1], i+1, m[1])
	}
	fmt.Fprintf(&program, "_Static_assert(sizeof(struct OrtCustomOp) == %d * sizeof(void *), \"OrtCustomOp\");\n", strings.Count(members, "(*Get")+strings.Count(members, "(*Create")+strings.Count(members, "(*Kernel")+strings.Count(members, "(*Release")+strings.Count(members, "(*Infer")+1)
	for name, value := range map[string]int{
		"ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT": 1, "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8": 2, "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32": 6, "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64": 7, "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16": 10,
		"INPUT_OUTPUT_REQUIRED": 0, "INPUT_OUTPUT_OPTIONAL": 1, "ORT_FAIL": 1, "ORT_INVALID_ARGUMENT": 2, "ORT_API_VERSION": 24,
	} {
		fmt.Fprintf(&program, "_Static_assert(%s == %d, \"%s\");\n", name, value, name)
	}
	source := filepath.Join(t.TempDir(), "places.c")
	if err := os.WriteFile(source, []byte(program.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if out, err := exec.CommandContext(t.Context(), cc, "-std=c11", "-I"+strings.TrimSpace(string(dir)), "-fsyntax-only", source).CombinedOutput(); err != nil {
		t.Errorf("ort.h is not the binding's header: %v\n%s", err, out)
	}
	pointer := func(f reflect.StructField) bool { return f.Type.Kind() == reflect.Pointer }
	for _, object := range []reflect.Type{reflect.TypeFor[ort.SessionOptions](), reflect.TypeFor[ort.RunOptions](), reflect.TypeFor[ort.ValueInternalData](), reflect.TypeFor[ort.DynamicAdvancedSession]()} {
		if object.NumField() != 1 || !pointer(object.Field(0)) {
			t.Errorf("the binding's %v is not one pointer", object)
		}
	}
	if session := reflect.TypeFor[ort.AdvancedSession](); !pointer(session.Field(0)) || session.Field(0).Name != "ortSession" {
		t.Errorf("the binding's %v begins with %v, not with the library's object", session, session.Field(0))
	}
}

var library = sync.OnceValues(func() (string, error) {
	path, err := hub.Library(context.Background(), os.Getenv("PELTON_ORT_LIB"), nil)
	if err != nil {
		return "", err
	}
	ort.SetSharedLibraryPath(path)
	return path, ort.InitializeEnvironment(ort.WithLogLevelFatal())
})

// attribute is an int or a float32 of a node.
type attribute struct {
	name  string
	value any
}

// encode makes its AttributeProto.
func (a attribute) encode() []byte {
	m := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), a.name)
	if f, ok := a.value.(float32); ok {
		m = protowire.AppendFixed32(protowire.AppendTag(m, 2, protowire.Fixed32Type), math.Float32bits(f))
		return protowire.AppendVarint(protowire.AppendTag(m, 20, protowire.VarintType), 1)
	}
	m = protowire.AppendVarint(protowire.AppendTag(m, 3, protowire.VarintType), uint64(a.value.(int)))
	return protowire.AppendVarint(protowire.AppendTag(m, 20, protowire.VarintType), 2)
}

// value is an input or output of the graph under test.
type value struct {
	name string
	kind uint64 // TensorProto.DataType
	rank int
}

// graph is a model of one node of ours, as onnx.proto has it.
func graph(op string, in, out []value, attributes ...attribute) []byte {
	text := func(m []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(m, n, protowire.BytesType), s)
	}
	number := func(m []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), v)
	}
	var node, g, m []byte
	ports := func(field, place protowire.Number, list []value) {
		for _, v := range list {
			var shape []byte
			for i := range v.rank {
				shape = text(shape, 1, string(text(nil, 2, fmt.Sprintf("%s.%d", v.name, i))))
			}
			tensor := text(number(nil, 1, v.kind), 2, string(shape))
			g = text(g, place, string(text(text(nil, 1, v.name), 2, string(text(nil, 1, string(tensor))))))
			node = text(node, field, v.name)
		}
	}
	ports(1, 11, in)
	ports(2, 12, out)
	node = text(text(node, 4, op), 7, "pelton")
	for _, a := range attributes {
		node = text(node, 5, string(a.encode()))
	}
	g = text(text(g, 1, string(node)), 2, "test")
	m = text(number(m, 1, 8), 7, string(g))
	m = text(m, 8, string(number(text(nil, 1, ""), 2, 17)))
	return text(m, 8, string(number(text(nil, 1, "pelton"), 2, 1)))
}

// open makes a session of graph's model on two threads.
func open(t testing.TB, op string, in, out []value, attributes ...attribute) (*ort.DynamicAdvancedSession, error) {
	t.Helper()
	path, err := library()
	if err != nil {
		t.Fatal(err)
	}
	o, err := ort.NewSessionOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.Destroy() }()
	if err := o.SetIntraOpNumThreads(2); err != nil {
		t.Fatal(err)
	}
	if err := kernels.Add(path, o); err != nil {
		t.Fatal(err)
	}
	names := func(list []value) (out []string) {
		for _, v := range list {
			out = append(out, v.name)
		}
		return out
	}
	s, err := ort.NewDynamicAdvancedSessionWithONNXData(graph(op, in, out, attributes...), names(in), names(out), o)
	if err == nil {
		t.Cleanup(func() { _ = s.Destroy() })
	}
	return s, err
}
