package tokenizer_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// A bound changes no text that keeps to it, and of others it says that they are too long, whatever they are made of.
func TestBounded(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.tokenizer.json.gz")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".tokenizer.json.gz")
		words, err := tokenizer.Parse(unzip(t, name), []byte("{% for m in messages %}{{ m.content }}{% endfor %}"))
		if err != nil {
			t.Fatal(err)
		}
		for _, unit := range []string{"a", " ", "the sky é日\U0001F642 x", "0", "\n", "\x00", "zq", "日", "<s>"} {
			for _, n := range []int{1, 7, 100, 5000} {
				text := strings.Repeat(unit, n)
				want := words.Encode(text)
				asked := []tokenizer.Message{{Role: "user", Content: text}}
				chat, err := words.Chat(asked, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, most := range []int{1, 10, 200, len(want) - 1, len(want), len(want) + 1} {
					if most < 1 {
						continue
					}
					got := words.Within(most).Encode(text)
					if len(want) <= most && !slices.Equal(got, want) || len(want) > most && len(got) <= most {
						t.Errorf("%s: %d times %q is %d tokens within %d, want %d", name, n, unit, len(got), most, len(want))
					}
					got, err := words.Within(most).Chat(asked, false)
					if err != nil || len(chat) <= most && !slices.Equal(got, chat) || len(chat) > most && len(got) <= most {
						t.Errorf("%s: a chat of %d times %q is %d tokens within %d (%v), want %d", name, n, unit, len(got), most, err, len(chat))
					}
				}
			}
		}
	}
}

// BenchmarkTooLong is the costliest prompts there are for a model with a context of 8192 tokens.
func BenchmarkTooLong(b *testing.B) {
	words, err := tokenizer.Parse(unzip(b, "smollm2"), nil)
	if err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string]string{"letters": strings.Repeat("a", 4<<20), "words": strings.Repeat("hello sky ", 400_000)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				words.Within(2 * 8192).Encode(text)
			}
		})
	}
}
