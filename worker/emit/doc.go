// Package emit turns the tokens of a job into the records of its stream.
//
// Previous steps of the walk: runtime/sampler and runtime/tokenizer. Next step: the subject
// out.<tenant>.<job>, read by contracts/client or dispatcher/relay.
//
// A [Writer] is one job's sink: the batch loop hands it tokens and never waits; a goroutine of the
// job's own turns them into text, watches for stop strings, and appends records, one at a time. While
// a record is on its way, tokens gather and ride in the next one; the first token of a choice goes at
// once. Text, stop and indices are pure functions of the token list, so that a job that another worker
// began goes on exactly where the stream ends.
//
// Invariants:
//  1. Each choice's indices have no gap and no repeat; a record's text is that of exactly its tokens.
//  2. Nothing of a choice follows the token that completed a stop string.
//  3. The final record is a record of its own, written last, after the engine gave all memory back.
//
// Buffers are bounded by the job's max_tokens times n. The package talks to the broker only through
// [Log] and knows nothing of queues.
package emit
