package admission_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

type words struct{}

// Encode makes a token of each word.
func (words) Encode(text string) []int32 { return make([]int32, len(strings.Fields(text))) }

func (w words) Chat(messages []tokenizer.Message, _ bool) ([]int32, error) {
	ids := []int32{1}
	for _, m := range messages {
		if m.Content == "refuse" {
			return nil, errors.New("roles must alternate")
		}
		ids = append(ids, w.Encode(m.Content)...)
	}
	return ids, nil
}

var (
	now    = time.UnixMilli(1_800_000_000_000)
	limits = admission.Limits{ChatMaxTokens: 512, TextMaxTokens: 16, MaxBytes: 1 << 20}
)

func catalog(t testing.TB) *admission.Catalog {
	t.Helper()
	c, err := admission.NewCatalog([]admission.Model{
		{Name: "big", Aliases: []string{"default"}, Tokenizer: words{}, ContextLength: 5000, Vocab: 100},
		{Name: "small", Tokenizer: words{}, ContextLength: 20, Vocab: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func nobody(string) admission.Capacity { return admission.Capacity{} }

func job(change func(*contracts.Job)) *contracts.Job {
	j := &contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "big", Kind: contracts.KindText, Prompt: "one two three"}
	if change != nil {
		change(j)
	}
	return j
}

// held is what a worker reserves for a choice of n tokens.
func held(c admission.Capacity, n int) int64 {
	return engine.Info{KVBytesPerToken: c.KVPerToken, BlockTokens: c.KVBlock}.KVBytes(n)
}

func ptr[T any](v T) *T { return &v }

func TestDefaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		job       *contracts.Job
		capacity  admission.Capacity
		model     string
		maxTokens int
		kv        int
		size      contracts.Size
	}{
		"text":          {job(nil), admission.Capacity{}, "big", 16, 19, contracts.SizeS},
		"default model": {job(func(j *contracts.Job) { j.Model = "" }), admission.Capacity{}, "big", 16, 19, contracts.SizeS},
		"alias":         {job(func(j *contracts.Job) { j.Model = "default" }), admission.Capacity{}, "big", 16, 19, contracts.SizeS},
		"chat": {job(func(j *contracts.Job) {
			j.Kind, j.Prompt, j.Messages = "chat", "", []contracts.Message{{Role: "user", Content: "hi"}}
		}), admission.Capacity{}, "big", 512, 514, contracts.SizeS},
		"choices":         {job(func(j *contracts.Job) { j.Params.N, j.Params.MaxTokens = ptr(4), ptr(997) }), admission.Capacity{}, "big", 997, 4000, contracts.SizeM},
		"explicit":        {job(func(j *contracts.Job) { j.Params.MaxTokens = ptr(4997) }), admission.Capacity{}, "big", 4997, 5000, contracts.SizeL},
		"cut to context":  {job(func(j *contracts.Job) { j.Model, j.Prompt = "small", strings.Repeat("w ", 15) }), admission.Capacity{}, "small", 5, 20, contracts.SizeS},
		"cut to worker":   {job(nil), admission.Capacity{KVBytes: 100, KVPerToken: 10}, "big", 7, 10, contracts.SizeS},
		"cut to blocks":   {job(nil), admission.Capacity{KVBytes: 100, KVPerToken: 10, KVBlock: 4}, "big", 5, 8, contracts.SizeS},
		"worker's length": {job(nil), admission.Capacity{ContextLength: 9}, "big", 6, 9, contracts.SizeS},
		"tokens":          {job(func(j *contracts.Job) { j.Prompt, j.Tokens = "", []int32{0, 99} }), admission.Capacity{}, "big", 16, 18, contracts.SizeS},
	} {
		d, err := admission.Decide(c.job, catalog(t), func(string) admission.Capacity { return c.capacity }, limits, admission.Draw{Now: now, Seed: 42})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		j := d.Admitted.Job
		if j.Model != c.model || *j.Params.MaxTokens != c.maxTokens || d.Admitted.KVTokens != c.kv || d.Size != c.size ||
			j.Class != contracts.P2 || *j.Params.Seed != 42 || j.Submitted != now.UnixMilli() || j.Prompt != "" || j.Messages != nil || j.Tokens != nil {
			t.Errorf("%s: admitted %+v, size %s", name, d.Admitted, d.Size)
		}
		var back contracts.Admitted
		if err := contracts.Decode(d.Data, &back); err != nil || back.KVTokens != c.kv {
			t.Errorf("%s: encoded %+v, %v", name, back, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change   func(*contracts.Job)
		capacity admission.Capacity
		code     contracts.Code
		param    string
		says     string
	}{
		"model":    {func(j *contracts.Job) { j.Model = "x" }, admission.Capacity{}, contracts.CodeModelNotFound, "model", "big, small"},
		"no token": {func(j *contracts.Job) { j.Prompt = " " }, admission.Capacity{}, contracts.CodeInvalidArgument, "prompt", "no token"},
		"template": {func(j *contracts.Job) {
			j.Kind, j.Prompt, j.Messages = "chat", "", []contracts.Message{{Role: "user", Content: "refuse"}}
		}, admission.Capacity{}, contracts.CodeInvalidArgument, "messages", "roles must alternate"},
		"bias":          {func(j *contracts.Job) { j.Params.LogitBias = map[string]float64{"100": 1} }, admission.Capacity{}, contracts.CodeInvalidArgument, "params.logit_bias", "0 to 99"},
		"token":         {func(j *contracts.Job) { j.Prompt, j.Tokens = "", []int32{100} }, admission.Capacity{}, contracts.CodeInvalidArgument, "tokens", "tokens[0] is 100"},
		"long":          {func(j *contracts.Job) { j.Model, j.Prompt = "small", strings.Repeat("w ", 20) }, admission.Capacity{}, contracts.CodeContextLengthExceeded, "prompt", "20 tokens and an answer needs at least 1, this model's maximum context length is 20 tokens (small)"},
		"far too long":  {func(j *contracts.Job) { j.Model, j.Prompt = "small", strings.Repeat("w ", 41) }, admission.Capacity{}, contracts.CodeContextLengthExceeded, "prompt", "more than 40 tokens"},
		"max_tokens":    {func(j *contracts.Job) { j.Params.MaxTokens = ptr(4998) }, admission.Capacity{}, contracts.CodeContextLengthExceeded, "params.max_tokens", "together 5001"},
		"memory":        {func(j *contracts.Job) { j.Params.MaxTokens = ptr(8) }, admission.Capacity{KVBytes: 100, KVPerToken: 10}, contracts.CodeContextLengthExceeded, "params.max_tokens", "110 bytes"},
		"prompt memory": {nil, admission.Capacity{KVBytes: 30, KVPerToken: 10}, contracts.CodeContextLengthExceeded, "params.max_tokens", "has 30"},
		"slots":         {func(j *contracts.Job) { j.Params.N = ptr(3) }, admission.Capacity{Slots: 2}, contracts.CodeInvalidArgument, "params.n", "runs 2"},
		"late":          {func(j *contracts.Job) { j.Deadline = now.UnixMilli() - 7 }, admission.Capacity{}, contracts.CodeDeadlineExceeded, "deadline", "7 ms"},
		"version":       {func(j *contracts.Job) { j.V, j.Model = 2, "x" }, admission.Capacity{}, contracts.CodeUnimplemented, "v", "newer"},
	} {
		_, err := admission.Decide(job(c.change), catalog(t), func(string) admission.Capacity { return c.capacity }, limits, admission.Draw{Now: now})
		var e *contracts.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Param != c.param || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %v (param %q), want %s of %q that says %q", name, err, e.Param, c.code, c.param, c.says)
		}
	}
	_, err := admission.Decide(job(nil), catalog(t), nobody, admission.Limits{TextMaxTokens: 1, MaxBytes: 50}, admission.Draw{Now: now})
	if contracts.CodeOf(err) != contracts.CodePayloadTooLarge {
		t.Errorf("too large for the broker: %v", err)
	}
}

// TestDecideProperties: whatever is admitted fits the context and the largest worker, is what was asked
// where something was asked, and the same request has the same digest whenever and however urgently it is
// made.
func TestDecideProperties(t *testing.T) {
	t.Parallel()
	c := catalog(t)
	rapid.Check(t, func(t *rapid.T) {
		j := job(func(j *contracts.Job) {
			j.Model = rapid.SampledFrom([]string{"big", "small"}).Draw(t, "model")
			j.Prompt = strings.Repeat("w ", rapid.IntRange(0, 30).Draw(t, "words"))
			if rapid.Bool().Draw(t, "explicit") {
				j.Params.MaxTokens = ptr(rapid.IntRange(1, 40).Draw(t, "max_tokens"))
			}
			if rapid.Bool().Draw(t, "choices") {
				j.Params.N = ptr(rapid.IntRange(1, 16).Draw(t, "n"))
			}
			j.Params.LogitBias = map[string]float64{"1": 1, "2": 2, "3": 3}
		})
		worker := admission.Capacity{KVBytes: rapid.Int64Range(0, 2000).Draw(t, "kv"), KVPerToken: 3, KVBlock: rapid.IntRange(0, 16).Draw(t, "block"), ContextLength: rapid.IntRange(0, 30).Draw(t, "context")}
		capacity := func(string) admission.Capacity { return worker }
		d, err := admission.Decide(j, c, capacity, limits, admission.Draw{Now: now})
		if err != nil {
			if code := contracts.CodeOf(err); code != contracts.CodeInvalidArgument && code != contracts.CodeContextLengthExceeded {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		a := d.Admitted
		m, _ := c.Find(j.Model)
		each := len(a.Tokens) + *a.Job.Params.MaxTokens
		if each > m.ContextLength || (worker.ContextLength > 0 && each > worker.ContextLength) || (worker.KVBytes > 0 && int64(*a.Job.Params.N)*held(worker, each) > worker.KVBytes) || a.KVTokens > d.Size.Tokens() || *a.Job.Params.MaxTokens < 1 {
			t.Fatalf("admitted %d tokens each, %d in all, worker %+v", each, a.KVTokens, worker)
		}
		if j.Params.MaxTokens != nil && *j.Params.MaxTokens != *a.Job.Params.MaxTokens {
			t.Fatalf("max_tokens %d became %d", *j.Params.MaxTokens, *a.Job.Params.MaxTokens)
		}
		again := *j
		again.Class, again.Deadline, again.Submitted, again.Labels = contracts.P0, now.UnixMilli()+5000, 1, map[string]string{"a": "b"}
		d2, err := admission.Decide(&again, c, nobody, limits, admission.Draw{Now: now.Add(time.Second), Seed: 9})
		if err != nil || d2.Admitted.Digest != a.Digest {
			t.Fatalf("the same request: %v, digest %s and %s", err, d2.Admitted.Digest, a.Digest)
		}
		again.Prompt += "more"
		if d3, err := admission.Decide(&again, c, nobody, limits, admission.Draw{Now: now}); err == nil && d3.Admitted.Digest == a.Digest {
			t.Fatal("another prompt has the same digest")
		}
	})
}

// The schema of a request's prompts is compiled once.
func TestSchemaOnce(t *testing.T) {
	c := catalog(t)
	decide := func(schema string) error {
		_, err := admission.Decide(job(func(j *contracts.Job) {
			if schema != "" {
				j.Params.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Schema: schema}}
			}
		}), c, nobody, limits, admission.Draw{Now: now})
		return err
	}
	most := testing.AllocsPerRun(20, func() { _ = decide("") }) + 20
	if got := testing.AllocsPerRun(20, func() { _ = decide(`{"properties":{"a":{"type":"integer"}}}`) }); got > most {
		t.Errorf("a job with a schema that was seen before takes %v allocations, want at most %v", got, most)
	}
	for range 2 {
		if err := decide(`{"not":{}}`); contracts.CodeOf(err) != contracts.CodeInvalidArgument {
			t.Errorf("a schema that is not served: %v", err)
		}
	}
}
