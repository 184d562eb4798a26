// Package loadgen offers load to a fleet, or to any OpenAI endpoint, and reports what came back.
//
// A [Plan] is drawn before the run from a seed: who sends what, and when. [Run] keeps to it: in the
// open loop no request waits for the answer to another, and latencies count from the planned time, so
// that a server that stalls cannot slow the questions down and look good (coordinated omission). A
// [Target] carries one request; [Reduce] turns samples into a [Report]; [Report.WriteJSON] and
// [Report.WriteHTML] show it.
//
// Previous step: ops/cli (bench and replay). Next step: contracts/client or the HTTP door, as any
// producer. Plans and reports are pure: no clock, no goroutine, no network; [Run], [HTTP] and [NATS]
// are the shell. It never reads the fleet's own metrics: what it reports is what a producer saw.
package loadgen
