// Package simulate is a fleet under a virtual clock: thousands of workers on one core, for capacity
// planning and for experiments that would take hours.
//
// Nothing here decides what the fleet decides. Admission, backlog, turns, priorities, quotas and costs are
// dispatcher/admission, dispatcher/backlog and what they stand on; the view of the workers, the jobs of dead
// ones and who gives way are dispatcher/fleet; what a worker asks for and reserves is worker/intake, what a
// step contains worker/batch; what a step takes is runtime/sim. This package stands in for what lies
// between them: the streams of the broker, the bell, the heartbeats, and the time on the way ([Path]).
//
// Previous step: ops/cli (simulate). Next step: ops/loadgen, which makes the plan and the report as for a
// real run. One goroutine, no clock, no network; the same [Config] gives the same result, bit for bit.
package simulate
