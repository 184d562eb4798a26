package node

import "golang.org/x/time/rate"

// linesASecond is how many lines a second are logged of what clients can cause as often as they like, such as a
// refused publish.
const linesASecond = 10

// seldom allows them.
func seldom() *rate.Limiter { return rate.NewLimiter(linesASecond, linesASecond) }
