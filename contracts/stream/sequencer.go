// Package stream puts the records of one job's stream in order: it tells new from seen, drops what an
// evicted worker wrote, and finds gaps.
//
// It serves step 13 of the walk, for both readers: contracts/client and dispatcher/relay feed it the
// records of live.<tenant>.<job> and of the stream OUT, and hand on what it lets through. The previous
// step is worker/emit, which wrote the records; the next is the producer, or dispatcher/gateway/sse.
//
// Pure: no network, no clock, no goroutine. A [Sequencer] belongs to one goroutine.
package stream

import (
	"sort"
	"unicode/utf8"

	"github.com/pelton-run/pelton/contracts"
)

// Sequencer merges the live records and the replayed records of one job into its transcript. The zero
// value is at the beginning of a stream.
//
// It keeps these promises, whatever is repeated, lost and replayed:
//  1. Every token of a choice is let through once, in order, each with its logprob.
//  2. So is the text, as long as a worker that starts again does so where an earlier piece ended.
//  3. A live record of a fence below the highest accepted one is dropped.
//  4. A record that cannot follow what was let through so far is a gap: it changes nothing, and can be
//     offered again after the refill.
//  5. The final record is let through once, after every token that it counts; nothing follows it.
//  6. What was let through is compared with the final record's checksum, see Err.
type Sequencer struct {
	fence   uint64
	seq     uint64 // stream sequence of the last accepted record, when known
	done    bool
	choices []choice
	sum     Checksum // of what was let through
	err     error
}

// choice is what was let through of one choice.
type choice struct {
	tokens   int
	text     int    // bytes
	flushed  bool   // a piece without tokens was let through at this count of tokens
	finished bool   // its Finish was let through
	marks    []mark // ends of pieces, by tokens
}

// mark says that the text of the first tokens is so many bytes long.
type mark struct{ tokens, text int32 }

// Next takes the next record of the live subject when its place in OUT is not known: prefer
// [Sequencer.NextAt], because a lost record without tokens shows in no index. It returns the
// piece or final record to hand on, nil for claims, repeats and stale records. A gap says that records
// before c are missing: read them from OUT, give them to [Sequencer.Replay], then offer c again.
func (s *Sequencer) Next(c *contracts.Chunk) (emit *contracts.Chunk, gap bool) {
	if c.Fence < s.fence {
		return nil, false
	}
	return s.accept(c, false)
}

// Replay takes a record read from OUT. It differs from Next in its trust: OUT holds only accepted
// records, so an older fence is no reason to drop one. A gap in a replay from the beginning, or from
// Seq()+1, means that the missing records are no longer kept.
func (s *Sequencer) Replay(c *contracts.Chunk) (emit *contracts.Chunk, gap bool) {
	return s.accept(c, true)
}

// NextAt is Next for a live record whose place is known: seq is its sequence in OUT (header
// Nats-Sequence), last the sequence of the record before it on the same subject (Nats-Last-Sequence, 0
// for the first). It also finds gaps that no index shows, such as a lost finish, and that OUT lost its tail
// and a later holder writes there anew: then the whole of OUT is to be replayed.
func (s *Sequencer) NextAt(c *contracts.Chunk, seq, last uint64) (emit *contracts.Chunk, gap bool) {
	if seq <= s.seq {
		if c.Fence <= s.fence || s.done {
			return nil, false
		}
		s.Rewind()
		return nil, true
	}
	if last != s.seq {
		return nil, true
	}
	if c.Fence >= s.fence {
		emit, gap = s.accept(c, true)
	}
	if !gap {
		s.seq = seq
	}
	return emit, gap
}

// ReplayAt is Replay for a record with the sequence seq in OUT.
func (s *Sequencer) ReplayAt(c *contracts.Chunk, seq uint64) (emit *contracts.Chunk, gap bool) {
	if seq <= s.seq {
		return nil, false
	}
	emit, gap = s.Replay(c)
	if !gap {
		s.seq = seq
	}
	return emit, gap
}

// Seq is the sequence in OUT of the last accepted record that came with one: refill from the next.
func (s *Sequencer) Seq() uint64 { return s.seq }

// Rewind forgets the sequence, so that a replay from the beginning of OUT is compared by index alone.
func (s *Sequencer) Rewind() { s.seq = 0 }

// Done tells whether the final record was let through.
func (s *Sequencer) Done() bool { return s.done }

// Err is an error when the final record names another checksum than that of the pieces let through:
// the transcript is not what the worker wrote.
func (s *Sequencer) Err() error { return s.err }

// Tokens is the count of tokens let through of a choice.
func (s *Sequencer) Tokens(choice int) int {
	if choice < 0 || choice >= len(s.choices) {
		return 0
	}
	return s.choices[choice].tokens
}

