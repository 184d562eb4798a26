package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

const (
	fakeModel   = "fake/parrot"
	fakeContext = 2048 // tokens; a token of the fake is four bytes of prompt, or one generated word
)

// vocabulary is what the fake says, tokens that split a character among it.
var vocabulary = []string{" the", " sky", " is", " blue", ",", " because", "\n", " \xe2\x98", "\x83", " 7", " é", "<b>", ".", "\"", " 你", "好"}

// fakeFleet stands for dispatcher and workers: it keeps the streams of its jobs, generates words that
// depend on seed and place only, and can be told to wait.
type fakeFleet struct {
	gateway.Operations // none

	pace   time.Duration // of one token, as a modelled device
	hold   chan struct{} // jobs start when it is closed; nil: at once
	refuse func(*contracts.Job) error

	over chan struct{} // closed at the test's end

	mu       sync.Mutex
	jobs     map[string]*fakeJob
	canceled chan string // ids of jobs that were canceled while running
}

type fakeJob struct {
	job    *contracts.Job
	digest [32]byte
	log    []*contracts.Chunk
	grown  chan struct{} // closed and replaced at each record
	cancel chan struct{}
	once   sync.Once
}

func newFake(t testing.TB) *fakeFleet {
	f := &fakeFleet{jobs: map[string]*fakeJob{}, canceled: make(chan string, 64), over: make(chan struct{})}
	t.Cleanup(func() { close(f.over) })
	return f
}

func (f *fakeFleet) Submit(_ context.Context, job *contracts.Job) (*contracts.Answer, error) {
	if job.ID == "" {
		job.ID = uuid.NewString()
	}
	if f.refuse != nil {
		if err := f.refuse(job); err != nil {
			return nil, err
		}
	}
	if job.Model != fakeModel {
		return nil, contracts.Errorf(contracts.CodeModelNotFound, "model %q is not served: this fleet serves %s", job.Model, fakeModel)
	}
	if n := promptTokens(job) + maxTokens(job); n > fakeContext {
		return nil, &contracts.Error{Code: contracts.CodeContextLengthExceeded, Param: "params.max_tokens", Message: fmt.Sprintf("prompt and max_tokens are %d tokens, the context length is %d: shorten the prompt", n, fakeContext)}
	}
	if job.Deadline > 0 && job.Deadline < time.Now().UnixMilli() {
		return nil, contracts.Errorf(contracts.CodeDeadlineExceeded, "the deadline is past")
	}
	asked, _ := json.Marshal([]any{job.Model, job.Kind, job.Messages, job.Prompt, job.Tokens, job.Params, job.Labels[admission.LabelParts]})
	digest := sha256.Sum256(asked)
	answer := &contracts.Answer{V: 1, Job: job.ID, Outcome: contracts.OutcomeAdmitted, Live: "live." + job.Tenant + "." + job.ID}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := job.Tenant + "/" + job.ID
	if old := f.jobs[key]; old != nil {
		if old.digest != digest {
			return nil, &contracts.Error{Code: contracts.CodeConflict, Param: "job", Message: "job " + job.ID + " was submitted before with another request"}
		}
		answer.Attached = true
		return answer, nil
	}
	own := *job
	j := &fakeJob{job: &own, digest: digest, grown: make(chan struct{}), cancel: make(chan struct{})}
	f.jobs[key] = j
	go f.generate(j)
	return answer, nil
}

func promptTokens(j *contracts.Job) int {
	n := len(j.Tokens)
	if n == 0 {
		n = len(j.Prompt)/4 + 1
	}
	for _, m := range j.Messages {
		n += len(m.Content)/4 + 1
	}
	return n
}

func maxTokens(j *contracts.Job) int {
	if j.Params.MaxTokens != nil {
		return *j.Params.MaxTokens
	}
	return 16
}

func choices(j *contracts.Job) int {
	if j.Params.N != nil {
		return *j.Params.N
	}
	return 1
}

