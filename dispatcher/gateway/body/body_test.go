package body_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, param, text string }{
		{"empty", "", "", "empty"},
		{"blank", " \n", "", "empty"},
		{"not JSON", "{model}", "", "at byte 2"},
		{"cut", `{"a":`, "", "not valid JSON"},
		{"trailing", `{} {}`, "", "at byte 4"},
		{"array", `[1]`, "", "must be a JSON object, got an array"},
		{"number", `7`, "", "must be a JSON object, got a number"},
		{"null", `null`, "", "must be a JSON object, got null"},
		{"NaN", `{"a":NaN}`, "", "not valid JSON"},
		{"UTF-8", "{\"a\":\"\xff\"}", "", "not valid UTF-8"},
		{"overlong UTF-8", "{\"a\":\"\xc0\x80\"}", "", "not valid UTF-8"},
		{"twice", `{"a":1,"b":2,"a":3}`, "a", "appears twice"},
		{"twice by escape", `{"model":1,"mod\u0065l":3}`, "model", "appears twice"},
		{"twice inside", `{"p":[{"x":1,"x":1}]}`, "x", "appears twice"},
		{"half pair", `{"a":"\ud83d"}`, "", "half a surrogate pair"},
		{"half pair before text", `{"a":"\ud83dx"}`, "", "half a surrogate pair"},
		{"low half", `{"a":"\ude00"}`, "", "half a surrogate pair"},
		{"half pair in a key", `{"\udc00":1}`, "", "half a surrogate pair"},
		{"two high halves", `{"a":"\ud83d\ud83d"}`, "", "half a surrogate pair"},
		{"deep", `{"a":` + strings.Repeat("[", body.MaxDepth) + strings.Repeat("]", body.MaxDepth) + `}`, "", "nested deeper"},
		{"very deep", strings.Repeat(`{"a":`, 1<<16), "", "not valid JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := body.Parse([]byte(c.in))
			e := contracts.AsError(err)
			if err == nil || e.Code != contracts.CodeInvalidArgument || e.Param != c.param || !strings.Contains(e.Message, c.text) {
				t.Errorf("Parse(%.60q) = %v (param %q), want invalid_argument with %q (param %q)", c.in, err, e.Param, c.text, c.param)
			}
		})
	}
}

func TestGetters(t *testing.T) {
	t.Parallel()
	f, err := body.Parse([]byte(` {"s":"\ud83d\ude00\n","i":7,"i2":1e1,"big":9007199254740993,"f":0.5,"b":true,"nil":null,
		"o":{"k":"v"},"m":{"1":2.5},"l":["x","y"],"t":[1, 2 ,3],"e":[]} `))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Text("s"); got != "😀\n" {
		t.Errorf("s = %q", got)
	}
	if got := f.Int("i"); got == nil || *got != 7 {
		t.Errorf("i = %v", got)
	}
	if got := f.Int("i2"); got == nil || *got != 10 {
		t.Errorf("i2 = %v", got)
	}
	if got := f.Int64("big"); got == nil || *got != 9007199254740993 {
		t.Errorf("big = %v", got)
	}
	if f.Int("nil") != nil || f.Float("absent") != nil || f.Text("nil") != "" || f.Object("nil") != nil {
		t.Error("null and absent members must read as nothing")
	}
	if !f.Bool("b") || *f.Float("f") != 0.5 || f.Object("o").Text("k") != "v" {
		t.Error("b, f or o.k is wrong")
	}
	for _, d := range []string{
		cmp.Diff([]string{"x", "y"}, f.Strings("l", 2)), cmp.Diff([]string{"😀\n"}, f.Strings("s", 1)), cmp.Diff([]int32{1, 2, 3}, f.Tokens("t", 3)),
		cmp.Diff(map[string]string{"k": "v"}, f.StringMap("o", 1)), cmp.Diff(map[string]float64{"1": 2.5}, f.FloatMap("m", 1)),
	} {
		if d != "" {
			t.Error(d)
		}
	}
	if f.Err() != nil {
		t.Errorf("Err() = %v, want nil", f.Err())
	}
}

func TestGettersRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in, param, text string
		read                  func(f *body.Fields)
	}{
		{"text", `{"a":1}`, "a", "a must be a string, got a number", func(f *body.Fields) { f.Text("a") }},
		{"int", `{"a":"1"}`, "a", "a must be an integer, got a string", func(f *body.Fields) { f.Int("a") }},
		{"fraction", `{"a":1.5}`, "a", "must be an integer, got 1.5", func(f *body.Fields) { f.Int("a") }},
		{"32 bits", `{"a":4294967296}`, "a", "out of range", func(f *body.Fields) { f.Int("a") }},
		{"64 bits", `{"a":9223372036854775808}`, "a", "out of the range", func(f *body.Fields) { f.Int64("a") }},
		{"huge exponent", `{"a":1e400}`, "a", "out of the range", func(f *body.Fields) { f.Float("a") }},
		{"int of a huge exponent", `{"a":1e40}`, "a", "must be an integer", func(f *body.Fields) { f.Int64("a") }},
		{"bool", `{"a":"true"}`, "a", "a must be a boolean, got a string", func(f *body.Fields) { f.Bool("a") }},
		{"float", `{"a":true}`, "a", "a must be a number, got a boolean", func(f *body.Fields) { f.Float("a") }},
		{"object", `{"a":[]}`, "a", "a must be an object, got an array", func(f *body.Fields) { f.Object("a") }},
		{"list", `{"a":{}}`, "a", "a must be an array, got an object", func(f *body.Fields) { f.List("a", 9) }},
		{"long list", `{"a":[[1,2],{"x":[]},"y"]}`, "a", "more than 2 elements", func(f *body.Fields) { f.List("a", 2) }},
		{"strings", `{"a":["x",1]}`, "a[1]", "a[1] must be a string", func(f *body.Fields) { f.Strings("a", 9) }},
		{"strings of a number", `{"a":1}`, "a", "a string or an array of strings", func(f *body.Fields) { f.Strings("a", 9) }},
		{"tokens", `{"a":[1,-2]}`, "a[1]", "not a token id", func(f *body.Fields) { f.Tokens("a", 9) }},
		{"nested tokens", `{"a":[1,[2,3]]}`, "a[1]", "not a token id", func(f *body.Fields) { f.Tokens("a", 9) }},
		{"large token", `{"a":[2147483648]}`, "a[0]", "not a token id", func(f *body.Fields) { f.Tokens("a", 9) }},
		{"many tokens", `{"a":[1,2,3]}`, "a", "more than 2 tokens", func(f *body.Fields) { f.Tokens("a", 2) }},
		{"string map", `{"a":{"k":1}}`, "a.k", "a.k must be a string", func(f *body.Fields) { f.StringMap("a", 9) }},
		{"large map", `{"a":{"k":1,"l":2}}`, "a", "at most 1", func(f *body.Fields) { f.FloatMap("a", 1) }},
		{"case", `{"A":1}`, "", "", func(f *body.Fields) { f.Text("a") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, err := body.Parse([]byte(c.in))
			if err != nil {
				t.Fatalf("Parse(%s): %v", c.in, err)
			}
			c.read(f)
			if c.text == "" {
				if f.Err() != nil {
					t.Errorf("%s: got %v, want no error", c.in, f.Err())
				}
				return
			}
			e := contracts.AsError(f.Err())
			if f.Err() == nil || e.Param != c.param || !strings.Contains(e.Message, c.text) {
				t.Errorf("%s: got %v (param %q), want %q (param %q)", c.in, f.Err(), e.Param, c.text, c.param)
			}
		})
	}
}

// TestLikeEncodingJSON: what Parse takes, encoding/json reads the same.
func TestLikeEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.OneOf(rapid.String().AsAny(), rapid.Float64().AsAny(), rapid.Bool().AsAny()))).Draw(t, "object")
		data, err := json.Marshal(in)
		if err != nil {
			t.Skip(err)
		}
		f, err := body.Parse(data)
		if err != nil {
			t.Fatalf("Parse(%s): %v", data, err)
		}
		got := map[string]any{}
		for k, v := range f.Names {
			got[k] = decoded(v)
		}
		var want map[string]any
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s: %s", data, d)
		}
	})
}

// decoded is a value as encoding/json reads it.
func decoded(v body.Value) (out any) {
	_ = json.Unmarshal(v.Raw(), &out) // well formed
	return out
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"\ud83d\ude00"}],"c":null}`, `{"a":1,"a":2}`, `{"\u0061":"\\\"","b":-1e-5}`, `{"a":[[[[]]]]} `, "{\"a\":\"\xff\"}", `{"a":"\ud800\u0041"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fields, err := body.Parse(data)
		if err != nil {
			if contracts.CodeOf(err) != contracts.CodeInvalidArgument {
				t.Fatalf("Parse(%q): %v has no code of its own", data, err)
			}
			return
		}
		var want map[string]json.RawMessage
		if !utf8.Valid(data) || json.Unmarshal(data, &want) != nil {
			t.Fatalf("Parse(%q) took what is no JSON object in UTF-8", data)
		}
		if fields.Len() != len(want) {
			t.Fatalf("Parse(%q) has %d members, want %d", data, fields.Len(), len(want))
		}
		for name, v := range fields.Names { // no getter may panic
			fields.Int(name)
			fields.Float(name)
			fields.Strings(name, 4)
			fields.Tokens(name, 4)
			fields.StringMap(name, 4)
			_, _ = v.First()
			if raw, err := json.Marshal(decoded(v)); err != nil || !json.Valid(raw) || bytes.Contains(raw, []byte(`\ufffd`)) && !bytes.Contains(data, []byte("fffd")) && !bytes.Contains(data, []byte("FFFD")) {
				t.Fatalf("Parse(%q): member %q changed to %s", data, name, raw)
			}
		}
	})
}
