// Package sampler picks the next token from a model's logits.
//
// Previous step of the walk: runtime/engine, whose rows carry the logits. Next step: runtime/tokenizer,
// which turns the token into text.
//
// The package is pure: no clock, no goroutine, no global state. A token depends on the parameters, the
// history and the logits alone, and the random number of a position is a function of (seed, position),
// not of how many were drawn before, so that another worker continues a sequence exactly where the
// first one left it. A [Sampler] belongs to one sequence and is not safe for concurrent use.
package sampler
