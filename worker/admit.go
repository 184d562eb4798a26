package worker

import (
	"cmp"
	"math"
	"strconv"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/grammar"
	"github.com/pelton-run/pelton/runtime/sampler"
)

// Defaults of max_tokens for jobs whose dispatcher did not fill it in.
const (
	defaultTokensChat = 512
	defaultTokensText = 16
)

// request is an admitted job, checked and with its defaults resolved.
type request struct {
	job      contracts.Job
	prompt   []int32
	digest   string
	max      int // generated tokens of each choice
	choices  int
	sampling sampler.Params
	form     *grammar.Grammar // of the answers; nil: any text
	deadline time.Time        // zero is none

	rows    [][]int32 // of an embed job
	units   int       // of a job that is one call: the tokens that its memory is counted in
	counted int       // tokens of rows, for the usage
}

// parse decodes and checks what the queue held under a subject. The dispatcher checked all of it
// before; a worker believes none of it. The request is usable for a refusal even with an error.
func parse(ref subject.Job, data []byte, info engine.Info, calls *Calls) (*request, *contracts.Error) {
	var a contracts.Admitted
	err := contracts.Decode(data, &a) // of a later version it has what is known here
	r := &request{job: contracts.Job{ID: ref.Job, Tenant: ref.Tenant, Model: ref.Model, Class: ref.Class, Submitted: cmp.Or(a.Job.Submitted, time.Now().UnixMilli())}, digest: a.Digest, choices: 1}
	if err != nil {
		return r, contracts.AsError(err)
	}
	if a.Job.ID != ref.Job || a.Job.Tenant != ref.Tenant || a.Job.Model != ref.Model {
		return r, contracts.Errorf(contracts.CodeInvalidArgument, "job %q of tenant %q for model %q was queued under another name", a.Job.ID, a.Job.Tenant, a.Job.Model)
	}
	a.Job.Class = ref.Class
	a.Job.Submitted = r.job.Submitted
	r.job, r.prompt, r.digest = a.Job, a.Tokens, a.Digest
	if a.Job.Deadline > 0 {
		r.deadline = time.UnixMilli(a.Job.Deadline)
	}
	if calls != nil {
		return r, calls.check(r, a.Rows)
	}
	return r, r.check(info)
}

func (r *request) check(info engine.Info) *contracts.Error {
	if r.job.Kind != contracts.KindChat && r.job.Kind != contracts.KindText {
		return contracts.Errorf(contracts.CodeUnimplemented, "jobs of kind %q are not served by this worker: use chat or text", r.job.Kind)
	}
	probe := r.job // the prompt is tokens by now, everything else is checked as for a producer
	probe.Kind, probe.Prompt, probe.Messages, probe.Tokens = contracts.KindText, "x", nil, nil
	if err := probe.Validate(); err != nil {
		return contracts.AsError(err)
	}
	if len(r.prompt) == 0 {
		return contracts.Errorf(contracts.CodeInvalidArgument, "the prompt has no tokens")
	}
	for i, id := range r.prompt {
		if id < 0 || int(id) >= info.Vocab {
			return contracts.Errorf(contracts.CodeInvalidArgument, "prompt token %d is %d, ids go from 0 to %d", i, id, info.Vocab-1)
		}
	}
	if n := len(r.prompt) + or(r.job.Params.MaxTokens, 1); n > info.ContextLength { // admission knows the longest context of all
		return contracts.Errorf(contracts.CodeResourceExhausted, "the job needs a context of %d tokens, this worker has %d", n, info.ContextLength)
	}
	return r.resolve(info)
}

func (r *request) resolve(info engine.Info) *contracts.Error {
	p := &r.job.Params
	r.max = defaultTokensText
	if r.job.Kind == contracts.KindChat {
		r.max = defaultTokensChat
	}
	r.max = or(p.MaxTokens, min(r.max, info.ContextLength-len(r.prompt)))
	r.choices = or(p.N, 1)
	r.sampling = sampler.Params{
		Temperature: float32(or(p.Temperature, 1)), TopP: positive(or(p.TopP, 1)), MinP: float32(or(p.MinP, 0)), TopK: or(p.TopK, 0),
		RepetitionPenalty: positive(or(p.RepetitionPenalty, 1)), PresencePenalty: float32(or(p.PresencePenalty, 0)),
		FrequencyPenalty: float32(or(p.FrequencyPenalty, 0)), Seed: uint64(or(p.Seed, 0)),
		Logprobs: p.Logprobs != nil, TopLogprobs: or(p.Logprobs, 0),
	}
	for key, bias := range p.LogitBias {
		id, err := strconv.ParseInt(key, 10, 64)
		if err != nil || id > math.MaxInt32 || int(id) >= info.Vocab {
			return contracts.Errorf(contracts.CodeInvalidArgument, "logit_bias names token %s, ids go from 0 to %d", key, info.Vocab-1)
		}
		if r.sampling.LogitBias == nil {
			r.sampling.LogitBias = map[int32]float32{}
		}
		r.sampling.LogitBias[int32(id)] = float32(bias)
	}
	return nil
}

// positive is a number above 0 with fewer bits, and still above 0, which would say that it is not given.
func positive(v float64) float32 { return max(float32(v), math.SmallestNonzeroFloat32) }

// tokens is the KV cache that one choice needs, or what a job that is one call needs.
func (r *request) tokens() int { return len(r.prompt) + r.max + r.units }

func or[T any](v *T, d T) T {
	if v == nil {
		return d
	}
	return *v
}
