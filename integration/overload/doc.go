// Package overload measures what the fleet does when more comes than it can do: goodput, how many of each
// class are served in time, wasted work, refusals and recovery, side by side with a queue that takes
// everything (make bench-overload).
//
// It stands outside the walk. Broker, dispatcher and workers are real, the devices are simulated, and so
// their speed is known and the whole fits two cores.
package overload
