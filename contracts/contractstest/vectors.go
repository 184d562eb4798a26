package contractstest

import (
	"github.com/pelton-run/pelton/contracts"
)

// Vector is a golden value of the wire format: contracts/testdata/<Name>.msgpack holds its bytes and
// <Name>.json the same thing as readable text, with the same keys and byte strings in base64.
type Vector struct {
	Name  string
	Value any        // a pointer to one of the types of package contracts
	New   func() any // a new zero value of the same type
}

func vector[T any](name string, v T) Vector {
	return Vector{name, &v, func() any { return new(T) }}
}

const (
	vectorJob  = "01977f3e-8c2a-7b54-9d1e-3f0a5c6b7d8e"
	vectorTime = 1_767_225_600_000 // 2026-01-01T00:00:00Z
)

// Vectors are the golden values: at least one of each type and one that uses every key. Their
// fractions are exact in binary, so that every language prints them alike.
func Vectors() []Vector {
	claim := &contracts.Claim{Worker: "w-1", Attempt: 2, Model: "smollm2", Class: contracts.P1, Submitted: vectorTime, Digest: "9f86d081"}
	usage := &contracts.Usage{PromptTokens: 12, CompletionTokens: 300, TotalTokens: 312, CachedTokens: 8}
	timings := &contracts.Timings{Queued: 1.5, Prefill: 20.25, Decode: 1000, FirstToken: 22.75}
	return append([]Vector{
		vector("job_chat", contracts.Job{
			V: 1, ID: vectorJob, Tenant: "default", Model: "smollm2", Kind: contracts.KindChat,
			Messages: []contracts.Message{{Role: "user", Content: "why is the sky blue?"}},
		}),
		vector("job_text", contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "smollm2", Kind: contracts.KindText, Prompt: "once upon a time"}),
		vector("job_text_tokens", contracts.Job{V: 1, ID: "any key", Tenant: "team.a", Model: "smollm2:q8", Kind: contracts.KindText, Tokens: []int32{0, 127, 128, 32768, 49151, 2147483647}}),
		vector("job_full", fullJob()),
		vector("admitted", contracts.Admitted{
			V: 1, Job: contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "smollm2", Kind: contracts.KindText, Class: contracts.P2, Params: contracts.Params{MaxTokens: new(16), Seed: new(int64(7)), N: new(1)}, Submitted: vectorTime},
			Tokens: []int32{504, 6330, 314, 260, 6376}, KVTokens: 21, Digest: "9f86d081",
		}),
		vector("answer_admitted", contracts.Answer{V: 1, Job: vectorJob, Outcome: contracts.OutcomeAdmitted, Position: 3, TTFTMS: 150, ETAMS: 1200, Live: "live.default." + vectorJob}),
		vector("answer_attached", contracts.Answer{V: 1, Job: vectorJob, Outcome: contracts.OutcomeAdmitted, Live: "live.default." + vectorJob, Attached: true}),
		vector("answer_shed", contracts.Answer{V: 1, Job: vectorJob, Outcome: contracts.OutcomeShed, Code: contracts.CodeOverloaded, Message: "the queue is full: retry after the time given", RetryAfterMS: 2500, NoRetry: true}),
		vector("answer_rejected", contracts.Answer{V: 1, Outcome: contracts.OutcomeRejected, Code: contracts.CodeInvalidArgument, Message: "temperature is 9, it must be from 0 to 2", Param: "params.temperature"}),
		vector("chunk_claim", contracts.Chunk{V: 1, Job: vectorJob, Fence: 2, Index: 4, Claim: claim}),
		vector("chunk_release", contracts.Chunk{V: 1, Job: vectorJob, Fence: 2, Index: 4, Claim: &contracts.Claim{
			Worker: "w-1", Released: contracts.ReleasePreempt, Failures: 1, Preempted: 2, Attempt: 2, Model: "smollm2", Class: contracts.P1, Submitted: vectorTime, Digest: "9f86d081",
		}}),
		vector("chunk_piece", contracts.Chunk{V: 1, Job: vectorJob, Fence: 2, Index: 4, Tokens: []int32{523, 49000}, Text: " the 空"}),
		vector("chunk_logprobs", contracts.Chunk{
			V: 1, Job: vectorJob, Fence: 9007199254740991, Index: 70000, Choice: 1, Tokens: []int32{220}, Finish: contracts.FinishLength,
			Logprobs: []contracts.TokenLogprob{{Token: 220, Logprob: -0.5, Bytes: []byte{0xe7, 0xa9}, Top: []contracts.TokenLogprob{{Token: 220, Logprob: -0.5, Bytes: []byte{0xe7, 0xa9}}, {Token: 0, Logprob: -2.25, Bytes: []byte("<|endoftext|>")}}}},
		}),
		vector("chunk_final", contracts.Chunk{V: 1, Job: vectorJob, Fence: 2, Index: 300, Text: "!", Finish: contracts.FinishStop, Usage: usage, Timings: timings, Checksum: "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c", Claim: claim}),
		vector("chunk_failed", contracts.Chunk{
			V: 1, Job: vectorJob, Fence: 3, Index: 6, Finish: contracts.FinishError, Usage: &contracts.Usage{PromptTokens: 12, CompletionTokens: 6, TotalTokens: 18},
			Code: contracts.CodeDeadlineExceeded, Message: "the deadline passed after 6 tokens", Claim: claim,
		}),
	}, append(tensorVectors(claim, timings), statusVectors(claim, usage, timings)...)...)
}

