// Package priority decides whose job goes into JOBS next.
//
// Step 5 of the walk: dispatcher/admission said that a job may wait, dispatcher/publish.go puts it into
// JOBS when its turn has come. JOBS stays shallow: in each class only so much work is inside (in JOBS, or
// at a worker that has not written its first token yet) as the workers start within moments. What is
// beyond is held: durably in SCHED, and here by tenant. So what was published long ago cannot stand before
// what is urgent, and a tenant that sends much waits behind its own jobs only.
//
// The rules of a [Queue]:
//
//  1. A more urgent class is asked first, but each class has its own bound, so none is kept out by others:
//     from JOBS on, the workers' own ageing rules bound how long it is passed over.
//  2. Within a class the tenant goes next that has had the fewest tokens for its weight (virtual token
//     counters: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024). A tenant that comes
//     back is not paid for the time that it was away.
//  3. Within a tenant first come, first served.
//
// Thus between tenants that always have jobs waiting, tokens divided by weight never differ by more than
// the tokens of the largest job divided by the smaller weight, and a tenant waits for at most one job of
// each other tenant more than its share says.
//
// Pure bookkeeping: no clock, no I/O. A Queue is not safe for concurrent use.
package priority
