package chaos

import (
	"fmt"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// History is everything that a run left behind.
type History struct {
	Kinds    map[string]string      // which of References each acknowledged job must equal
	Out      map[string][]Record    // what the stream OUT holds of each job, in order
	Received map[string][]*Received // what each reader of a job got
	Dead     map[string]bool        // jobs with an entry in the stream DLQ

	References map[string]*Answer // by kind: the answers of a calm run

	Queue    int              // jobs left in JOBS after the end
	Reserved map[string]int64 // bytes of KV cache that each worker held after the end

	// MaxFailures is how many holders may fail before a job is given up.
	MaxFailures int
}

// Record is one stored record of a job.
type Record struct {
	*contracts.Chunk
	At time.Time // when it was stored
}

// Answer is a whole answer: what must not depend on deaths.
type Answer struct {
	Choices []Choice
	Final   *contracts.Chunk
}

// Choice is one of an answer's choices.
type Choice struct {
	Tokens   []int32
	Text     string
	Finish   string
	Logprobs []contracts.TokenLogprob
}

// Add takes the next record and tells what is wrong with its place. Claims change nothing.
func (a *Answer) Add(c *contracts.Chunk) error {
	if a.Final != nil {
		return fmt.Errorf("a record after the final one: fence %d, index %d", c.Fence, c.Index)
	}
	if c.IsClaim() {
		return nil
	}
	if c.Choice < 0 || c.Choice >= contracts.MaxChoices {
		return fmt.Errorf("choice %d does not exist", c.Choice)
	}
	for len(a.Choices) <= c.Choice {
		a.Choices = append(a.Choices, Choice{})
	}
	to := &a.Choices[c.Choice]
	to.Text += c.Text
	if c.Finish != "" {
		to.Finish = c.Finish
	}
	if c.Final() {
		a.Final = c
		if c.Index != len(a.Choices[0].Tokens) {
			return fmt.Errorf("the final record counts %d tokens of choice 0, there are %d", c.Index, len(a.Choices[0].Tokens))
		}
		return nil
	}
	if c.Index != len(to.Tokens) {
		return fmt.Errorf("choice %d goes on at token %d after %d", c.Choice, c.Index, len(to.Tokens))
	}
	to.Tokens = append(to.Tokens, c.Tokens...)
	to.Logprobs = append(to.Logprobs, c.Logprobs...)
	return nil
}

// Tokens counts the tokens of all choices.
func (a *Answer) Tokens() int {
	n := 0
	for _, c := range a.Choices {
		n += len(c.Tokens)
	}
	return n
}

// Received is what one reader got, over all its connections.
type Received struct {
	Answer
	Wrong []string      // records that were not the next ones, or ends that are none
	Gap   time.Duration // the longest wait between two pieces
}

// Take adds a record as it arrives.
func (r *Received) Take(c *contracts.Chunk) {
	if err := r.Add(c); err != nil {
		r.Wrong = append(r.Wrong, err.Error())
	}
}