func tensorVectors(claim *contracts.Claim, timings *contracts.Timings) []Vector {
	image := contracts.Tensor{Name: "image", Type: contracts.Uint8, Shape: []int64{1, 2, 3}, Data: []byte{0, 1, 127, 128, 254, 255}}
	vectors := contracts.Tensor{Name: contracts.Embedding, Type: contracts.Float32, Shape: []int64{2, 2}, Data: []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0xbf}}
	embed := contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "minilm", Kind: contracts.KindEmbed, Input: []string{"a text", "水 🙂"}, Truncate: true}
	format := &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Name: "yes_or_no", Schema: `{"type":"boolean"}`}}
	return []Vector{
		vector("job_schema", contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "smollm2", Kind: contracts.KindText, Prompt: "Is water wet?", Params: contracts.Params{ResponseFormat: format}}),
		vector("job_embed", embed),
		vector("job_embed_rows", contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "minilm", Kind: contracts.KindEmbed, Rows: [][]int32{{101, 7592, 102}, {101, 102}}}),
		vector("job_tensor", contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "digits", Kind: contracts.KindTensor, Tensors: []contracts.Tensor{image}, Outputs: []string{"label"}}),
		vector("admitted_embed", contracts.Admitted{
			V: 1, Job: contracts.Job{V: 1, ID: vectorJob, Tenant: "default", Model: "minilm", Kind: contracts.KindEmbed, Class: contracts.P2, Submitted: vectorTime},
			Tokens: []int32{}, KVTokens: 5, Digest: "9f86d081", Rows: [][]int32{{101, 7592, 102}, {101, 102}},
		}),
		vector("chunk_outputs", contracts.Chunk{
			V: 1, Job: vectorJob, Fence: 1, Outputs: []contracts.Tensor{vectors}, Finish: contracts.FinishStop, Usage: &contracts.Usage{PromptTokens: 5, TotalTokens: 5}, Timings: timings,
			Checksum: "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c", Claim: claim,
		}),
	}
}

func fullJob() contracts.Job {
	return contracts.Job{
		V: 1, ID: vectorJob, Tenant: "team a", Model: "smollm2", Kind: contracts.KindChat, Class: contracts.P0, Deadline: vectorTime + 2000, NotBefore: vectorTime + 1000, Submitted: vectorTime,
		Messages: []contracts.Message{{Role: "system", Content: ""}, {Role: "user", Content: "<|im_start|> is text here\x00\n水 🙂", Name: "Ann"}},
		Params: contracts.Params{
			MaxTokens: new(300), Temperature: new(0.5), TopP: new(0.75), TopK: new(40), MinP: new(0.0625), Seed: new(int64(-9007199254740991)), Stop: []string{"\n\n", "END"}, N: new(2),
			RepetitionPenalty: new(1.25), PresencePenalty: new(-1.5), FrequencyPenalty: new(2.0), LogitBias: contracts.LogitBias{"7": -100, "11": 0.5}, Logprobs: new(0),
			IgnoreEOS: true, ResponseFormat: &contracts.ResponseFormat{Type: contracts.FormatText},
		},
		Labels: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "é": ""}, CancelOnLeave: true,
	}
}

func statusVectors(claim *contracts.Claim, usage *contracts.Usage, timings *contracts.Timings) []Vector {
	return []Vector{
		vector("status_queued", contracts.Status{Job: vectorJob, State: contracts.StateQueued, Class: contracts.P3, Model: "smollm2", Tenant: "default", Submitted: vectorTime}),
		vector("status_completed", contracts.Status{
			Job: vectorJob, State: contracts.StateCompleted, Class: contracts.P1, Model: "smollm2", Tenant: "default", Submitted: vectorTime,
			Worker: claim.Worker, Attempt: claim.Attempt, Finish: contracts.FinishStop, Usage: usage, Timings: timings,
		}),
		vector("status_failed", contracts.Status{Job: vectorJob, State: contracts.StateFailed, Tenant: "default", Finish: contracts.FinishError, Usage: &contracts.Usage{}, Code: contracts.CodeInternal, Message: "gave up after 4 attempts"}),
		vector("heartbeat", contracts.Heartbeat{
			V: 1, Worker: "w-1", State: contracts.WorkerReady, Sent: vectorTime + 500, Started: vectorTime, Model: "smollm2", Variant: "q8", Backend: "onnx", Device: "cpu", Fingerprint: "3b1e", ContextLength: 8192,
			KV: contracts.KVMemory{Total: 1 << 33, Reserved: 1 << 20, Used: 4096, PerToken: 23040, Block: 16}, Slots: 64, Asleep: true,
			Jobs:  []contracts.RunningJob{{Job: vectorJob, Tenant: "default", Class: contracts.P0, Index: 17, Started: vectorTime + 100, KV: 23592960, Slots: 1, Yields: true}},
			Stats: contracts.WorkerStats{JobsDone: 1, JobsFailed: 2, PromptTokens: 3, OutputTokens: 4, StepMS: 12.5, FlushMS: 25, Batch: 3.75, ResidentBytes: 1 << 31},
			Steps: &contracts.StepSums{Budget: 512, N: 2, P: 3, R: 4, T: 12.5, PP: 5, PR: 6, RR: 7, PT: 8, RT: 9, TT: 10},
		}),
	}
}
