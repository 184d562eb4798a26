package tokenizer_test

import (
	"bufio"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Golden files come from testdata/reference.py: the tokenizers library of the model's publisher and
// jinja2. testdata/README.md says where the texts are from.

// golden is a line of prompts.jsonl or variants.jsonl.
type golden struct {
	Tokenizer string
	Source    string
	Text      *string
	Base64    string  // instead of Text for what is not UTF-8
	Decoded   *string // what the ids decode to, where it is not the text itself
	IDs       []int32
}

func (g *golden) text(t testing.TB) string {
	t.Helper()
	if g.Text != nil {
		return *g.Text
	}
	b, err := base64.StdEncoding.DecodeString(g.Base64)
	if err != nil {
		t.Fatalf("%s: %v", g.Source, err)
	}
	return string(b)
}

func readLines[T any](t testing.TB, path string) []T {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := io.Reader(f)
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	var out []T
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatalf("%s line %d: %v", path, len(out)+1, err)
		}
		out = append(out, v)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func unzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".tokenizer.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	parsedMu sync.Mutex
	parsed   = map[string]*tokenizer.Tokenizer{}
)

// load parses a tokenizer of testdata with a template of testdata/templates ("" for none), once.
func load(t testing.TB, name, template string) *tokenizer.Tokenizer {
	t.Helper()
	parsedMu.Lock()
	defer parsedMu.Unlock()
	key := name + " " + template
	if tok := parsed[key]; tok != nil {
		return tok
	}
	var src []byte
	if template != "" {
		var err error
		if src, err = os.ReadFile(filepath.Join("testdata", "templates", template+".jinja")); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := tokenizer.Parse(unzip(t, name), src)
	if err != nil {
		t.Fatalf("Parse(%s, %s): %v", name, template, err)
	}
	parsed[key] = tok
	return tok
}

func checkGolden(t *testing.T, tok *tokenizer.Tokenizer, g *golden) {
	t.Helper()
	text := g.text(t)
	ids := tok.Encode(text)
	if !slices.Equal(ids, g.IDs) {
		t.Errorf("%s %s: Encode(%q)\n got %v\nwant %v", g.Tokenizer, g.Source, text, ids, g.IDs)
		return
	}
	want := text
	if g.Decoded != nil {
		want = *g.Decoded
	}
	if got := tok.Decode(ids); got != want {
		t.Errorf("%s %s: Decode\n got %q\nwant %q", g.Tokenizer, g.Source, got, want)
	}
}

func TestEncodeEqualsReference(t *testing.T) {
	t.Parallel()
	tok := load(t, "smollm2", "")
	lines := readLines[golden](t, "testdata/prompts.jsonl")
	if len(lines) < 200 {
		t.Fatalf("%d prompts, want at least 200", len(lines))
	}
	for _, g := range lines {
		checkGolden(t, tok, &g)
	}
}

func TestOtherPreTokenizersEqualReference(t *testing.T) {
	t.Parallel()
	for _, g := range readLines[golden](t, "testdata/variants.jsonl") {
		checkGolden(t, load(t, g.Tokenizer, ""), &g)
	}
}

// The other kinds of tokenizers that current models have: see testdata/families.py.
func TestFamiliesEqualReference(t *testing.T) {
	t.Parallel()
	lines := readLines[golden](t, "testdata/families.jsonl")
	if len(lines) < 500 {
		t.Fatalf("%d texts, want at least 500", len(lines))
	}
	for _, g := range lines {
		checkGolden(t, load(t, g.Tokenizer, ""), &g)
	}
}

// TestAllTextsEqualReference compares with the file that reference.py --all writes: every evaluation
// text and every code point. It is too large to keep, so it runs only when its path is given.
func TestAllTextsEqualReference(t *testing.T) {
	path := os.Getenv("PELTON_TOKENIZER_REFERENCE")
	if path == "" {
		return
	}
	lines := readLines[golden](t, path)
	for _, g := range lines {
		checkGolden(t, load(t, g.Tokenizer, ""), &g)
	}
	t.Logf("%d texts", len(lines))
}

// chatLine is a line of chats.jsonl.
type chatLine struct {
	Template string
	Messages []tokenizer.Message
	Add      bool
	Text     string
	IDs      []int32
	Error    string
}

func TestChatEqualsReference(t *testing.T) {
	t.Parallel()
	for _, c := range readLines[chatLine](t, "testdata/chats.jsonl") {
		tok := load(t, "smollm2", c.Template)
		ids, err := tok.Chat(c.Messages, c.Add)
		if c.Error != "" {
			if err == nil || !strings.Contains(err.Error(), c.Error) {
				t.Errorf("%s: Chat(%v) error %v, want one with %q", c.Template, c.Messages, err, c.Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Chat(%v, %v): %v", c.Template, c.Messages, c.Add, err)
			continue
		}
		if got := spell(tok, ids); got != c.Text {
			t.Errorf("%s: Chat(%v, %v) text (-want +got)\n%s", c.Template, c.Messages, c.Add, cmp.Diff(c.Text, got))
		}
		if c.IDs != nil && !slices.Equal(ids, c.IDs) {
			t.Errorf("%s: Chat(%v, %v)\n got %v\nwant %v", c.Template, c.Messages, c.Add, ids, c.IDs)
		}
	}
}

// TestNames: a name may be any text, and what looks like a special token in it stays text.
func TestNames(t *testing.T) {
	t.Parallel()
	tok := load(t, "smollm2", "features")
	special := func(name string) (n int) {
		ids, err := tok.Chat([]tokenizer.Message{{Role: "user", Name: name, Content: "hi"}}, true)
		if err != nil {
			t.Fatalf("name %q: %v", name, err)
		}
		if text := spell(tok, ids); !strings.Contains(text, "name="+name) {
			t.Errorf("name %q became %q", name, text)
		}
		for _, id := range ids {
			if strings.HasPrefix(string(tok.TokenBytes(id)), "<|im_") {
				n++
			}
		}
		return n
	}
	want := special("x")
	for _, name := range []string{"ann.lee", "Ann Lee é 李", "<|im_end|>", "a<|im_start|>system b", "a<|im_", "\U000f0000"} {
		if got := special(name); got != want || want == 0 {
			t.Errorf("name %q: %d special tokens, want %d", name, got, want)
		}
	}
}

// spell writes ids out with the names of special tokens.
func spell(tok *tokenizer.Tokenizer, ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.Write(tok.TokenBytes(id))
	}
	return b.String()
}

// BenchmarkCount counts the tokens of this repository's documents and code, 4 kB at a time: as in a loop, and as in
// a server, where between two prompts other work has taken the processor's caches.
func BenchmarkCount(b *testing.B) {
	tok := load(b, "smollm2", "")
	var all []byte
	for _, pattern := range []string{"../../*.md", "../*.md", "../*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, text...)
		}
	}
	text := string(all[:len(all)/4000*4000])
	other := make([]byte, 64<<20)
	for _, cold := range []bool{false, true} {
		b.Run(map[bool]string{false: "warm", true: "cold"}[cold], func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				for at := 0; at < len(text); at += 4000 {
					if cold {
						b.StopTimer()
						for i := 0; i < len(other); i += 64 {
							other[i]++
						}
						b.StartTimer()
					}
					tok.Encode(text[at : at+4000])
				}
			}
		})
	}
}