// generate writes a job's records: a claim, pieces, the final one.
func (f *fakeFleet) generate(j *fakeJob) {
	claim := &contracts.Claim{Worker: "w1", Attempt: 1, Model: j.job.Model, Class: j.job.Class, Submitted: j.job.Submitted}
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-j.cancel:
		case <-f.over:
			return
		}
	}
	f.append(j, &contracts.Chunk{Fence: 1, Claim: claim})
	n, most := choices(j.job), maxTokens(j.job)
	texts, finish := make([]string, n), make([]string, n)
	total, first := 0, 0
	for i := 0; i < most && slices.Contains(finish, ""); i++ {
		pace := time.After(f.pace)
		select {
		case <-j.cancel:
			pace = nil // of two that are ready select takes either
		default:
		}
		select {
		case <-j.cancel:
			f.end(j, claim, first, total, "", &contracts.Chunk{Finish: contracts.FinishCancelled, Code: contracts.CodeCanceled, Message: "canceled"})
			return
		case <-f.over:
			return
		case <-pace:
		}
		for c := range n {
			if finish[c] != "" {
				continue
			}
			piece, stop := fakePiece(j.job, c, i, &texts[c])
			total++
			if c == 0 {
				first = i + 1
			}
			if stop && n > 1 {
				piece.Finish = contracts.FinishStop
			}
			if stop {
				finish[c] = contracts.FinishStop
			}
			f.append(j, piece)
		}
	}
	end := contracts.FinishLength
	if n == 1 && finish[0] != "" {
		end = finish[0]
	}
	f.end(j, claim, first, total, end, &contracts.Chunk{})
}

func (f *fakeFleet) end(j *fakeJob, claim *contracts.Claim, index, total int, finish string, c *contracts.Chunk) {
	p := promptTokens(j.job)
	c.Fence, c.Index, c.Claim = 1, index, claim
	c.Usage = &contracts.Usage{PromptTokens: p, CompletionTokens: total, TotalTokens: p + total}
	c.Timings = &contracts.Timings{Queued: 1, Prefill: 2, Decode: 3, FirstToken: 3}
	if finish != "" {
		c.Finish = finish
	}
	f.append(j, c)
}

// fakePiece is token i of choice c; text holds all that the choice said and what waits for the rest of
// a character.
func fakePiece(j *contracts.Job, c, i int, text *string) (*contracts.Chunk, bool) {
	id := fakeToken(j, c, i)
	*text += vocabulary[id]
	piece := &contracts.Chunk{Fence: 1, Index: i, Choice: c, Tokens: []int32{int32(id)}}
	whole := strings.ToValidUTF8(*text, "\x00")
	if !strings.Contains(whole, "\x00") {
		piece.Text = *text
		*text = ""
	} else if len(*text) > 4 { // half a character that never came
		piece.Text, *text = strings.ToValidUTF8(*text, "\ufffd"), ""
	}
	if k := j.Params.Logprobs; k != nil {
		lp := contracts.TokenLogprob{Token: int32(id), Logprob: -0.5, Bytes: []byte(vocabulary[id])}
		for r := range *k {
			lp.Top = append(lp.Top, contracts.TokenLogprob{Token: int32(r % len(vocabulary)), Logprob: -float32(r), Bytes: []byte(vocabulary[r%len(vocabulary)])})
		}
		piece.Logprobs = []contracts.TokenLogprob{lp}
	}
	for _, s := range j.Params.Stop {
		if at := strings.Index(piece.Text, s); at >= 0 {
			piece.Text = piece.Text[:at]
			return piece, true
		}
	}
	return piece, false
}

func fakeToken(j *contracts.Job, c, i int) int {
	seed := int64(0)
	if j.Params.Seed != nil {
		seed = *j.Params.Seed
	}
	h := fnv.New64a()
	fmt.Fprint(h, seed, c, i)
	return int(h.Sum64()>>7) & (len(vocabulary) - 1)
}

func (f *fakeFleet) append(j *fakeJob, c *contracts.Chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.V, c.Job = 1, j.job.ID
	j.log = append(j.log, c)
	close(j.grown)
	j.grown = make(chan struct{})
}

