// Package contracts is what producers, dispatchers and workers say to each other, and nothing else:
// the [Job] that a producer submits, the [Answer] it gets, the [Admitted] job that waits in JetStream,
// the [Chunk] records that stream back, the [Heartbeat] of a worker, and the closed set of error codes.
//
// Step 1 of the walk: a Job is made here. Next step: contracts/client puts it on a subject
// (contracts/subject spells the subjects, contracts/topology the streams that hold them).
//
// Values travel as msgpack maps with the string keys of the struct tags; the same keys are used in
// JSON. Unknown keys are ignored, a higher version is refused with [CodeUnimplemented]. All types are
// plain data without hidden state: safe to share between goroutines as long as nobody writes.
// The package never talks to a network.
package contracts
