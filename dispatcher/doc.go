// Package dispatcher decides what runs and when, never how: it takes jobs in, admits or refuses them,
// puts the admitted ones into JetStream, and brings their streams back to those who read them.
//
// Steps 3 to 5 and 13 of the walk. Previous step: contracts/client puts a job on submit.<tenant>, or
// dispatcher/gateway takes it over HTTP. Then intake.go → submit.go → dispatcher/guard → dispatcher/admission →
// dispatcher/backlog → publish.go. Next step: contracts/topology, where JetStream holds the job until a worker pulls it. On
// the way back dispatcher/relay merges the records that workers wrote.
//
// Beside the walk: a job with not_before waits in SCHED first (schedule.go), and so does one that is not
// due among others (hold.go; dispatcher/backlog says whose turn it is); a job that no worker ends
// is ended here (final.go, cancel.go, and deadlines with dispatcher/agenda); the jobs of a dead worker
// go back to the queue (handover.go), less urgent ones give way (preempt.go), those that were given up
// are kept (dead.go). Operators pause queues and let them drain (queues.go). dispatcher/gate bounds what is inside at once, dispatcher/room what waits in SCHED.
//
// A dispatcher keeps no state that another one could not read from the streams, so any number of them
// can run, and each answers for every job: a job is queued while only JOBS holds it, running once OUT
// has a record of it, and over when the last record is final. What is refused is refused before it is
// published; what is admitted ends in exactly one final record, because every writer of OUT expects
// the sequence of the record before.
//
// The package never loads a model, never runs one and never picks the worker. All methods of
// [Dispatcher] are safe for concurrent use.
package dispatcher
