// Package resume reads what earlier holders of a job wrote, so that the next one goes on where they
// stopped.
//
// It stands between worker/lease, which claims the job after the last record that is found here, and
// worker/batch, which replays the tokens that are found here. [Transcript] is the pure fold over a
// job's records; [Last] and [Read] fetch them from the stream OUT by direct get, without a consumer.
//
// The package never writes. Its functions are safe from any goroutine; a Transcript is plain data.
package resume
