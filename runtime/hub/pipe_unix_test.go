//go:build unix

package hub_test

import (
	"syscall"
	"testing"
)

// makePipe makes a file whose opening for writing blocks until somebody reads it.
func makePipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
