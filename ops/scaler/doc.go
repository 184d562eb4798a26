// Package scaler tells an autoscaler how many workers a model needs, before its load is there.
//
// It stands beside the walk: it asks the dispatchers of a fleet what arrives and what the workers' steps
// take (dispatcher/cost), forecasts the load at the time at which a worker that is started now could take
// jobs ([Forecast]), and turns it into workers ([Need]). KEDA asks it over gRPC as an external scaler
// ([Server]); ops/cli runs it as `pelton scaler`, and `pelton plan` shows what it would say.
//
// [Forecast] and [Need] are pure. A [Server] is safe for concurrent use.
package scaler
