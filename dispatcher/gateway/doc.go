// Package gateway is the HTTP door of the fleet: OpenAI's completions, the job resource, health and
// the description of all of it.
//
// Step 3 of the walk, the other door beside dispatcher/intake.go: it reads a request, makes
// contracts.Jobs of it (gateway/body, gateway/openai) and hands them to the dispatcher through [Jobs].
// Next step: dispatcher/admission. The answers come back through dispatcher/relay and leave by
// gateway/sse.
//
// The package decides nothing about admission, order or workers, talks to no broker, renders no prompt
// and logs none. Handlers run concurrently; everything they share is safe for it. Each request is
// bounded in bytes, in nesting and in time to arrive, the number of requests at once is bounded, and
// each write has its own deadline, so that a reader that stops reading is let go.
package gateway
