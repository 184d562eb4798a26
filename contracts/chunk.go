package contracts

// Finish reasons of a [Chunk].
const (
	FinishStop      = "stop"      // an end token or a stop string
	FinishLength    = "length"    // max_tokens or the context length
	FinishCancelled = "cancelled" // with CodeCanceled
	FinishError     = "error"     // with the Code and Message that say why
)

// Chunk is one record of a job's stream, on out.<tenant>.<job> and, republished, on live.<tenant>.<job>.
//
// Three kinds of records appear, told apart by what they hold:
//   - a claim (Claim set, Usage nil): a worker took the job, or gave it back; readers skip it;
//   - a piece (Tokens or Text, or the Finish of one of several choices);
//   - the final record (Usage set), exactly one and the last, even for a job that failed.
//
// Invariants of a stream: Fence never falls; for each choice, Index of a piece is the count of that
// choice's tokens before it, from 0 without gap or repeat; the final record's Index is the count of
// tokens of choice 0. Text is always whole UTF-8 characters; text that a stop string may still cut is
// held back, so a piece can carry tokens and no text.
type Chunk struct {
	V        int            `msgpack:"v" json:"v"`
	Job      string         `msgpack:"job" json:"job"`
	Fence    uint64         `msgpack:"fence" json:"fence"`                       // grows with each new holder of the job
	Index    int            `msgpack:"index" json:"index"`                       // first token's offset in its choice
	Choice   int            `msgpack:"choice,omitempty" json:"choice,omitempty"` // 0 to n-1
	Tokens   []int32        `msgpack:"tokens,omitempty" json:"tokens,omitempty"`
	Text     string         `msgpack:"text,omitempty" json:"text,omitempty"`
	Logprobs []TokenLogprob `msgpack:"logprobs,omitempty" json:"logprobs,omitempty"` // one for each of Tokens
	Outputs  []Tensor       `msgpack:"outputs,omitempty" json:"outputs,omitempty"`   // in the final record of an embed or tensor job
	Finish   string         `msgpack:"finish,omitempty" json:"finish,omitempty"`
	Usage    *Usage         `msgpack:"usage,omitempty" json:"usage,omitempty"`
	Timings  *Timings       `msgpack:"timings,omitempty" json:"timings,omitempty"`
	Code     Code           `msgpack:"code,omitempty" json:"code,omitempty"`
	Message  string         `msgpack:"message,omitempty" json:"message,omitempty"`
	Checksum string         `msgpack:"checksum,omitempty" json:"checksum,omitempty"` // of the whole stream, in the final record; contracts/stream computes it
	Claim    *Claim         `msgpack:"claim,omitempty" json:"claim,omitempty"`       // in claims and in the final record
}

// Final tells whether c ends the job's stream.
func (c *Chunk) Final() bool { return c.Usage != nil }

// IsClaim tells whether c only says that a worker took the job.
func (c *Chunk) IsClaim() bool { return c.Claim != nil && c.Usage == nil }

// Err is the job's failure as an [*Error], nil for pieces, claims and good ends.
func (c *Chunk) Err() error {
	if c.Code == "" {
		return nil
	}
	return &Error{Code: c.Code, Message: c.Message}
}

// Release is why a holder gave its job back before the end.
type Release string

// The reasons. A holder that says nothing and is followed by another one has failed.
const (
	ReleaseDrain   Release = "drain"   // the worker stops
	ReleasePreempt Release = "preempt" // a more urgent job takes its place
	ReleaseUnfit   Release = "unfit"   // the job needs more memory, a longer context or a later version than the worker has; another may have it
	ReleaseFailed  Release = "failed"  // it could not go on: counts as a failure
	ReleaseLost    Release = "lost"    // the worker fell silent, and the dispatcher says so: counts as a failure
)

// Claim says who runs a job, and the facts of the job that outlive its message in the queue.
type Claim struct {
	Worker string `msgpack:"worker,omitempty" json:"worker,omitempty"`
	// Released is set in the record by which the holder gives the job back.
	Released  Release `msgpack:"released,omitempty" json:"released,omitempty"`
	Failures  int     `msgpack:"failures,omitempty" json:"failures,omitempty"`   // holders that failed before, over all attempts
	Preempted int     `msgpack:"preempted,omitempty" json:"preempted,omitempty"` // how often the job gave way
	Attempt   int     `msgpack:"attempt" json:"attempt"`                         // delivery count, from 1; 0 when no worker ever had it
	Model     string  `msgpack:"model" json:"model"`
	Class     Class   `msgpack:"class" json:"class"`
	Submitted int64   `msgpack:"submitted" json:"submitted"` // Unix milliseconds
	Digest    string  `msgpack:"digest,omitempty" json:"digest,omitempty"`
}

