// Package observe runs a real Prometheus with the configuration, rules and dashboard of ops/deploy against a
// secured fleet under load. `make observe-check` runs it; without that the test is skipped, because
// Prometheus is not among what the other tests need.
//
// It belongs to integration/ and has no code but its tests.
package observe
