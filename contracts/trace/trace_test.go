package trace_test

import (
	"testing"

	"github.com/pelton-run/pelton/contracts/trace"
)

type funcs struct {
	Said func(string)
	Done func()
}

func TestFull(t *testing.T) {
	t.Parallel()
	said := ""
	given := &funcs{Said: func(s string) { said = s }}
	for _, full := range []*funcs{trace.Full[funcs](nil), trace.Full(given)} {
		full.Said("hello")
		full.Done()
	}
	if said != "hello" || given.Done != nil {
		t.Errorf("said %q, want hello; the struct given was changed: %v", said, given.Done != nil)
	}
}
