// Package intake takes jobs out of the queue: exactly as many as fit into this worker's memory, in the
// order of their urgency.
//
// Previous step of the walk: contracts/topology, the streams where admitted jobs wait, one consumer
// (here: a line) for each class and size. Next step: worker/lease.
//
// Memory comes first: an [Intake] reserves KV bytes and a slot for a size class, and only then asks
// that line for one job, with a request that returns at once. What it gets is cut down to what the job
// needs. No request is ever parked at the broker, so nothing arrives that has no room or that is less
// urgent than what came meanwhile. Instead of polling, an idle worker listens to the bell of its model
// as long as it has room; in case a ring was missed, a dispatcher rings for all lines once a second, and a
// worker asks them every ten seconds unasked. An [Asker] keeps the number of pulls near one a job.
//
// Where several models share memory, free may mean: once this model is loaded, or an idle one unloaded.
// Then nothing can be reserved yet, and the intake only looks whether a job waits; if one does, it says
// so and pulls when there is room.
//
// Nor does a worker take prompts that it could only put in a queue of its own: while as many prompt tokens
// wait as fill [Room.Bound], it takes nothing, so that the queue stays in the broker, where the next worker
// with time, or the next urgent job, is first.
//
// Which line to ask next is decided by [Lines], which is pure. Its rules:
//
//  1. Order: p0 before p1 before p2 before p3; within a class small before large.
//  2. Hold: when a job waits in the most urgent line and does not fit, no later line is asked until it
//     does. What was freed is kept for it; it starts at the latest when all that ran before has ended.
//  3. Age: each time a job is taken, every other line that may hold one is passed over once. After
//     [Patience] of its class a line is due: it goes first if its job fits, and otherwise its own and
//     less urgent classes hold for it. After four times that it is overdue: everything holds for it.
//     So no line is passed over more than 4*Patience + 16 times, and an urgent job waits behind at
//     most one less urgent one at a time.
//
// Room and Reservation are safe from any goroutine, Lines belongs to one.
package intake
