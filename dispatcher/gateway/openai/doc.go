// Package openai is the JSON of OpenAI's chat and text completions: requests become [contracts.Job]s,
// chunks become replies, streamed or whole, and failures become the error object that its clients read.
//
// Previous step of the walk: dispatcher/gateway with the body it read. Next step: the jobs go on to
// dispatcher (admission); replies come back here from dispatcher/relay and leave by
// dispatcher/gateway/sse. The package does no I/O, keeps no clock and knows no model; a parameter that
// it cannot honor is refused by name, never dropped in silence. Values belong to one goroutine.
package openai
