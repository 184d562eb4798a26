package stream_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
)

// record is a chunk with its place in OUT.
type record struct {
	chunk     *contracts.Chunk
	seq, last uint64
}

// answer is what a reader must end up with.
type answer struct {
	tokens [][]int32
	text   []string
	finals int
}

// choiceTruth is a choice's tokens and how much text each token completes.
type choiceTruth struct {
	tokens []int32
	texts  []string
	rest   string // held back until the end
}

func (c choiceTruth) piece(fence uint64, choice, from, to int) *contracts.Chunk {
	p := &contracts.Chunk{V: 1, Job: "j", Fence: fence, Index: from, Choice: choice, Tokens: c.tokens[from:to], Text: strings.Join(c.texts[from:to], "")}
	for _, t := range p.Tokens {
		p.Logprobs = append(p.Logprobs, contracts.TokenLogprob{Token: t})
	}
	return p
}

// drawTruth makes the answer. Text that comes without a token is missed by index alone, so only readers
// that know the place of a record get some.
func drawTruth(t *rapid.T, rest bool) []choiceTruth {
	truth := make([]choiceTruth, rapid.IntRange(1, 3).Draw(t, "choices"))
	for i := range truth {
		n := rapid.IntRange(0, 12).Draw(t, "tokens")
		for k := range n {
			truth[i].tokens = append(truth[i].tokens, int32(100*i+k))
			truth[i].texts = append(truth[i].texts, rapid.SampledFrom([]string{"", "a", "bc", "é", "水x", "🙂"}).Draw(t, "text"))
		}
		if !rest {
			continue
		}
		truth[i].rest = rapid.SampledFrom([]string{"", "", "rest"}).Draw(t, "rest")
	}
	return truth
}

// drawLog writes the truth to a log as workers would: pieces cut anywhere, choices interleaved, each
// worker claiming with a higher fence and going on where the log ends or, when rewinds are allowed, at
// an earlier end of a piece, as after a broker that lost the tail of OUT.
func drawLog(t *rapid.T, truth []choiceTruth, rewinds bool) []*contracts.Chunk {
	var log []*contracts.Chunk
	next := make([]int, len(truth))
	finished := make([]bool, len(truth))
	ends := make([][]int, len(truth))
	for i := range ends {
		ends[i] = []int{0}
	}
	workers := rapid.IntRange(1, 3).Draw(t, "workers")
	for w := 1; w <= workers; w++ {
		fence := uint64(w)
		if w > 1 && rewinds && rapid.Bool().Draw(t, "rewind") {
			for i := range next {
				if !finished[i] {
					next[i] = rapid.SampledFrom(ends[i]).Draw(t, "restart")
				}
			}
		}
		log = append(log, &contracts.Chunk{V: 1, Job: "j", Fence: fence, Index: next[0], Claim: &contracts.Claim{Attempt: w}})
		steps := 1000
		if w < workers {
			steps = rapid.IntRange(0, 6).Draw(t, "steps")
		}
		for ; steps > 0; steps-- {
			var open []int
			for i := range truth {
				if !finished[i] {
					open = append(open, i)
				}
			}
			if len(open) == 0 {
				break
			}
			i := rapid.SampledFrom(open).Draw(t, "choice")
			if next[i] == len(truth[i].tokens) {
				log = append(log, &contracts.Chunk{V: 1, Job: "j", Fence: fence, Index: next[i], Choice: i, Text: truth[i].rest, Finish: contracts.FinishStop})
				finished[i] = true
				continue
			}
			to := rapid.IntRange(next[i]+1, len(truth[i].tokens)).Draw(t, "to")
			log = append(log, truth[i].piece(fence, i, next[i], to))
			next[i] = to
			ends[i] = append(ends[i], to)
		}
	}
	u := &contracts.Usage{}
	var sum stream.Checksum
	for i, c := range truth {
		u.CompletionTokens += len(c.tokens)
		sum.Add(&contracts.Chunk{Choice: i, Tokens: c.tokens, Text: strings.Join(c.texts, "") + c.rest})
	}
	return append(log, &contracts.Chunk{V: 1, Job: "j", Fence: uint64(workers), Index: len(truth[0].tokens), Finish: contracts.FinishStop, Usage: u, Checksum: sum.Sum()})
}

func (a *answer) add(c *contracts.Chunk) error {
	if c == nil {
		return nil
	}
	if a.finals > 0 {
		return fmt.Errorf("record after the final one: %+v", c)
	}
	if c.Final() {
		a.finals++
		return nil
	}
	for len(a.tokens) <= c.Choice {
		a.tokens, a.text = append(a.tokens, nil), append(a.text, "")
	}
	if c.Index != len(a.tokens[c.Choice]) {
		return fmt.Errorf("choice %d: index %d after %d tokens", c.Choice, c.Index, len(a.tokens[c.Choice]))
	}
	if len(c.Tokens) != len(c.Logprobs) {
		return fmt.Errorf("%d tokens with %d logprobs", len(c.Tokens), len(c.Logprobs))
	}
	a.tokens[c.Choice] = append(a.tokens[c.Choice], c.Tokens...)
	a.text[c.Choice] += c.Text
	return nil
}

