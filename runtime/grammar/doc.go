// Package grammar holds an answer to a form: any JSON object, or what a JSON Schema describes.
//
// A schema is compiled once to a [Grammar], a machine that reads bytes and has a stack for what is nested. A
// [Matcher] follows one answer through it, token by token, and says which tokens may come next: those whose bytes
// the machine can read, and the end tokens where the answer is complete. What it allows is a function of schema,
// vocabulary and tokens so far, so another worker continues an answer exactly where the first one left it.
//
// Whatever is generated to its end satisfies the schema; not all that satisfies it can be generated. Properties
// come in the order in which the schema has them, those that it does not name only where it says so, and between
// parts stands nothing, a space, or a new line with at most 20 spaces. Keywords that are not served are refused
// ([ErrUnsupported]) with their place, those that only describe are passed over, and so are formats but date-time,
// date, time, duration, email, hostname, ipv4, ipv6 and uuid. Of oneOf, several may hold, as of anyOf. A name
// that the schema does not name may come twice.
//
// Work is bounded, whatever a schema says: a large program is refused, and where an answer could be read in more than
// 512 ways, or looking for the tokens that may follow takes too long, some of what could follow is left out. What is
// left can always be ended, in a vocabulary that has every byte; of others, [Grammar.In] is what they can write.
//
// Tokens are looked at as a tree of their bytes, so that most are refused together. What can follow a part that
// does not depend on what stands around it, such as the inside of a string, is computed once.
//
// The package does no I/O and starts no goroutine.
package grammar
