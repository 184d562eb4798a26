package admission

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Limits are the dispatcher's settings that admission obeys.
type Limits struct {
	ChatMaxTokens int // max_tokens of a chat job that does not say it
	TextMaxTokens int // max_tokens of a text job that does not say it
	MaxBytes      int // largest admitted job that the broker takes, encoded
	MaxRecord     int // largest record of an answer; 0 is not known
}

// Capacity is the most that any one live worker offers for a model. The zero value means that no
// worker is known, and nothing is checked against it.
type Capacity struct {
	KVBytes       int64 // largest KV cache
	KVPerToken    int64 // bytes of KV cache a token takes
	KVBlock       int   // tokens to whose multiple those of a choice are rounded up; 0 is 1
	Slots         int   // most sequences at once; 0 is unknown
	ContextLength int   // longest context; 0 is unknown
}

// Draw is what an admitted job takes from outside the pure decision.
type Draw struct {
	Now  time.Time
	Seed int64 // used when the job brings none
}

// Decision is an admitted job with what its subject needs.
type Decision struct {
	Admitted *contracts.Admitted
	Size     contracts.Size
	Data     []byte // Admitted, encoded
	Fresh    bool   // nobody else has the job's id
	Hold     bool   // it waits for its turn before it goes into JOBS
}

// Apply makes d what the verdict says.
func (d *Decision) Apply(v Verdict) error {
	d.Hold = v.Hold
	if v.Changed == "" {
		return nil
	}
	a := *d.Admitted
	a.Job.Class = v.Class
	a.Job.Params.MaxTokens = &v.Tokens
	a.KVTokens = *a.Job.Params.N * (len(a.Tokens) + v.Tokens)
	data, err := contracts.Encode(&a)
	if err != nil {
		return err
	}
	d.Admitted, d.Size, d.Data = &a, contracts.SizeFor(a.KVTokens), data
	return nil
}

// maxClockLead is how old a producer's submit time may be to be believed.
const maxClockLead = time.Minute

// maxAhead is how far in the future a job may be scheduled: 30 days.
const maxAhead = 30 * 24 * time.Hour

// Decide admits the job or says why not: the error is a [*contracts.Error]. The job itself is not
// changed; the decision shares its labels and parameters.
func Decide(job *contracts.Job, c *Catalog, capacityOf func(model string) Capacity, l Limits, d Draw) (*Decision, error) {
	j := *job
	if j.Model == "" {
		j.Model = c.models[0].Name
	}
	if err := j.Validate(); err != nil {
		return nil, err
	}
	model, err := c.Find(j.Model)
	if err != nil {
		return nil, err
	}
	j.Model = model.Name
	now := d.Now.UnixMilli()
	if j.Deadline > 0 && j.Deadline <= now {
		return nil, &contracts.Error{Code: contracts.CodeDeadlineExceeded, Param: "deadline",
			Message: fmt.Sprintf("the deadline passed %d ms before the job arrived: send a later one", now-j.Deadline)}
	}
	if j.NotBefore > now+maxAhead.Milliseconds() {
		return nil, contracts.Invalid("not_before", "a job can be scheduled at most 30 days ahead")
	}
	if err := serves(&j, model); err != nil {
		return nil, err
	}
	if model.Kind != "" {
		return call(&j, model, capacityOf(model.Name), l, d)
	}
	prompt, err := render(&j, c, model)
	if err != nil {
		return nil, err
	}
	digest, err := Digest(&j)
	if err != nil {
		return nil, err
	}
	a, err := Measure(&j, prompt, model, capacityOf(model.Name), l, d)
	if err != nil {
		return nil, err
	}
	a.Digest = digest
	return seal(&j, a, l)
}

// Measure is the part of [Decide] that looks at nothing but sizes: it fills in what j leaves open and says
// what its KV cache needs, or why it fits nowhere.
func Measure(j *contracts.Job, prompt []int32, m *Model, c Capacity, l Limits, d Draw) (*contracts.Admitted, error) {
	if err := fit(j, len(prompt), m, c, l); err != nil {
		return nil, err
	}
	fill(j, d.Now.UnixMilli(), d)
	return &contracts.Admitted{Job: *j, Tokens: prompt, KVTokens: *j.Params.N * (len(prompt) + *j.Params.MaxTokens)}, nil
}

