// Package siege sends a secured fleet what no client should: requests made from openapi.json by
// schemathesis, damaged msgpack on the subjects of a producer, floods of headers, bodies and headers that
// never end, thousands of idle connections. All the while p0 chats are asked; they must go on, and the
// processes must live. `make hostile` sends 10,000 and compares times to first token.
//
// It belongs to integration/ and has no code but its tests.
package siege
