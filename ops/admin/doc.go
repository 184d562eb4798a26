// Package admin keeps a fleet's streams safe: copies of all of them in a folder, back again, and what to
// do when a server of the broker is lost.
//
// It belongs to no step of the walk; previous: ops/cli, next: contracts/topology and the broker's own
// snapshots. It never runs inside a fleet, and needs the rights of the provisioner.
//
// # What a backup is
//
// The broker copies one stream at a time, message by message with its checksums, and each consumer with
// what it has delivered. Each copy is one moment of its stream; the copies of several streams are not the
// same moment. They are taken in an order (SCHED, JOBS, DLQ, OUT, then the others by name) that makes up
// for it, because a job's message leaves a stream only after what follows it is in the next:
//
//  1. A job that was admitted before the backup began is in it: waiting, running or ended. After a restore
//     it has exactly one final record. One that was running goes on at the next token after those that
//     were copied; readers that were further see these tokens again, the same ones.
//  2. A job that was admitted while the backup ran is in it if it waited or was done by then. Otherwise the
//     copies hold records of it and no job; Restore removes these, so that its producer may submit it
//     again under the same id.
//  3. A dead letter that is retried while the backup runs may be lost with its retry; do not retry meanwhile.
//
// Not in it: credentials and keys, API keys, models, what core NATS carries (heartbeats, live records).
package admin
