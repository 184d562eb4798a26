// Package memory says how much memory a worker may hold, and keeps count of it.
//
// It stands beside the walk: ops/node asks Limit and KVBudget before a worker starts, worker/intake
// reserves from a Budget before it pulls a job, ops/residence before it loads a model. While they run,
// a Governor compares what the process holds with what they reserved. The package never allocates or
// frees anything itself, and it knows nothing of models or jobs: everything is bytes.
//
// Limit and Resident read the operating system; everything else is pure. A Budget is safe from any
// goroutine; it starts none.
package memory