func (f *fakeFleet) Start(ctx context.Context, job *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error) {
	answer, err := f.Submit(ctx, job)
	if err != nil {
		return nil, nil, err
	}
	return answer, f.Stream(ctx, job.Tenant, job.ID, -1), nil
}

func (f *fakeFleet) find(tenant, job string) (*fakeJob, error) {
	if j := f.jobs[tenant+"/"+job]; j != nil {
		return j, nil
	}
	return nil, contracts.Errorf(contracts.CodeNotFound, "job %q is not known", job)
}

func (f *fakeFleet) Stream(ctx context.Context, tenant, job string, after int) iter.Seq2[*contracts.Chunk, error] {
	return func(yield func(*contracts.Chunk, error) bool) {
		for at := 0; ; {
			f.mu.Lock()
			j, err := f.find(tenant, job)
			if err != nil {
				f.mu.Unlock()
				yield(nil, err)
				return
			}
			log, grown := j.log[at:], j.grown
			f.mu.Unlock()
			for _, c := range log {
				at++
				if !c.Final() && c.Index <= after {
					continue
				}
				if !yield(c, nil) || c.Final() {
					return
				}
			}
			select {
			case <-grown:
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

func (f *fakeFleet) Status(_ context.Context, tenant, job string) (contracts.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(tenant, job)
	if err != nil {
		return contracts.Status{}, err
	}
	return j.status(), nil
}

func (j *fakeJob) status() contracts.Status {
	s := contracts.Status{Job: j.job.ID, State: contracts.StateQueued, Class: j.job.Class, Model: j.job.Model, Tenant: j.job.Tenant, Submitted: j.job.Submitted}
	for _, c := range j.log {
		s.State = contracts.StateRunning
		if c.Final() {
			s.State, s.Finish, s.Usage, s.Code = contracts.FinalState(c), c.Finish, c.Usage, c.Code
		}
	}
	return s
}

func (f *fakeFleet) Cancel(ctx context.Context, tenant, job string) (contracts.Status, error) {
	f.mu.Lock()
	j, err := f.find(tenant, job)
	f.mu.Unlock()
	if err != nil {
		return contracts.Status{}, err
	}
	j.once.Do(func() {
		close(j.cancel)
		f.canceled <- job
	})
	for _, err := range f.Stream(ctx, tenant, job, -1) {
		if err != nil {
			return contracts.Status{}, err
		}
	}
	return f.Status(ctx, tenant, job)
}

func (f *fakeFleet) Leave(ctx context.Context, tenant, job string) error {
	f.mu.Lock()
	j, err := f.find(tenant, job)
	f.mu.Unlock()
	if err != nil || !j.job.CancelOnLeave {
		return err
	}
	_, err = f.Cancel(ctx, tenant, job)
	return err
}

// Quota is no limit.
func (*fakeFleet) Quota(string) (requests, tokens quota.State) { return requests, tokens }

func (f *fakeFleet) List(_ context.Context, filter contracts.Filter) ([]contracts.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []contracts.Status
	for _, j := range f.jobs {
		s := j.status()
		if len(out) < filter.Limit && (filter.State == "" || filter.State == s.State) && (filter.Class == "" || filter.Class == s.Class) && (filter.Tenant == "" || filter.Tenant == s.Tenant) {
			out = append(out, s)
		}
	}
	return out, nil
}

func (f *fakeFleet) job(t testing.TB, tenant, id string) *contracts.Job {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(tenant, id)
	if err != nil {
		t.Fatal(err)
	}
	return j.job
}

func (f *fakeFleet) models() []admission.ModelStatus {
	return []admission.ModelStatus{
		{Name: fakeModel, Aliases: []string{"parrot"}, Created: time.Unix(1700000000, 0), ContextLength: fakeContext, Workers: 1},
		{Name: "asleep", Created: time.Unix(1700000000, 0), ContextLength: fakeContext},
	}
}
