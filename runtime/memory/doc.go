// Package memory says how much memory a worker may hold, and keeps count of it.
//
// It stands beside the walk: ops/node asks Limit and KVBudget before a worker starts, worker/intake
// reserves from a Budget before it pulls a job. It never allocates or frees anything itself, and it
// knows nothing of models or jobs: everything is bytes.
//
// Limit and Resident read the operating system; ParseSize, FormatSize and KVBudget are pure. A Budget
// is safe from any goroutine; it starts none.
package memory
