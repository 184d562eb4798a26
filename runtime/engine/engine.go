// Package engine is the seam between the worker's batch loop and whatever runs a model.
//
// Previous step of the walk: worker/batch, which decides what each step contains.
// Next step: runtime/onnx (a real model) or runtime/sim (a modelled device), then runtime/sampler.
//
// The package holds the contract and nothing else: no goroutine, no I/O, standard library only.
// An [Engine] is driven by one goroutine; only Info and Memory may be called from others.
package engine

import (
	"context"
	"errors"
)

// Errors that an engine returns; everything else is a fault of the device.
var (
	// ErrNoMemory: Open would exceed the KV budget. The caller waits for a Close of another sequence.
	ErrNoMemory = errors.New("kv budget exhausted")
	// ErrTooLong: a row would run past the length given to Open or past Info.ContextLength.
	ErrTooLong = errors.New("sequence longer than its reservation")
	// ErrUnknownSequence: the handle was never opened or is closed.
	ErrUnknownSequence = errors.New("unknown sequence")
	// ErrBadToken: a token id outside [0, Info.Vocab).
	ErrBadToken = errors.New("token id outside the vocabulary")
)

// Seq is the handle of one sequence inside an engine. Handles are not reused while the engine lives.
type Seq uint64

// Info says what an engine runs and what it costs. It never changes while the engine lives.
type Info struct {
	Model   string // model name, as producers know it
	Variant string // quantization of it, for example "q8"
	Backend string // "onnx" or "sim"
	Device  string // "cpu", "cuda:0", "sim:h100"

	Vocab         int // token ids are in [0, Vocab)
	ContextLength int // most tokens (prompt + generated) a sequence can hold

	KVBytesPerToken int64 // bytes of KV cache one token takes, before rounding to blocks
	BlockTokens     int   // KV is given out in blocks of this many tokens
	MaxSequences    int   // most sequences open at once
	MaxStepTokens   int   // most tokens of one prefill row in a step; at least 2

	// MinPrefill is the fewest tokens a prefill row may carry unless the whole prompt is shorter. It is 1
	// where the result does not depend on how any token is fed, a generated one or one of the prompt. On
	// kernels where a row of one token takes another code path than a longer one, it is 2, and only generated
	// tokens may be fed one at a time: otherwise the result would depend on how the prompt was cut.
	MinPrefill int

	// Drafts is how many guessed tokens (Row.Draft) a lone token may bring along for hardly more time: one more than
	// that, of whatever rows, are computed at once. A step has at most so many over all its rows. Where it is not 0, the
	// engine is a [Drafter], and MinPrefill is 1.
	Drafts int

	// Varies: the last bits of the logits depend on more than the tokens, namely on the other rows of a step and on how
	// prompts are cut, as on GPUs, whose kernels add up in an order that the size of the whole call decides.
	Varies bool

	// Fingerprint names everything that the bits of the logits depend on: weights, library version,
	// kernel class. Two engines with equal fingerprints continue each other's sequences bit for bit,
	// unless they vary.
	Fingerprint string
}

// KVBytes is the KV memory that a sequence of n tokens takes, rounded up to blocks.
func (i Info) KVBytes(n int) int64 {
	if i.BlockTokens > 1 {
		n = (n + i.BlockTokens - 1) / i.BlockTokens * i.BlockTokens
	}
	return int64(n) * i.KVBytesPerToken
}

// Row is one sequence's share of a step: a prefill chunk (several tokens) or a decode row (one).
type Row struct {
	Seq    Seq
	Tokens []int32 // appended to the sequence's KV cache; not empty; the engine does not keep it
	Sample bool    // whether Logits of the last token are wanted
	Draft  []int32 // tokens that are guessed to follow, appended too, if Sample is set; see [Drafter]

	// Likeliest says that, when Sample is set and there is no Draft, the likeliest token is enough, of equal ones the
	// lowest id. An engine that finds it by itself sets Token and leaves Logits nil.
	Likeliest bool
	Token     int32

	// Logits has Info.Vocab values when Sample was set and Err is nil (but see Likeliest), fewer where no later token is
	// possible, and as many more for each token of Draft: what follows that. It belongs to the engine and
	// is valid until the next Step; the caller may overwrite it (samplers do).
	Logits []float32
	// Err is this row's failure; other rows are not affected by it.
	Err error
}

// Engine runs one model on one device.
//
// Invariants, checked by package enginetest:
//  1. A sequence's logits do not depend on the other rows of its steps.
//  2. They do not depend on how its prompt was cut into rows of at least Info.MinPrefill tokens; if that
//     is 1, they depend on the tokens alone. Where Info.Varies, both hold but for rounding.
//  3. Open never takes more KV memory than the budget; Close gives all of it back.
type Engine interface {
	// Info describes the engine; safe from any goroutine.
	Info() Info
	// Open reserves KV memory for a sequence of at most tokens tokens. It returns ErrNoMemory when
	// the budget does not allow it now and ErrTooLong when it never will.
	Open(tokens int) (Seq, error)
	// Close gives the sequence's memory back. Closing an unknown handle does nothing.
	Close(s Seq)
	// Step runs one forward pass over rows, at most one row for each sequence. The returned error
	// means that the step as a whole did not run (canceled context, dead device) and that all its
	// rows are in an unknown state; the failure of one row is in Row.Err. A canceled context stops a
	// running step within milliseconds where the device can.
	Step(ctx context.Context, rows []*Row) error
	// Memory says what the engine holds now; safe from any goroutine.
	Memory() Memory
	// Shutdown releases everything. The engine is unusable afterwards.
	Shutdown() error
}

// Sharer is an engine that takes over what it has computed for a running sequence into another one that
// begins with the same tokens. Engines whose Info.MinPrefill is 1 may be.
type Sharer interface {
	// Share gives s, which holds the beginning of prompt, the longest beginning of it that another
	// sequence of the same scope, open or kept, holds, short of its last token, or a part of that: a later call may add
	// to it. It returns how many tokens s holds now.
	// From then on s is shared with others of the scope itself; an empty scope shares nothing.
	Share(s Seq, scope string, prompt []int32) int
	// Keep allows the engine to keep so many bytes of closed sequences for Share; at first it may keep none.
	// What is more than that has been given back when Keep returns. Safe from any goroutine.
	Keep(bytes int64)
}

// Drafter is an engine that reads tokens which are only guessed: one step then tells several tokens, if the
// guess was right. By invariant 2 they are the same, bit for bit, as one after the other.
type Drafter interface {
	// Forget takes the last n tokens of a sequence back, those of a draft that were wrong.
	Forget(s Seq, n int)
}

// Memory is an engine's account of its KV cache, in bytes.
type Memory struct {
	Budget   int64 // bytes that open sequences may reserve together
	Reserved int64 // bytes reserved by open sequences
	Used     int64 // bytes that hold tokens
	Kept     int64 // bytes of closed sequences that are kept for a Sharer, beside what is reserved
}
