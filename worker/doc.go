// Package worker takes jobs, keeps them and answers them: one [Worker] serves one model on one engine.
//
// Steps 7 to 12 of the walk, in this order: worker/intake pulls as much as memory allows, worker/lease
// holds a job and fences others off, worker/resume reads what earlier holders wrote, worker/batch runs
// prefill and decode steps, worker/emit writes the records. This package strings them together: it
// refuses jobs that cannot run, listens for cancels and preemptions, sends heartbeats, keeps jobs that
// too many holders failed with as dead letters, and says the last word to the queue. Previous step:
// contracts/topology. Next step: runtime/engine.
//
// Invariants:
//  1. Nothing is pulled without a reservation of memory and a slot.
//  2. A job is acknowledged only after its final record was accepted; a fenced job never.
//  3. Memory and slot of a job are free before its final record is published.
//  4. A job ends in exactly one way: final record, handed back (NAK), or dropped silently (fenced).
//  5. A claimed job is handed back only after its release record was accepted; it says why.
//  6. A job with MaxFailures failures does not run: dead letter first, then the final record.
//
// The package never admits, orders or routes jobs; that is the dispatcher's.
package worker
