// Package admission decides whether a job may enter the queue, and as what.
//
// Step 4 of the walk: dispatcher/submit.go hands it a job that was decoded, and dispatcher/publish.go
// publishes what it admitted. It validates the job, renders its prompt to token ids and counts them
// exactly, fills every default in, computes the KV cache that the job needs, and refuses what can
// never run: each refusal is a [contracts.Error] that says which parameter, which numbers and what to
// do.
//
// Pure: no network, no clock, no random source, no goroutine; time and seed are arguments. It never
// publishes and knows nothing of queues. A [Catalog] remembers which schemas of answers are usable; [Decide] is safe
// for concurrent use as far as the tokenizers are.
package admission
