package contracts_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
)

// TestReadme: the tables of README.md say what the code says.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for part := range strings.SplitSeq(string(text), "\n#") {
		title, body, _ := strings.Cut(strings.TrimLeft(part, "# "), "\n")
		sections[title] = body
	}
	for _, v := range []any{
		contracts.Job{}, contracts.Message{}, contracts.Params{}, contracts.ResponseFormat{}, contracts.Schema{}, contracts.Answer{}, contracts.Chunk{}, contracts.TokenLogprob{}, contracts.Tensor{}, contracts.Usage{},
		contracts.Timings{}, contracts.Claim{}, contracts.Status{}, contracts.Admitted{}, contracts.Heartbeat{}, contracts.Event{},
	} {
		checkKeys(t, reflect.TypeOf(v), sections)
	}
	var want strings.Builder
	for _, c := range contracts.Codes {
		retry := "no"
		if c.Retryable {
			retry = "yes"
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %d | %s |\n", c.Code, c.Meaning, c.Advice, c.HTTP, retry)
	}
	if !strings.Contains(sections["Errors"], want.String()) {
		t.Errorf("the table of errors in README.md must hold exactly\n%s", &want)
	}
}

var row = regexp.MustCompile("(?m)^\\| `([a-z_0-9]+)` \\|")

// checkKeys compares the keys of a struct, in order, with the rows of the section of its name.
func checkKeys(t *testing.T, typ reflect.Type, sections map[string]string) {
	t.Helper()
	var want, got []string
	for i := range typ.NumField() {
		key, _, _ := strings.Cut(typ.Field(i).Tag.Get("msgpack"), ",")
		if json, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); json != key {
			t.Errorf("%s.%s is %q in msgpack and %q in JSON", typ.Name(), typ.Field(i).Name, key, json)
		}
		want = append(want, key)
		for ft := typ.Field(i).Type; ; ft = ft.Elem() {
			if k := ft.Kind(); k != reflect.Slice && k != reflect.Pointer {
				checkInner(t, typ.Name(), ft, sections)
				break
			}
		}
	}
	for _, m := range row.FindAllStringSubmatch(sections[typ.Name()], -1) {
		got = append(got, m[1])
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("README.md, section %s has the keys %v, want %v", typ.Name(), got, want)
	}
}

// checkInner checks that a struct without a section of its own is described where it is used.
func checkInner(t *testing.T, outer string, typ reflect.Type, sections map[string]string) {
	t.Helper()
	if _, own := sections[typ.Name()]; own || typ.Kind() != reflect.Struct {
		return
	}
	for i := range typ.NumField() {
		if key, _, _ := strings.Cut(typ.Field(i).Tag.Get("msgpack"), ","); !strings.Contains(sections[outer], "`"+key+"`") {
			t.Errorf("README.md, section %s does not tell the key %q of %s", outer, key, typ.Name())
		}
	}
}