// Usage counts tokens. An end token is not counted.
type Usage struct {
	PromptTokens     int `msgpack:"prompt_tokens" json:"prompt_tokens"`
	CompletionTokens int `msgpack:"completion_tokens" json:"completion_tokens"`
	TotalTokens      int `msgpack:"total_tokens" json:"total_tokens"`
	CachedTokens     int `msgpack:"cached_tokens,omitempty" json:"cached_tokens,omitempty"` // of the prompt: computed before, for another sequence
}

// Timings of a job in milliseconds, measured by the worker that finished it.
type Timings struct {
	Queued     float64 `msgpack:"queued" json:"queued"`           // submitted -> claimed
	Prefill    float64 `msgpack:"prefill" json:"prefill"`         // claimed -> prompt processed
	Decode     float64 `msgpack:"decode" json:"decode"`           // prompt processed -> last token
	FirstToken float64 `msgpack:"first_token" json:"first_token"` // submitted -> first token
}

// TokenLogprob is the log-probability of one generated token and of its rivals, natural logarithm of
// the model's own distribution before temperature and penalties.
type TokenLogprob struct {
	Token   int32   `msgpack:"token" json:"token"`
	Logprob float32 `msgpack:"logprob" json:"logprob"`
	// Bytes are the token's bytes: not always whole UTF-8 characters.
	Bytes []byte         `msgpack:"bytes" json:"bytes"`
	Top   []TokenLogprob `msgpack:"top,omitempty" json:"top,omitempty"` // most likely first
}

// Outcome is the closed set of what becomes of a job; it is also the metrics label.
type Outcome string

// The outcomes.
const (
	OutcomeAdmitted  Outcome = "admitted"
	OutcomeHeld      Outcome = "held"     // waits durably for its turn
	OutcomeRejected  Outcome = "rejected" // the caller's fault or quota
	OutcomeShed      Outcome = "shed"     // overload
	OutcomeEvicted   Outcome = "evicted"  // after queueing
	OutcomeExpired   Outcome = "expired"
	OutcomeCanceled  Outcome = "canceled"
	OutcomeCompleted Outcome = "completed"
	OutcomeFailed    Outcome = "failed"
)

// Answer is the reply to a submit. Live names the subject on which the stream appears.
type Answer struct {
	V            int     `msgpack:"v" json:"v"`
	Job          string  `msgpack:"job,omitempty" json:"job,omitempty"`
	Outcome      Outcome `msgpack:"outcome" json:"outcome"`
	Code         Code    `msgpack:"code,omitempty" json:"code,omitempty"`
	Message      string  `msgpack:"message,omitempty" json:"message,omitempty"`
	Param        string  `msgpack:"param,omitempty" json:"param,omitempty"`
	RetryAfterMS int64   `msgpack:"retry_after_ms,omitempty" json:"retry_after_ms,omitempty"`
	NoRetry      bool    `msgpack:"no_retry,omitempty" json:"no_retry,omitempty"` // too many of the tenant's requests are repeats: do not try again
	Position     int     `msgpack:"position,omitempty" json:"position,omitempty"` // jobs of the same or a higher class ahead
	TTFTMS       int64   `msgpack:"ttft_ms,omitempty" json:"ttft_ms,omitempty"`   // until the first token, as predicted
	ETAMS        int64   `msgpack:"eta_ms,omitempty" json:"eta_ms,omitempty"`     // until the last token, as predicted
	Live         string  `msgpack:"live,omitempty" json:"live,omitempty"`
	Attached     bool    `msgpack:"attached,omitempty" json:"attached,omitempty"` // to a job that was there before
}

// OutcomeOf is the outcome of a submit that is refused with a code: shed may be taken later, as it is.
func OutcomeOf(refused Code) Outcome {
	if refused == CodeOverloaded || refused == CodeUnavailable {
		return OutcomeShed
	}
	return OutcomeRejected
}

// Err is the refusal in a as an [*Error], nil when the job was taken.
func (a *Answer) Err() error {
	if a.Code == "" {
		return nil
	}
	return &Error{Code: a.Code, Message: a.Message, Param: a.Param, RetryAfterMS: a.RetryAfterMS, NoRetry: a.NoRetry}
}