func (a *answer) check(t *rapid.T, truth []choiceTruth) {
	if a.finals != 1 {
		t.Fatalf("%d final records, want 1", a.finals)
	}
	for i, c := range truth {
		var tokens []int32
		text := ""
		if i < len(a.tokens) {
			tokens, text = a.tokens[i], a.text[i]
		}
		if want := strings.Join(c.texts, "") + c.rest; text != want {
			t.Fatalf("choice %d: text %q, want %q", i, text, want)
		}
		if len(tokens)+len(c.tokens) > 0 && !reflect.DeepEqual(tokens, c.tokens) {
			t.Fatalf("choice %d: tokens %v, want %v", i, tokens, c.tokens)
		}
	}
}

// TestTranscript: whatever is lost, repeated or written by evicted workers, the reader ends up with
// exactly the answer, once.
func TestTranscript(t *testing.T) {
	t.Parallel()
	for _, withPlace := range []bool{false, true} {
		t.Run(fmt.Sprintf("place=%v", withPlace), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				truth := drawTruth(t, withPlace)
				log := drawLog(t, truth, !withPlace)
				r := reader{t: t, log: log, place: withPlace}
				for i := range log {
					r.step(i)
				}
				r.refill(len(log)) // the reader that waits in vain for the final record looks into OUT
				r.got.check(t, truth)
				if !r.s.Done() {
					t.Fatal("not done after the final record")
				}
				if err := r.s.Err(); withPlace && err != nil { // without, an empty choice may go unseen
					t.Fatal(err)
				}
			})
		})
	}
}

// reader plays the live subject with its faults.
type reader struct {
	t     *rapid.T
	log   []*contracts.Chunk
	place bool
	s     stream.Sequencer
	got   answer
}

// step offers record i live, or loses it, with repeats and stale records around it.
func (r *reader) step(i int) {
	switch rapid.SampledFrom([]string{"arrives", "arrives", "lost", "repeated", "stale"}).Draw(r.t, "fate") {
	case "lost":
		return
	case "repeated":
		r.live(i)
		r.live(rapid.IntRange(0, i).Draw(r.t, "again"))
	case "stale":
		r.live(i)
		if fence := r.log[i].Fence; fence > 0 && !r.place {
			c := &contracts.Chunk{V: 1, Fence: fence - 1, Index: r.s.Tokens(0), Tokens: []int32{-1}, Text: "stale", Logprobs: make([]contracts.TokenLogprob, 1)}
			emit, gap := r.s.Next(c)
			if emit != nil || gap {
				r.t.Fatalf("stale record of fence %d let through: %+v gap %v", c.Fence, emit, gap)
			}
		}
	default:
		r.live(i)
	}
}

func (r *reader) live(i int) {
	if emit, gap := r.offer(i); gap {
		r.refill(i)
		if emit, gap = r.offer(i); gap {
			r.t.Fatalf("record %d %+v is still a gap after the refill", i, r.log[i])
		} else {
			r.take(emit)
		}
	} else {
		r.take(emit)
	}
}

func (r *reader) offer(i int) (*contracts.Chunk, bool) {
	if r.place {
		return r.s.NextAt(r.log[i], uint64(i+1), uint64(i))
	}
	return r.s.Next(r.log[i])
}

// refill replays the records before end.
func (r *reader) refill(end int) {
	for i, c := range r.log[:end] {
		var emit *contracts.Chunk
		var gap bool
		if r.place {
			emit, gap = r.s.ReplayAt(c, uint64(i+1))
		} else {
			emit, gap = r.s.Replay(c)
		}
		if gap {
			r.t.Fatalf("gap in the replay at record %d %+v", i, c)
		}
		r.take(emit)
	}
}

func (r *reader) take(c *contracts.Chunk) {
	if err := r.got.add(c); err != nil {
		r.t.Fatal(err)
	}
}

