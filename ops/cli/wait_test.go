package cli_test

import (
	"strconv"
	"time"
)

// wait is the poll interval for processes that cannot signal.
func wait() { <-time.After(100 * time.Millisecond) }

func itoa(n int) string { return strconv.Itoa(n) }
