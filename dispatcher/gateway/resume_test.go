package gateway_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// line is an event as it stands in the stream.
type line struct{ ID, Data string }

func lines(stream string) []line {
	var out []line
	for block := range strings.SplitSeq(stream, "\n\n") {
		var l line
		for text := range strings.SplitSeq(block, "\n") {
			if v, ok := strings.CutPrefix(text, "id: "); ok {
				l.ID = v
			}
			if v, ok := strings.CutPrefix(text, "data: "); ok {
				l.Data = created.ReplaceAllString(v, "")
			}
		}
		if l.Data != "" {
			out = append(out, l)
		}
	}
	return out
}

// created is when a request came in, which differs between repeats.
var created = regexp.MustCompile(`"created":\d+,`)

// TestEventsResumeChoices: with several choices every event has an id of its own, and what comes after it
// is exactly what came after it the first time.
func TestEventsResumeChoices(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	d.do("POST", "/v1/jobs", strings.Replace(jobBody, `"seed":5`, `"seed":5,"n":3`, 1)+`}`)
	all := lines(d.do("GET", "/v1/jobs/j1/events", "").text)
	if len(all) != 3*8+1 || all[0].ID != "0" || all[1].ID != "0.0" || all[4].ID != "1.1.0" || all[24].ID != "end" {
		t.Fatalf("got %d events: %+v", len(all), all)
	}
	for i, e := range all[:24] {
		if diff := cmp.Diff(all[i+1:], lines(d.do("GET", "/v1/jobs/j1/events", "", "Last-Event-ID: "+e.ID).text)); diff != "" {
			t.Errorf("after %s: %s", e.ID, diff)
		}
	}
	if r := d.do("GET", "/v1/jobs/j1/events?after=end", ""); r.status != 204 {
		t.Errorf("after the end: %d %s, want 204", r.status, r.text)
	}
	if some := lines(d.do("GET", "/v1/jobs/j1/events?after=-1.7.-1", "").text); len(some) != 2*8+1 {
		t.Errorf("after all of choice 1: %d events, want those of two choices and the end", len(some))
	}
}

// TestReplyResumes: a repeated request goes on after any event that the first one got, whatever the
// reply's shape.
func TestReplyResumes(t *testing.T) {
	t.Parallel()
	chat := func(more string) string { return chatBody + `,"stream":true` + more + `}` }
	for name, tt := range map[string]struct{ path, body string }{
		"chat":    {"/v1/chat/completions", chat(``)},
		"choices": {"/v1/chat/completions", chat(`,"n":3,"stream_options":{"include_usage":true}`)},
		"prompts": {"/v1/completions", `{"model":"fake/parrot","prompt":["a","b"],"max_tokens":4,"seed":3,"echo":true,"n":2,"stream":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t, nil)
			ask := func(headers ...string) reply {
				return d.do("POST", tt.path, tt.body, append(headers, "Idempotency-Key: k")...)
			}
			first := ask()
			all := lines(first.text)
			if n := len(all); first.status != 200 || n < 8 || all[n-1] != (line{"end", "[DONE]"}) {
				t.Fatalf("got %d %s", first.status, first.text)
			}
			for i, e := range all {
				rest := lines(ask("Last-Event-ID: " + e.ID).text)
				// Events of several prompts mix anew; together each must still be there once.
				want, got := sorted(all[i+1:]), sorted(rest)
				if e.ID == "end" {
					want = []string{"[DONE]"} // the end stands for itself
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("after %s: %s", e.ID, diff)
				}
			}
		})
	}
}

func sorted(ls []line) []string {
	var out []string
	for _, l := range ls {
		out = append(out, l.Data)
	}
	slices.Sort(out)
	return out
}

// TestResumeRefused: an id that is none, and one without the key that names the request.
func TestResumeRefused(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	d.do("POST", "/v1/jobs", jobBody+`}`)
	for _, tt := range []struct{ method, path, body, header string }{
		{"GET", "/v1/jobs/j1/events", "", "Last-Event-ID: x"},
		{"GET", "/v1/jobs/j1/events", "", "Last-Event-ID: 1..2"},
		{"GET", "/v1/jobs/j1/events", "", "Last-Event-ID: -2"},
		{"GET", "/v1/jobs/j1/events", "", "Last-Event-ID: 99999999999999999999"},
		{"POST", "/v1/chat/completions", chatBody + `,"stream":true}`, "Last-Event-ID: 3"},
	} {
		r := d.do(tt.method, tt.path, tt.body, tt.header)
		var e struct{ Error struct{ Param string } }
		if err := json.Unmarshal([]byte(r.text), &e); err != nil || r.status != 400 || e.Error.Param != "Last-Event-ID" {
			t.Errorf("%s with %q: %d %s, want 400 about Last-Event-ID", tt.path, tt.header, r.status, r.text)
		}
	}
}
