// Package auth is who may do what in a fleet that other machines reach: NATS credentials with one role
// each, and certificates.
//
// It stands beside the walk: ops/cli writes a fleet's keys with it (pelton auth), ops/node starts the
// embedded broker with them and connects with one role's credentials. Roles are data in role.go.
// Secrets are written to files of mode 0600 and nowhere else. Functions are safe for concurrent use as
// long as one process writes a folder.
package auth
