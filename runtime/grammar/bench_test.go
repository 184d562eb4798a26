package grammar_test

import (
	"compress/gzip"
	"io"
	"os"
	"testing"

	"github.com/pelton-run/pelton/runtime/grammar"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// smollm2 is the vocabulary of the default model.
func smollm2(t testing.TB) (*tokenizer.Tokenizer, func() *grammar.Vocabulary, int) {
	t.Helper()
	f, err := os.Open("../tokenizer/testdata/smollm2.tokenizer.json.gz")
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
	tok, err := tokenizer.Parse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 49152
	return tok, func() *grammar.Vocabulary {
		return grammar.NewVocabulary(n, tok.Text, []int32{2})
	}, n
}

// answers are what is generated in BenchmarkRestrict, by schema.
var answers = []struct{ name, schema, answer string }{
	{"object", "", `{"name": "Ada Lovelace", "born": 1815, "tags": ["mathematics", "engines"], "more": {"a": null, "b": [1.5, true]}}`},
	{"person", `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"enum":["a","b"]}}},"required":["name","age","email","tags"],"additionalProperties":false}`,
		`{"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["a", "b"]}`},
	{"union", `{"type":"array","items":{"anyOf":[{"type":"object","properties":{"kind":{"const":"cat"},"says":{"type":"string","maxLength":40}},"required":["kind","says"]},{"type":"object","properties":{"kind":{"const":"dog"},"weight":{"type":"number"}},"required":["kind","weight"]}]}}`,
		`[{"kind": "cat", "says": "a long story about mice"}, {"kind": "dog", "weight": 12.5}]`},
	{"pattern", `{"type":"string","pattern":"^.*[aeiou].{100}"}`, `"a sentence that has quite some words in it, of which each is read while the pattern looks for what it may have been looking for"`},
}

// BenchmarkRestrict is one token of an answer: cold with nothing computed before, warm as in the second answer.
func BenchmarkRestrict(b *testing.B) {
	tok, fresh, n := smollm2(b)
	logits := make([]float32, n)
	for _, a := range answers {
		g := grammar.Object()
		if a.schema != "" {
			g = schema(b, a.schema)
		}
		ids := tok.Encode(a.answer)
		v := fresh()
		for _, warm := range []bool{false, true} {
			name := "cold"
			if warm {
				name = "warm"
			}
			b.Run(a.name+"/"+name, func(b *testing.B) {
				for i := 0; i < b.N; {
					b.StopTimer()
					if !warm {
						v = fresh()
					}
					b.StartTimer()
					m := g.Matcher(v)
					for _, id := range ids {
						m.Restrict(logits)
						if !m.Accept(id) {
							b.Fatalf("%q is not taken", tok.TokenBytes(id))
						}
						i++
					}
				}
			})
		}
	}
}
