// Package backlog keeps count of what waits in the fleet, and what it costs.
//
// Steps 4 and 5 of the walk: dispatcher/submit.go asks it what becomes of a job that could run,
// dispatcher/hold.go whose turn it is. It holds together dispatcher/priority (who waits),
// dispatcher/cost (how fast the workers are, how long answers get) and dispatcher/admission's verdict, and
// learns from what really happened: how far its predictions were off goes into the next ones.
//
// It never talks to the broker and knows the time only as an argument. A [Backlog] is safe for concurrent
// use; what it remembers is bounded by the sizes of JOBS and SCHED.
package backlog
