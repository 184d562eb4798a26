package enginetest

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/engine"
)

func (s *suite) deterministic(t *testing.T) {
	prompt := s.tokens(31, 9)
	want := s.generate(t, prompt, 4)
	for i, got := range s.generate(t, prompt, 4) {
		if at, by, bad := s.differ(got, want[i]); bad {
			t.Errorf("second run: logits %d differ at %d by %g", i, at, by)
		}
	}
	other := slices.Clone(prompt)
	other[0] = (other[0] + 1) % int32(s.info.Vocab)
	if _, _, bad := s.differ(s.generate(t, other, 0)[0], want[0]); !bad {
		t.Error("another first token gives the same logits: the cache is not read")
	}
}

// readAgain reads what was generated as a prompt, where that must make no difference.
func readAgain(t *testing.T, s *suite) {
	if s.info.MinPrefill > 1 {
		t.Log("generated tokens are fed one by one")
		return
	}
	text := s.tokens(35, s.opt.Longest/2)
	want := s.generate(t, text, 12)
	for i, logits := range want[:len(want)-1] {
		text = append(text, best(logits))
		if at, by, bad := s.differ(s.generate(t, text, 0)[0], want[i+1]); bad {
			t.Fatalf("with %d generated tokens read as a prompt: logits differ at %d by %g", i+1, at, by)
		}
	}
}

// drafts guesses what follows, rightly and wrongly from each token on: what is told must be the same as without.
func drafts(t *testing.T, s *suite) {
	const n = 8
	prompt, vocab := s.tokens(36, s.opt.Longest/2), s.info.Vocab
	d, ok := s.e.(engine.Drafter)
	most := s.info.Drafts
	if most == 0 { // a draft is not worth it on this machine now, or the engine takes none
		most = 1
		seq := s.open(t, 4)
		r := &engine.Row{Seq: seq, Tokens: prompt[:2], Draft: prompt[2:3], Sample: true}
		err := s.e.Step(t.Context(), []*engine.Row{r})
		s.e.Close(seq)
		if err != nil || r.Err == nil && !ok {
			t.Errorf("a draft for an engine that takes none: %v and %v, want an error of the row", err, r.Err)
		}
		if err != nil || r.Err != nil || !ok {
			return
		}
	}
	want := s.generate(t, prompt, n)
	var right []int32
	for _, logits := range want {
		right = append(right, best(logits))
	}
	for wrong := range most + 1 { // the first guess that is wrong; none at last
		seq := s.open(t, len(prompt)+n)
		for _, part := range cut(prompt, s.info.MaxStepTokens, s.info.MinPrefill) {
			s.step(t, &engine.Row{Seq: seq, Tokens: part})
		}
		for at := 0; at < n; {
			draft := slices.Clone(right[at+1 : min(at+1+most, n)])
			for i := wrong; i < len(draft); i++ {
				draft[i] = (draft[i] + 1) % int32(vocab)
			}
			r := &engine.Row{Seq: seq, Tokens: right[at : at+1], Draft: draft, Sample: true}
			s.step(t, r)
			good := min(wrong, len(draft))
			for i := range good + 1 {
				if by, much, bad := s.differ(r.Logits[i*vocab:(i+1)*vocab], want[at+1+i]); bad {
					t.Fatalf("%d of %d guesses right: logits behind token %d differ at %d by %g", good, len(draft), at+i, by, much)
				}
			}
			d.Forget(seq, len(draft)-good)
			at += 1 + good
		}
		s.e.Close(seq)
	}
}

// reuse looks for what a closed sequence leaves behind in memory that the next one gets.
func reuse(t *testing.T, s *suite) {
	short := s.tokens(41, 5)
	want := s.generate(t, short, 3)
	for round := range 3 {
		s.generate(t, s.tokens(uint64(50+round), s.opt.Longest), 3)
		for i, got := range s.generate(t, short, 3) {
			if at, by, bad := s.differ(got, want[i]); bad {
				t.Errorf("round %d: logits %d differ at %d by %g from those of a fresh engine", round, i, at, by)
			}
		}
	}
}

// fullReservation fills a reservation to its last token and leaves a neighbor's memory alone.
func (s *suite) fullReservation(t *testing.T) {
	prompt := s.tokens(61, 6)
	want := s.generate(t, prompt, 4)
	a := s.open(t, len(prompt)+4)
	defer s.e.Close(a)
	b := s.open(t, s.opt.Longest)
	defer s.e.Close(b)
	row := &engine.Row{Seq: a, Tokens: prompt, Sample: true}
	for i := range want {
		rows := []*engine.Row{row}
		if i < s.opt.Longest {
			rows = append(rows, &engine.Row{Seq: b, Tokens: s.tokens(62, 1)})
		}
		s.step(t, rows...)
		if at, by, bad := s.differ(row.Logits, want[i]); bad {
			t.Errorf("logits %d differ at %d by %g beside another sequence", i, at, by)
		}
		row = &engine.Row{Seq: a, Tokens: []int32{best(want[i])}, Sample: true}
	}
	if err := s.e.Step(t.Context(), []*engine.Row{row}); err != nil {
		t.Fatalf("Step = %v, want the row to carry the error", err)
	}
	wantError(t, "a token behind a full reservation", row.Err, engine.ErrTooLong)
}