// fill sets the defaults that are left once max_tokens is known.
func fill(j *contracts.Job, now int64, d Draw) {
	j.V = contracts.Version
	j.Class = cmp.Or(j.Class, contracts.P2)
	if j.Submitted > now || j.Submitted < now-maxClockLead.Milliseconds() {
		j.Submitted = now
	}
	if j.Kind == contracts.KindEmbed || j.Kind == contracts.KindTensor {
		return // nothing is drawn
	}
	if j.Params.Seed == nil {
		seed := d.Seed
		j.Params.Seed = &seed
	}
	if j.Params.N == nil {
		one := 1
		j.Params.N = &one
	}
}

// seal completes the admitted job, encodes it and checks that the broker takes it.
func seal(j *contracts.Job, a *contracts.Admitted, l Limits) (*Decision, error) {
	j.Messages, j.Prompt, j.Tokens, j.Input, j.Rows = nil, "", nil, nil, nil
	a.V, a.Job = contracts.Version, *j
	data, err := contracts.Encode(a)
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "the job cannot be encoded: %v", err)
	}
	if l.MaxBytes > 0 && len(data) > l.MaxBytes {
		return nil, contracts.Errorf(contracts.CodePayloadTooLarge,
			"the job takes %d bytes in the queue (%d prompt tokens), the broker's limit is %d: shorten it", len(data), len(a.Tokens), l.MaxBytes)
	}
	return &Decision{Admitted: a, Size: contracts.SizeFor(a.KVTokens), Data: data}, nil
}

// limitText names a model's context in the words of OpenAI's own message, by which clients tell this refusal from
// others: LiteLLM goes on to a model with a longer context.
const limitText = "this model's maximum context length is %d tokens (%s)"

// fit sets max_tokens and refuses what is too long for the model or for every live worker.
func fit(j *contracts.Job, prompt int, m *Model, c Capacity, l Limits) error {
	limit := m.ContextLength
	if c.ContextLength > 0 {
		limit = min(limit, c.ContextLength)
	}
	if prompt > m.Counted() {
		return tooLong(inputParam(j), "the prompt has more than %d tokens and an answer needs at least 1, "+limitText+": shorten the prompt", m.Counted(), limit, m.Name)
	}
	if prompt >= limit {
		return tooLong(inputParam(j), "the prompt has %d tokens and an answer needs at least 1, "+limitText+": shorten the prompt", prompt, limit, m.Name)
	}
	switch {
	case j.Params.MaxTokens == nil:
		most := l.TextMaxTokens
		if j.Kind == contracts.KindChat {
			most = l.ChatMaxTokens
		}
		most = max(1, min(most, limit-prompt, c.tokens(j)-prompt))
		j.Params.MaxTokens = &most
	case prompt+*j.Params.MaxTokens > limit:
		return tooLong("params.max_tokens", "the prompt has %d tokens and max_tokens is %d, together %d, "+limitText+": lower max_tokens to %d or shorten the prompt",
			prompt, *j.Params.MaxTokens, prompt+*j.Params.MaxTokens, limit, m.Name, limit-prompt)
	}
	return hold(j, prompt, c)
}

// tokens is how many tokens of each choice of j the largest worker can hold.
func (c Capacity) tokens(j *contracts.Job) int {
	if c.KVBytes == 0 || c.KVPerToken == 0 {
		return math.MaxInt32
	}
	block := max(1, c.KVBlock)
	return int(c.KVBytes/c.KVPerToken/int64(choices(j))) / block * block
}

func choices(j *contracts.Job) int {
	if j.Params.N == nil {
		return 1
	}
	return *j.Params.N
}

// hold refuses what the largest live worker could never hold.
func hold(j *contracts.Job, prompt int, c Capacity) error {
	n := choices(j)
	if c.Slots > 0 && n > c.Slots {
		return contracts.Invalid("params.n", "n is %d, the largest live worker runs %d sequences at once: lower n", n, c.Slots)
	}
	block := max(1, c.KVBlock)
	need := int64(n) * int64((prompt+*j.Params.MaxTokens+block-1)/block*block) * c.KVPerToken
	if c.KVBytes > 0 && need > c.KVBytes {
		return tooLong("params.max_tokens", "the job needs %d bytes of KV cache (%d choices of %d tokens), the largest live worker has %d: lower max_tokens or n, shorten the prompt, or give workers more memory",
			need, n, prompt+*j.Params.MaxTokens, c.KVBytes)
	}
	return nil
}

func tooLong(param, format string, args ...any) error {
	return &contracts.Error{Code: contracts.CodeContextLengthExceeded, Param: param, Message: fmt.Sprintf(format, args...)}
}
