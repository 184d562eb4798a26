// Package lease holds a job: it keeps the delivery alive, takes the fence, and notices when another
// worker has it.
//
// Previous step of the walk: worker/intake, which pulled the message. Next step: worker/batch. What
// earlier holders wrote is read by worker/resume; worker/emit appends to the [Chain] made here.
//
// JetStream's acknowledgements are not fenced: a worker that lost its job could still acknowledge it.
// The fence is the job's own subject in the stream OUT: each record says which record it follows, so
// that a claim by another worker makes every later record of ours fail.
//
// Invariants:
//  1. At most one record of a chain is in flight; the next one names its sequence.
//  2. A timeout is never answered by a blind resend: the last record is read first.
//  3. After [ErrFenced] nothing is written, acknowledged or kept alive.
//  4. A job is acknowledged only after its final record was accepted.
//
// A [Lease] is safe from any goroutine, a Chain belongs to one at a time.
package lease
