package resume

import (
	"fmt"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
)

// Transcript is what a job's stream holds so far. The zero value is the stream of a job that nobody
// touched.
type Transcript struct {
	Last    uint64    // stream sequence of the newest record, 0 if there is none
	Fence   uint64    // of the newest holder
	Attempt int       // of the newest claim
	Claimed time.Time // when the newest claim or release was stored
	First   time.Time // when the first token was stored
	Choices []Choice  // what was written of each choice; shorter than n when nothing was
	// History are the claims and releases of earlier holders, oldest first.
	History []contracts.Claim
	// Failure is what the newest holder said when it released the job as failed; nil if it did not.
	Failure  *contracts.Error
	Checksum stream.Checksum // of the pieces; who goes on writing takes it over
	Final    *contracts.Chunk
	// Broken says why the stream cannot be continued: a record is missing, cannot be read, or is of a later
	// version (CodeUnimplemented). Last, Fence, and of a later version claims and Final, are right all the same.
	Broken error
}

// Choice is what was written of one of a job's choices.
type Choice struct {
	Tokens []int32
	Finish string // set when the choice ended
}

// Tokens counts what was written over all choices.
func (t *Transcript) Tokens() int {
	n := 0
	for _, c := range t.Choices {
		n += len(c.Tokens)
	}
	return n
}

// Add folds the record stored at sequence seq into t. Records come in the order of their sequences.
func (t *Transcript) Add(seq uint64, at time.Time, data []byte) {
	t.Last = seq
	var c contracts.Chunk
	err := contracts.Decode(data, &c)
	t.Fence = max(t.Fence, c.Fence)
	if err != nil {
		t.fail("record %d: %w", seq, err)
		if contracts.CodeOf(err) != contracts.CodeUnimplemented {
			return
		}
	}
	if c.Claim != nil {
		t.Attempt, t.Claimed = c.Claim.Attempt, at
	}
	switch {
	case c.Final():
		t.Final = &c
	case c.IsClaim():
		t.History = append(t.History, *c.Claim)
		t.Failure = nil
		if c.Code != "" {
			t.Failure = contracts.Errorf(c.Code, "%s", c.Message)
		}
	case err == nil:
		t.Checksum.Add(&c)
		t.piece(seq, at, &c)
	}
}

// Failures is how many holders failed: those that released the job as failed, were found lost, or said
// nothing before the next one came. Records that aged out are counted by the claims after them.
func (t *Transcript) Failures() int {
	n, held := 0, false
	for _, c := range t.History {
		switch c.Released {
		case "":
			if held {
				n++
			}
			n, held = max(n, c.Failures), true
		case contracts.ReleaseFailed, contracts.ReleaseLost:
			n++
			held = false
		default:
			held = false
		}
	}
	if held {
		n++
	}
	return n
}

// Unfit is how many of the newest holders, one after the other, were too small for the job or too old to read it.
func (t *Transcript) Unfit() int {
	n := 0
	for _, c := range t.History {
		switch c.Released {
		case "":
		case contracts.ReleaseUnfit:
			n++
		default:
			n = 0
		}
	}
	return n
}

// Preempted is how often the job gave way to another.
func (t *Transcript) Preempted() int {
	n := 0
	for _, c := range t.History {
		switch c.Released {
		case "":
			n = max(n, c.Preempted)
		case contracts.ReleasePreempt:
			n++
		}
	}
	return n
}

func (t *Transcript) piece(seq uint64, at time.Time, c *contracts.Chunk) {
	if c.Choice < 0 || c.Choice >= contracts.MaxChoices {
		t.fail("record %d: choice %d does not exist", seq, c.Choice)
		return
	}
	for len(t.Choices) <= c.Choice {
		t.Choices = append(t.Choices, Choice{})
	}
	of := &t.Choices[c.Choice]
	if c.Index != len(of.Tokens) {
		t.fail("record %d: choice %d goes on at token %d, %d were expected before it", seq, c.Choice, c.Index, len(of.Tokens))
		return
	}
	if t.First.IsZero() && len(c.Tokens) > 0 {
		t.First = at
	}
	of.Tokens = append(of.Tokens, c.Tokens...)
	if c.Finish != "" {
		of.Finish = c.Finish
	}
}

func (t *Transcript) fail(format string, args ...any) {
	if t.Broken == nil {
		t.Broken = fmt.Errorf(format, args...)
	}
}