func TestSequencerCases(t *testing.T) {
	t.Parallel()
	p := func(fence uint64, index int, text string, tokens ...int32) *contracts.Chunk {
		return &contracts.Chunk{Fence: fence, Index: index, Tokens: tokens, Text: text}
	}
	final := &contracts.Chunk{Fence: 1, Index: 2, Usage: &contracts.Usage{CompletionTokens: 2}}
	tests := []struct {
		name string
		give []*contracts.Chunk
		want string // emitted texts, "!" for a gap, "." for nothing
	}{
		{"in order", []*contracts.Chunk{p(1, 0, "a", 1), p(1, 1, "b", 2), final}, "a b final"},
		{"repeat", []*contracts.Chunk{p(1, 0, "a", 1), p(1, 0, "a", 1)}, "a ."},
		{"gap", []*contracts.Chunk{p(1, 1, "b", 2), p(1, 0, "a", 1), p(1, 1, "b", 2)}, "! a b"},
		{"stale", []*contracts.Chunk{p(2, 0, "a", 1), p(1, 1, "x", 9), p(2, 1, "b", 2)}, "a . b"},
		{"a gap does not raise the fence", []*contracts.Chunk{p(2, 1, "b", 2), p(1, 0, "a", 1), p(2, 1, "b", 2)}, "! a b"},
		{"overlap of a new holder", []*contracts.Chunk{p(1, 0, "ab", 1, 2), p(2, 0, "abc", 1, 2, 3)}, "ab c"},
		{"overlap cut elsewhere", []*contracts.Chunk{p(1, 0, "ab", 1, 2), p(1, 2, "cd", 3, 4), p(2, 0, "abc", 1, 2, 3), p(2, 3, "de", 4, 5)}, "ab cd . e"},
		{"final with missing tokens", []*contracts.Chunk{p(1, 0, "a", 1), final}, "a !"},
		{"final with another choice missing", []*contracts.Chunk{p(1, 0, "ab", 1, 2), {Fence: 1, Index: 2, Usage: &contracts.Usage{CompletionTokens: 3}}}, "ab !"},
		{"nothing after the final one", []*contracts.Chunk{p(1, 0, "ab", 1, 2), final, final, p(9, 2, "x", 1)}, "ab final . ."},
		{"held-back text once", []*contracts.Chunk{p(1, 0, "", 1), {Fence: 1, Index: 1, Text: "h"}, {Fence: 1, Index: 1, Text: "h"}, {Fence: 1, Index: 1, Finish: "stop"}, {Fence: 1, Index: 1, Finish: "stop"}}, " h .  ."},
		{"claim ahead is a gap", []*contracts.Chunk{{Fence: 2, Index: 3, Claim: &contracts.Claim{}}}, "!"},
		{"hostile", []*contracts.Chunk{{Index: -1}, {Choice: -1}, {Choice: 1 << 40}, {Index: 1 << 62, Tokens: []int32{1}}}, ". . . !"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s stream.Sequencer
			var got []string
			for _, c := range tt.give {
				emit, gap := s.Next(c)
				switch {
				case gap:
					got = append(got, "!")
				case emit == nil:
					got = append(got, ".")
				case emit.Final():
					got = append(got, "final")
				default:
					got = append(got, emit.Text)
				}
			}
			if g := strings.Join(got, " "); g != tt.want {
				t.Errorf("got %q, want %q", g, tt.want)
			}
		})
	}
}

// TestChecksumMismatch: a transcript that is not what the worker wrote does not pass for it.
func TestChecksumMismatch(t *testing.T) {
	t.Parallel()
	piece := &contracts.Chunk{Tokens: []int32{1}, Text: "a"}
	var sum stream.Checksum
	sum.Add(piece)
	for checksum, sound := range map[string]bool{sum.Sum(): true, "": true, sum.Sum()[1:]: false} {
		var s stream.Sequencer
		s.Replay(piece)
		s.Replay(&contracts.Chunk{Index: 1, Checksum: checksum, Usage: &contracts.Usage{CompletionTokens: 1}})
		if err := s.Err(); !s.Done() || (err == nil) != sound || (err != nil && contracts.CodeOf(err) != contracts.CodeInternal) {
			t.Errorf("checksum %q: done %t, error %v, want sound: %t", checksum, s.Done(), err, sound)
		}
	}
}

func TestRewind(t *testing.T) {
	t.Parallel()
	var s stream.Sequencer
	a := &contracts.Chunk{Fence: 1, Tokens: []int32{1}, Text: "a"}
	if emit, gap := s.NextAt(a, 7, 0); emit != a || gap {
		t.Fatalf("first record: %v, gap %v", emit, gap)
	}
	if _, gap := s.NextAt(&contracts.Chunk{Fence: 1, Index: 1, Tokens: []int32{2}}, 9, 8); !gap {
		t.Fatal("a record whose predecessor was not seen is no gap")
	}
	s.Rewind()
	if emit, gap := s.ReplayAt(a, 3); emit != nil || gap || s.Seq() != 3 {
		t.Fatalf("replay of a seen record: %v, gap %v, seq %d", emit, gap, s.Seq())
	}
}

func FuzzSequencer(f *testing.F) {
	f.Add([]byte{1, 0, 2, 0, 1, 2, 1, 0, 0, 0, 0, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		var s stream.Sequencer
		next := map[int]int{}
		for len(data) >= 4 {
			c := &contracts.Chunk{Fence: uint64(data[0] % 4), Index: int(data[1]%8) - 1, Choice: int(data[2]%4) - 1, Text: "é"}
			c.Tokens = make([]int32, data[3]%4)
			if data[3]&8 != 0 {
				c.Usage = &contracts.Usage{}
			}
			if emit, _ := s.Next(c); emit != nil && !emit.Final() {
				if emit.Index != next[emit.Choice] {
					t.Fatalf("choice %d: index %d after %d tokens", emit.Choice, emit.Index, next[emit.Choice])
				}
				next[emit.Choice] += len(emit.Tokens)
			}
			data = data[4:]
		}
	})
}
