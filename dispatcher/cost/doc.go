// Package cost knows what jobs cost on the fleet's devices, learned from what workers report.
//
// It belongs to step 4 of the walk: dispatcher/backlog asks it how fast the workers of a model are before
// dispatcher/admission judges a job. A forward pass takes a + b*prompt tokens + c*other rows milliseconds;
// a [contracts.StepFit] has these three constants for all workers of one (variant, device) together.
// [Speed] is what the workers do with them now. [Lengths] remembers how long the answers of a tenant are.
//
// Pure: no clock, no lock, no goroutine.
package cost