// accept judges c by its index. complete says that no record before c is missing, as far as the source
// can tell.
func (s *Sequencer) accept(c *contracts.Chunk, complete bool) (*contracts.Chunk, bool) {
	switch {
	case s.done || c.Index < 0 || c.Choice < 0 || c.Choice >= contracts.MaxChoices:
		return nil, false
	case c.Final():
		return s.final(c, complete)
	case c.Index > s.Tokens(c.Choice), !complete && s.straddles(c):
		return nil, true
	}
	s.fence = max(s.fence, c.Fence)
	if c.IsClaim() {
		return nil, false
	}
	for len(s.choices) <= c.Choice {
		s.choices = append(s.choices, choice{})
	}
	emit := s.choices[c.Choice].piece(c)
	if emit != nil {
		s.sum.Add(emit)
	}
	return emit, false
}

// straddles tells whether c repeats some tokens and brings others, while it is not known how much of its
// text is new.
func (s *Sequencer) straddles(c *contracts.Chunk) bool {
	if c.Choice >= len(s.choices) {
		return false
	}
	ch := &s.choices[c.Choice]
	if c.Index == ch.tokens || c.Index+len(c.Tokens) <= ch.tokens {
		return false
	}
	_, known := ch.textAt(c.Index)
	return !known
}

// final lets the final record through when all tokens of choice 0 came before it and, unless the
// records are known to be complete, those of the other choices too.
func (s *Sequencer) final(c *contracts.Chunk, complete bool) (*contracts.Chunk, bool) {
	total := 0
	for i := range s.choices {
		total += s.choices[i].tokens
	}
	if c.Index > s.Tokens(0) || (!complete && c.Usage.CompletionTokens > total) {
		return nil, true
	}
	s.fence, s.done = max(s.fence, c.Fence), true
	s.sum.Add(c)
	if got := s.sum.Sum(); c.Checksum != "" && c.Checksum != got {
		s.err = contracts.Errorf(contracts.CodeInternal, "the stream of job %s has the checksum %s, its final record says %s: read it again from the beginning", c.Job, got, c.Checksum)
	}
	return c, false
}

// piece lets through what of c is new. c starts at or before the tokens let through so far.
func (ch *choice) piece(c *contracts.Chunk) *contracts.Chunk {
	end := c.Index + len(c.Tokens)
	if ch.finished || end < ch.tokens || (end == ch.tokens && !ch.flushes(c)) {
		ch.learn(c, end)
		return nil
	}
	if len(c.Tokens) == 0 {
		ch.flushed = true
	} else {
		ch.flushed = false
		c = ch.trim(c)
	}
	ch.tokens = end
	ch.text += len(c.Text)
	ch.finished = c.Finish != ""
	ch.mark(end, ch.text)
	return c
}

// flushes tells whether c, which brings no new token, brings new text or a finish.
func (ch *choice) flushes(c *contracts.Chunk) bool {
	return c.Finish != "" || (len(c.Tokens) == 0 && c.Text != "" && !ch.flushed)
}

// trim cuts off c what was let through before: a worker that starts again may cut its pieces at other
// places.
func (ch *choice) trim(c *contracts.Chunk) *contracts.Chunk {
	seen := ch.tokens - c.Index
	if seen == 0 {
		return c
	}
	rest := *c
	rest.Index, rest.Tokens = ch.tokens, c.Tokens[seen:]
	if len(c.Logprobs) == len(c.Tokens) {
		rest.Logprobs = c.Logprobs[seen:]
	}
	if before, known := ch.textAt(c.Index); known {
		rest.Text = after(c.Text, ch.text-before)
	} else if len(rest.Tokens) == 0 {
		rest.Text = ""
	}
	return &rest
}

// learn keeps where the text of a repeated piece ended.
func (ch *choice) learn(c *contracts.Chunk, end int) {
	if before, known := ch.textAt(c.Index); known && len(c.Tokens) > 0 {
		ch.mark(end, before+len(c.Text))
	}
}

func (ch *choice) find(tokens int) int {
	return sort.Search(len(ch.marks), func(i int) bool { return int(ch.marks[i].tokens) >= tokens })
}

func (ch *choice) textAt(tokens int) (int, bool) {
	if tokens == 0 {
		return 0, true
	}
	i := ch.find(tokens)
	if i == len(ch.marks) || int(ch.marks[i].tokens) != tokens {
		return 0, false
	}
	return int(ch.marks[i].text), true
}

func (ch *choice) mark(tokens, text int) {
	i := ch.find(tokens)
	if i < len(ch.marks) && int(ch.marks[i].tokens) == tokens {
		if tokens == ch.tokens {
			ch.marks[i].text = int32(text)
		}
		return
	}
	ch.marks = append(ch.marks, mark{})
	copy(ch.marks[i+1:], ch.marks[i:])
	ch.marks[i] = mark{int32(tokens), int32(text)}
}

// after is s without its first n bytes, n moved to the start of a character.
func after(s string, n int) string {
	n = min(max(n, 0), len(s))
	for n < len(s) && !utf8.RuneStart(s[n]) {
		n++
	}
	return s[n:]
}
