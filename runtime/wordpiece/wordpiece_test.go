package wordpiece_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/wordpiece"
)

func load(t testing.TB) *wordpiece.Tokenizer {
	t.Helper()
	tok, err := wordpiece.Parse(file(t))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func file(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "tokenizer.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestGolden: the ids are those of the reference implementation.
func TestGolden(t *testing.T) {
	t.Parallel()
	tok := load(t)
	f, err := os.Open(filepath.Join("testdata", "golden.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		var want struct {
			Text string  `json:"text"`
			IDs  []int32 `json:"ids"`
		}
		if err := json.Unmarshal(lines.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode(want.Text); !slices.Equal(got, want.IDs) {
			t.Errorf("%q: %v, want %v", want.Text, got, want.IDs)
		}
	}
	if n < 100 {
		t.Errorf("only %d texts were compared", n)
	}
}

// TestSpecialTokensStayText: what looks like a special token in a text is none.
func TestSpecialTokensStayText(t *testing.T) {
	t.Parallel()
	tok := load(t)
	if got := tok.Encode("[SEP]"); slices.Contains(got[1:len(got)-1], 102) {
		t.Errorf("[SEP] in a text became a special token: %v", got)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	tok := load(t)
	ids := tok.Encode(strings.Repeat("hello ", 10))
	if got := tok.Cut(ids, 12); !slices.Equal(got, ids) {
		t.Errorf("what fits was cut: %v", got)
	}
	if got := tok.Cut(slices.Clone(ids), 5); len(got) != 5 || got[0] != 101 || got[4] != 102 {
		t.Errorf("cut to 5: %v", got)
	}
}

// A bound changes no text that keeps to it. Of others it says that they are too long, with the tokens that they begin
// with, and does not read them to their end.
func TestWithin(t *testing.T) {
	t.Parallel()
	tok := load(t)
	for _, unit := range []string{"hello ", "q", strings.Repeat("zq", 40) + " ", ".", "漢", " ", "e\u0301 "} {
		for _, n := range []int{0, 1, 7, 300} {
			text := strings.Repeat(unit, n)
			want := tok.Encode(text)
			for _, most := range []int{1, 2, 10, len(want) - 1, len(want), len(want) + 1} {
				got := tok.Within(most).Encode(text)
				if len(want) <= most && !slices.Equal(got, want) || len(want) > most && len(got) <= most {
					t.Errorf("%d times %.8q is %d tokens within %d, want %d", n, unit, len(got), most, len(want))
				}
				if cut := min(most/2, len(want)); cut > 2 && !slices.Equal(tok.Cut(got, cut), tok.Cut(slices.Clone(want), cut)) {
					t.Errorf("%d times %.8q within %d is cut to other tokens", n, unit, most)
				}
			}
		}
	}
	if got := len(tok.Within(1000).Encode(strings.Repeat("zq ", 1<<20))); got > 1000+100 {
		t.Errorf("of a text of two million tokens %d were made, want about 1000", got)
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	for part, change := range map[string][2]string{
		"model": {`"WordPiece","unk`, `"BPE","unk`}, "normalizer": {`"BertNormalizer"`, `"NFC"`}, "pre_tokenizer": {`"BertPreTokenizer"`, `"Whitespace"`}, "post_processor": {`"TemplateProcessing"`, `"RobertaProcessing"`},
	} {
		compact := strings.NewReplacer(": ", ":", ", ", ",").Replace(header)
		_, err := wordpiece.Parse([]byte(strings.Replace(compact, change[0], change[1], 1)))
		if !errors.Is(err, wordpiece.ErrUnsupported) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", part, err)
		}
	}
	if _, err := wordpiece.Parse([]byte(header)); err != nil {
		t.Error(err)
	}
	tok, err := wordpiece.Parse([]byte(strings.Replace(header, ": 100", ": -1000", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if ids := tok.Within(8).Encode("a b"); len(ids) != 3 {
		t.Errorf("where no word may have a character: %v, want three unknown tokens", ids)
	}
}

const header = `{"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"},
"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[U]"}}, {"Sequence": {"id": "A"}}]},
"model": {"type": "WordPiece", "unk_token": "[U]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[U]": 0}}}`

func FuzzEncode(f *testing.F) {
	tok := load(f)
	for _, s := range []string{"Hello", "水", "\xff", "e\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids := tok.Encode(text)
		if len(ids) < 2 || ids[0] != 101 || ids[len(ids)-1] != 102 {
			t.Errorf("%q: %v", text, ids)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	tok := load(b)
	text := strings.Repeat("The quick brown fox jumps over the lazy dog near the riverbank. ", 4)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Encode(text)
	}
}
