package emit

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker/batch"
)

// choice is the state of one of a job's choices. It belongs to the goroutine in Writer.Run.
type choice struct {
	dec  *tokenizer.Decoder
	stop *stopper

	written int               // tokens in accepted records
	pending []contracts.Chunk // records to write, only the last one still grows
	since   time.Time         // when the last record of this choice was accepted

	finish  string // how it ended, once that is known
	failure error  // why it ended without a finish
	closed  bool   // the batch holds nothing of it any more
	done    bool   // its finish is written, or it failed and all tokens are written
}

func newChoice(v Vocabulary, stops []string) *choice {
	return &choice{dec: v.NewDecoder(), stop: newStopper(stops)}
}

// restore brings the text state to where an earlier holder left it. The text itself was written.
func (c *choice) restore(s Start) {
	for _, id := range s.Tokens {
		if _, stopped := c.stop.Push(c.dec.Push(id)); stopped {
			c.finish = contracts.FinishStop
		}
	}
	c.written = len(s.Tokens)
	if s.Finish != "" {
		c.finish, c.done = s.Finish, true
	}
	c.closed = c.finish != ""
}

// push adds a token to what is pending, in records of at most most tokens, and tells whether it
// completed a stop string. l is nil without logprobs.
func (c *choice) push(id int32, l *contracts.TokenLogprob, most int) (stopped bool) {
	text, stopped := c.stop.Push(c.dec.Push(id))
	if n := len(c.pending); n == 0 || len(c.pending[n-1].Tokens) >= most {
		c.pending = append(c.pending, contracts.Chunk{})
	}
	p := &c.pending[len(c.pending)-1]
	p.Tokens = append(p.Tokens, id)
	p.Text += text
	if l != nil {
		p.Logprobs = append(p.Logprobs, *l)
	}
	if stopped {
		c.finish = contracts.FinishStop
	}
	return stopped
}

// rest is the text that was held back when the choice ended; none after a stop string.
func (c *choice) rest() string {
	text, _ := c.stop.Push(c.dec.Flush())
	return text + c.stop.Flush()
}

func logprob(v Vocabulary, t batch.Token, top int) *contracts.TokenLogprob {
	l := &contracts.TokenLogprob{Token: t.ID, Logprob: t.Logprob, Bytes: v.TokenBytes(t.ID)}
	for _, c := range t.Top[:min(top, len(t.Top))] {
		l.Top = append(l.Top, contracts.TokenLogprob{Token: c.Token, Logprob: c.Logprob, Bytes: v.TokenBytes(c.Token)})
	}
	return l
}
