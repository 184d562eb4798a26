package chaos

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
)

// Check lists every promise that the history breaks:
//  1. Each acknowledged job has exactly one final record, the last of its stream; no other job has any.
//  2. For each choice, indexes follow each other from 0 without gap or repeat.
//  3. Fences never fall, each claim has a higher one than all records before it, and nobody writes
//     after he gave the job back.
//  4. Claims count failures and preemptions as the records before them do.
//  5. The answer is that of a calm run, token by token, and so are text, logprobs and finish reasons. A
//     job that was given up has used up its failures, is in the DLQ and holds the answer's beginning.
//  6. The final record's checksum and usage are those of the records.
//  7. Each reader got what the stream holds.
//  8. Nothing is left: no job in the queue, no memory reserved.
func (h *History) Check() []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, job := range slices.Sorted(maps.Keys(h.Kinds)) {
		for _, w := range h.job(job) {
			say("job %s: %s", job, w)
		}
	}
	for _, job := range slices.Sorted(maps.Keys(h.Out)) {
		if _, ok := h.Kinds[job]; !ok {
			say("job %s has records and was never acknowledged", job)
		}
	}
	if h.Queue != 0 {
		say("%d jobs are left in the queue", h.Queue)
	}
	for _, worker := range slices.Sorted(maps.Keys(h.Reserved)) {
		if n := h.Reserved[worker]; n != 0 {
			say("worker %s ended with %d bytes reserved", worker, n)
		}
	}
	return wrong
}

// Failed counts the jobs of which a promise was broken, or that ended in an error.
func (h *History) Failed() (n int) {
	for job := range h.Kinds {
		records := h.Out[job]
		if len(h.job(job)) > 0 || records[len(records)-1].Code != "" {
			n++
		}
	}
	return n
}

// job checks one job.
func (h *History) job(id string) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	var got Answer
	var sum stream.Checksum
	var held holders
	for i, r := range h.Out[id] {
		for _, err := range []error{held.add(r.Chunk), got.Add(r.Chunk)} {
			if err != nil {
				say("record %d: %v", i, err)
			}
		}
		sum.Add(r.Chunk)
	}
	if got.Final == nil {
		say("no final record")
		return wrong
	}
	if got.Final.Checksum != sum.Sum() {
		say("the final record has the checksum %q, its stream %q", got.Final.Checksum, sum.Sum())
	}
	if u := got.Final.Usage; u.CompletionTokens != got.Tokens() || u.TotalTokens != u.PromptTokens+u.CompletionTokens {
		say("usage %+v of %d tokens", *u, got.Tokens())
	}
	wrong = append(wrong, h.outcome(id, &got, held.failures)...)
	for i, r := range h.Received[id] {
		for _, w := range r.Wrong {
			say("reader %d: %s", i, w)
		}
		if d := r.differs(&got, false); d != "" {
			say("reader %d: %s", i, d)
		}
	}
	return wrong
}

// outcome compares a job's answer with that of a calm run.
func (h *History) outcome(id string, got *Answer, failures int) []string {
	want := h.References[h.Kinds[id]]
	switch {
	case want == nil:
		return []string{fmt.Sprintf("no reference for kind %q", h.Kinds[id])}
	case got.Final.Code == "":
		if d := got.differs(want, true); d != "" {
			return []string{"not the calm answer: " + d}
		}
	case got.Final.Code == contracts.CodeInternal && failures >= h.MaxFailures && h.Dead[id]:
		if !got.begins(want) {
			return []string{"given up, and not the beginning of the calm answer"}
		}
	default:
		return []string{fmt.Sprintf("ended as %s (%s) after %d failures, dead letter %v", got.Final.Code, got.Final.Message, failures, h.Dead[id])}
	}
	return nil
}

// holders follows who holds a job.
type holders struct {
	fence     uint64
	let       bool // the holder of fence gave the job back
	open      bool // somebody claimed and did not give back
	failures  int
	preempted int
}

func (h *holders) add(c *contracts.Chunk) error {
	before := h.fence
	h.fence = max(h.fence, c.Fence)
	claim := c.IsClaim()
	switch {
	case c.Fence < before:
		return fmt.Errorf("fence %d after %d", c.Fence, before)
	case claim && c.Claim.Released != "":
		return h.release(c, before)
	case claim:
		return h.claim(c, before)
	case h.let && c.Fence == before:
		return fmt.Errorf("fence %d writes at index %d after it gave the job back", c.Fence, c.Index)
	}
	return nil
}

func (h *holders) release(c *contracts.Chunk, before uint64) error {
	was := h.open
	h.let, h.open = true, false
	switch c.Claim.Released {
	case contracts.ReleasePreempt:
		h.preempted++
	case contracts.ReleaseFailed, contracts.ReleaseLost:
		h.failures++
	}
	unclaimed := before == 0 && c.Claim.Released == contracts.ReleaseLost // it died between delivery and claim
	if !was && !unclaimed {
		return fmt.Errorf("released (%s) with fence %d while nobody held it, before it was %d", c.Claim.Released, c.Fence, before)
	}
	return nil
}

func (h *holders) claim(c *contracts.Chunk, before uint64) error {
	if h.open {
		h.failures++
	}
	h.let, h.open = false, true
	switch {
	case c.Fence <= before:
		return fmt.Errorf("claim with fence %d after %d", c.Fence, before)
	case c.Claim.Failures != h.failures || c.Claim.Preempted != h.preempted:
		return fmt.Errorf("claim of %s counts %d failures and %d preemptions, the records %d and %d", c.Claim.Worker, c.Claim.Failures, c.Claim.Preempted, h.failures, h.preempted)
	}
	return nil
}

// differs says how a differs from b, "" if it does not. Readers over HTTP get logprobs as JSON, so only
// strict compares them.
func (a *Answer) differs(b *Answer, strict bool) string {
	switch {
	case a.Final == nil:
		return "no final record"
	case a.Final.Code != b.Final.Code || a.Final.Finish != b.Final.Finish:
		return fmt.Sprintf("ended %q %q, want %q %q", a.Final.Finish, a.Final.Code, b.Final.Finish, b.Final.Code)
	case len(a.Choices) != len(b.Choices):
		return fmt.Sprintf("%d choices, want %d", len(a.Choices), len(b.Choices))
	}
	for i, x := range a.Choices {
		y := b.Choices[i]
		switch {
		case !slices.Equal(x.Tokens, y.Tokens):
			return fmt.Sprintf("choice %d differs at token %d of %d, want %d", i, common(x.Tokens, y.Tokens), len(x.Tokens), len(y.Tokens))
		case x.Text != y.Text:
			return fmt.Sprintf("choice %d has the text %q, want %q", i, x.Text, y.Text)
		case x.Finish != y.Finish:
			return fmt.Sprintf("choice %d finished %q, want %q", i, x.Finish, y.Finish)
		case strict && len(x.Logprobs)+len(y.Logprobs) > 0 && !reflect.DeepEqual(x.Logprobs, y.Logprobs):
			return fmt.Sprintf("choice %d has other logprobs", i)
		}
	}
	return ""
}

// begins tells whether a is the beginning of b.
func (a *Answer) begins(b *Answer) bool {
	for i, x := range a.Choices {
		if i >= len(b.Choices) || common(x.Tokens, b.Choices[i].Tokens) != len(x.Tokens) || !strings.HasPrefix(b.Choices[i].Text, x.Text) {
			return false
		}
	}
	return true
}

// common is the length of the common beginning.
func common(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
