//go:build cgo && (linux || darwin)

package paged

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
	"github.com/pelton-run/pelton/runtime/model"
)

// gpu is an engine without its graph: what the device would keep in pages is kept here.
type gpu struct {
	*Engine
	pages [][]int32 // tokens
	texts map[engine.Seq]*text
}

// text is what a sequence is to hold.
type text struct {
	scope  string
	tokens []int32
	fed    int
	most   int
}

const pageTokens = 4

func newGPU(pages, sequences int) *gpu {
	d := &gpu{texts: map[engine.Seq]*text{}, pages: make([][]int32, pages)}
	for i := range d.pages {
		d.pages[i] = make([]int32, pageTokens)
	}
	d.Engine = &Engine{
		info: engine.Info{BlockTokens: pageTokens, MaxSequences: sequences}, limits: kvcache.Limits{Vocab: 100, MaxStepTokens: 64},
		graph: &graph{shape: model.Shape{PageTokens: pageTokens}}, pool: newPool(pages, sequences), most: int64(pages * pageTokens),
		cache: kvcache.New(kvcache.Config{BlockTokens: pageTokens, BytesPerToken: 1, ContextLength: 64, MaxSequences: sequences, Budget: int64(pages * pageTokens)}),
	}
	return d
}

func (d *gpu) pick(t *rapid.T) (engine.Seq, *text) {
	if len(d.texts) == 0 {
		t.Skip("nothing open")
	}
	s := rapid.SampledFrom(slices.Sorted(maps.Keys(d.texts))).Draw(t, "sequence")
	return s, d.texts[s]
}

// Open begins a text of pieces that others have as well, and takes over what it can.
func (d *gpu) Open(t *rapid.T) {
	x := &text{scope: rapid.SampledFrom([]string{"", "ann", "ann", "ann", "bob"}).Draw(t, "scope")}
	for range rapid.IntRange(1, 3).Draw(t, "pieces") {
		piece := rapid.Int32Range(1, 2).Draw(t, "piece")
		for i := range int32(16) {
			x.tokens = append(x.tokens, 20*piece+i)
		}
	}
	x.tokens = append(x.tokens, rapid.SliceOfN(rapid.Int32Range(60, 63), 1, 4).Draw(t, "end")...)
	x.most = len(x.tokens) + rapid.IntRange(0, 5).Draw(t, "more")
	d.begin(t, x)
}

// begin opens a sequence for x, if there is room.
func (d *gpu) begin(t *rapid.T, x *text) {
	s, err := d.Engine.Open(x.most)
	if errors.Is(err, engine.ErrNoMemory) || errors.Is(err, engine.ErrTooLong) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	x.fed = d.Share(s, x.scope, x.tokens)
	if x.fed >= len(x.tokens) || x.fed%pageTokens != 0 || x.scope == "" && x.fed > 0 {
		t.Fatalf("%d of %d tokens are shared in scope %q", x.fed, len(x.tokens), x.scope)
	}
	d.texts[s] = x
}

// Feed appends tokens, of the prompt and then others, as a step does: the device writes them where the engine says.
func (d *gpu) Feed(t *rapid.T) {
	s, x := d.pick(t)
	n := rapid.IntRange(1, 9).Draw(t, "n")
	for len(x.tokens) < min(x.fed+n, x.most) {
		x.tokens = append(x.tokens, rapid.Int32Range(0, 99).Draw(t, "generated"))
	}
	n = min(n, len(x.tokens)-x.fed)
	if n == 0 {
		t.Skip("full")
	}
	d.feed(t, s, x, n)
}

// feed appends the next n tokens of x.
func (d *gpu) feed(t *rapid.T, s engine.Seq, x *text, n int) {
	r := &engine.Row{Seq: s, Tokens: x.tokens[x.fed : x.fed+n]}
	admitted, err := d.cache.Admit([]*engine.Row{r}, d.limits)
	if err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	at := d.place(r)
	for i, token := range r.Tokens {
		p := at.held + i
		d.pages[at.pages[p/pageTokens]][p%pageTokens] = token
	}
	d.rows = admitted
	d.record()
	x.fed += n
}

// Close ends a sequence.
func (d *gpu) Close(t *rapid.T) {
	s, _ := d.pick(t)
	d.Engine.Close(s)
	delete(d.texts, s)
}

// Keep changes how much of closed sequences may stay.
func (d *gpu) Keep(t *rapid.T) {
	d.Engine.Keep(rapid.Int64Range(0, d.most).Draw(t, "bytes"))
}

// Check reads what every sequence holds.
func (d *gpu) Check(t *rapid.T) {
	for s, x := range d.texts {
		at := d.place(&engine.Row{Seq: s})
		if at.held != x.fed {
			t.Fatalf("sequence %d holds %d tokens, want %d", s, at.held, x.fed)
		}
		for i, want := range x.tokens[:x.fed] {
			if got := d.pages[at.pages[i/pageTokens]][i%pageTokens]; got != want {
				t.Fatalf("token %d of sequence %d is %d, want %d", i, s, got, want)
			}
		}
	}
	if m := d.Memory(); m.Reserved+m.Kept > m.Budget || len(d.texts) == 0 && m.Kept == 0 && len(d.pool.free) != len(d.pages) {
		t.Fatalf("%d pages of %d are free, account %+v", len(d.pool.free), len(d.pages), m)
	}
}

// alike opens two sequences that begin with the same tokens: the second holds pages of the first.
func (d *gpu) alike(t *rapid.T) {
	tokens := make([]int32, 21) // fewer than 16 are not shared
	for i := range tokens {
		tokens[i] = int32(20 + i)
	}
	d.begin(t, &text{scope: "ann", tokens: tokens, most: len(tokens) + 5})
	s, x := d.pick(t)
	d.feed(t, s, x, len(tokens))
	d.begin(t, &text{scope: "ann", tokens: tokens, most: len(tokens) + 5})
	if shared := slices.ContainsFunc(d.pool.users, func(users int) bool { return users > 1 }); !shared {
		t.Fatalf("two sequences begin alike and share no page: %v", d.pool.users)
	}
}

// TestPagesHoldTheirTokens lets sequences begin alike, share, grow, end and be kept: each reads what it is to hold.
func TestPagesHoldTheirTokens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newGPU(64, 6)
		d.Engine.Keep(d.most)
		d.alike(t)
		t.Repeat(rapid.StateMachineActions(d))
	})
}
