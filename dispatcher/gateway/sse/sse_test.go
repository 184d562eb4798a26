package sse_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/dispatcher/gateway/sse"
)

// parse reads an event stream by the rules of the HTML standard, section 9.2.6.
func parse(stream string) []sse.Event {
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	var out []sse.Event
	var data []string
	var event sse.Event
	lastID := ""
	for line := range strings.SplitSeq(stream, "\n") {
		if line == "" {
			if data != nil {
				event.ID, event.Data = lastID, []byte(strings.Join(data, "\n"))
				out = append(out, event)
			}
			data, event = nil, sse.Event{}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data = append(data, value)
		case "event":
			event.Name = value
		case "id":
			if !strings.Contains(value, "\x00") {
				lastID = value
			}
		}
	}
	return out
}

func normal(s []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(s, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
}

// TestRoundTrip: a real parser reads any events back, line ends in data as \n, and comments never
// show.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	line := rapid.StringMatching(`[^\r\n\x00]{1,12}`)
	text := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("a: \r\n\x00é"))), rapid.SampledFrom([]string{"data: x\n\nevent: evil\ndata: y", "\n", "", "[DONE]", "\ufeff"}))
	rapid.Check(t, func(t *rapid.T) {
		var buf bytes.Buffer
		w := sse.NewWriter(&buf, nil)
		var want []sse.Event
		id := ""
		for range rapid.IntRange(0, 6).Draw(t, "events") {
			if rapid.Bool().Draw(t, "comment") {
				if err := w.Comment(text.Draw(t, "text")); err != nil {
					t.Fatal(err)
				}
			}
			e := sse.Event{ID: rapid.OneOf(rapid.Just(""), line).Draw(t, "id"), Name: rapid.OneOf(rapid.Just(""), line).Draw(t, "name"), Data: []byte(text.Draw(t, "data"))}
			if err := w.Event(e); err != nil {
				t.Fatal(err)
			}
			if e.ID != "" {
				id = e.ID // an id stays until the next one
			}
			want = append(want, sse.Event{ID: id, Name: e.Name, Data: normal(e.Data)})
		}
		if d := cmp.Diff(want, parse(buf.String()), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%q: %s", buf.String(), d)
		}
	})
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for _, e := range []sse.Event{{ID: "1\n2"}, {ID: "1\r"}, {ID: "\x00"}, {Name: "a\ndata: evil"}, {Name: "\r"}} {
		var buf bytes.Buffer
		if err := sse.NewWriter(&buf, nil).Event(e); err == nil || buf.Len() > 0 {
			t.Errorf("Event(%+v) wrote %q with error %v, want nothing and an error", e, buf.String(), err)
		}
	}
}

func TestFlushAndFailure(t *testing.T) {
	t.Parallel()
	broken := errors.New("gone")
	w := sse.NewWriter(failing{broken}, func() error { return broken })
	if err := w.Event(sse.Event{Data: []byte("x")}); !errors.Is(err, broken) {
		t.Errorf("Event = %v, want %v", err, broken)
	}
	if err := w.Flush(); !errors.Is(err, broken) {
		t.Errorf("Flush = %v, want %v", err, broken)
	}
	if err := sse.NewWriter(&bytes.Buffer{}, nil).Flush(); err != nil {
		t.Errorf("Flush without a flusher = %v, want nil", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzEvent(f *testing.F) {
	f.Add("1", "error", []byte("a\r\n\nb"))
	f.Add("", "", []byte("data: x\n\n"))
	f.Fuzz(func(t *testing.T, id, name string, data []byte) {
		var buf bytes.Buffer
		w := sse.NewWriter(&buf, nil)
		if w.Event(sse.Event{ID: id, Name: name, Data: data}) != nil {
			if buf.Len() > 0 {
				t.Fatalf("a refused event wrote %q", buf.String())
			}
			return
		}
		want := []sse.Event{{ID: id, Name: name, Data: normal(data)}}
		if d := cmp.Diff(want, parse(buf.String()), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("id %q, name %q, data %q wrote %q: %s", id, name, data, buf.String(), d)
		}
	})
}
