// Package path measures what a request costs on its way: HTTP in, admission, JetStream, worker, first
// chunk, SSE out (make bench-path), and the same way under 500 requests a second of a simulated fleet
// (make bench-500).
//
// It stands outside the walk. Broker with dispatcher, and workers, are processes of their own; the devices
// are simulated, so that what is measured is everything but the model. The load comes from the test's own
// process, with a client that costs little, and what each process took of the processor is in the result.
package path