// neighbors lets sequences join and leave around one that goes on all the time, in every order that
// makes an engine move its cache.
func (s *suite) neighbors(t *testing.T) {
	const n = 12
	prompt := s.tokens(71, 7)
	want := s.generate(t, prompt, n)
	first := s.open(t, 40)
	s.step(t, &engine.Row{Seq: first, Tokens: s.tokens(72, 5)})
	seq := s.open(t, len(prompt)+n)
	defer s.e.Close(seq)
	row := &engine.Row{Seq: seq, Tokens: prompt, Sample: true}
	var others []engine.Seq
	defer func() {
		for _, o := range others {
			s.e.Close(o)
		}
	}()
	for i := range n + 1 {
		rows := []*engine.Row{row}
		if first != 0 {
			rows = append(rows, &engine.Row{Seq: first, Tokens: s.tokens(73, 1), Sample: true})
		}
		for j, o := range others {
			if (i+j)%3 > 0 { // not all step each time
				rows = append(rows, &engine.Row{Seq: o, Tokens: s.tokens(uint64(i+j), 1), Sample: j%2 == 0})
			}
		}
		if len(others) < min(s.info.MaxSequences-2, 5) {
			o := s.open(t, 40)
			others = append(others, o)
			rows = append(rows, &engine.Row{Seq: o, Tokens: s.tokens(uint64(80+i), 2+i)})
		}
		if i%2 == 1 {
			slices.Reverse(rows)
		}
		s.step(t, rows...)
		if at, by, bad := s.differ(row.Logits, want[i]); bad {
			t.Fatalf("step %d with %d rows: logits differ at %d by %g from those alone", i, len(rows), at, by)
		}
		row = &engine.Row{Seq: seq, Tokens: []int32{best(want[i])}, Sample: true}
		switch {
		case i == 3:
			s.e.Close(first)
			first = 0
		case i%4 == 2 && len(others) > 1:
			s.e.Close(others[0])
			others = others[1:]
		}
	}
}

// plan is one sequence of a random batch.
type plan struct {
	prompt []int32
	tokens int // generated
	start  int // step at which it joins
	cuts   []int
	want   [][]float32

	seq engine.Seq
	got int // logits compared so far
	row *engine.Row
}

// invariance is invariants 1 and 2 on random batches.
func (s *suite) invariance(t *testing.T) {
	for i := range s.opt.Checks {
		// One check at a time with a seed of its own: the real model is too slow for rapid's hundred.
		s.batch(t, fmt.Sprint(i), rapid.Custom(s.drawPlans).Example(i))
	}
}

func (s *suite) drawPlans(t *rapid.T) []*plan {
	plans := make([]*plan, rapid.IntRange(1, min(6, s.info.MaxSequences)).Draw(t, "sequences"))
	for i := range plans {
		p := &plan{tokens: rapid.IntRange(0, 5).Draw(t, "tokens"), start: rapid.IntRange(0, 6).Draw(t, "start")}
		length := rapid.IntRange(1, s.opt.Longest).Draw(t, "length")
		p.prompt = s.tokens(rapid.Uint64Range(0, 5).Draw(t, "prompt"), length)
		for length > 0 {
			n := rapid.IntRange(1, min(length, s.info.MaxStepTokens)).Draw(t, "cut")
			if n = max(n, min(s.info.MinPrefill, length)); length-n > 0 && length-n < s.info.MinPrefill {
				if n = length; n > s.info.MaxStepTokens {
					n -= s.info.MinPrefill
				}
			}
			p.cuts, length = append(p.cuts, n), length-n
		}
		plans[i] = p
	}
	return plans
}

// batch runs the plans together and compares each logit with that of the sequence alone.
func (s *suite) batch(t *testing.T, name string, plans []*plan) {
	t.Helper()
	for _, p := range plans {
		p.want = s.generate(t, p.prompt, p.tokens)
	}
	defer func() {
		for _, p := range plans {
			s.e.Close(p.seq)
		}
	}()
	left := len(plans)
	for step := 0; left > 0; step++ {
		var rows []*engine.Row
		for _, p := range plans {
			if step < p.start || p.got == len(p.want) {
				continue
			}
			if p.seq == 0 {
				p.seq = s.open(t, len(p.prompt)+p.tokens)
			}
			p.next()
			rows = append(rows, p.row)
		}
		s.step(t, rows...)
		for i, p := range plans {
			if step < p.start || !p.compare(t, s, fmt.Sprintf("batch %s, step %d, sequence %d of %d", name, step, i, len(plans))) {
				continue
			}
			if p.got == len(p.want) {
				s.e.Close(p.seq)
				left--
			}
		}
	}
}

// next makes the sequence's next row.
func (p *plan) next() {
	if len(p.cuts) == 0 {
		p.row = &engine.Row{Seq: p.seq, Tokens: []int32{best(p.want[p.got-1])}, Sample: true}
		return
	}
	fed := len(p.prompt)
	for _, n := range p.cuts {
		fed -= n
	}
	n := p.cuts[0]
	p.cuts = p.cuts[1:]
	p.row = &engine.Row{Seq: p.seq, Tokens: p.prompt[fed : fed+n], Sample: len(p.cuts) == 0}
}

// compare checks the row that just ran and tells whether it was a sampled one.
func (p *plan) compare(t *testing.T, s *suite, where string) bool {
	t.Helper()
	if p.row == nil || !p.row.Sample {
		return false
	}
	if at, by, bad := s.differ(p.row.Logits, p.want[p.got]); bad {
		t.Fatalf("%s (prompt of %d): logits %d differ at %d by %g from those alone", where, len(p.prompt), p.got, at, by)
	}
	p.got++
	p.row = nil
	return true
}
