package gate

import (
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/pelton-run/pelton/contracts"
)

// Panicked logs what was recovered from a call inside, with attrs, and returns what its caller is told. The value
// may quote a prompt, so only that of a runtime error is logged.
func Panicked(log *slog.Logger, p any, attrs ...any) *contracts.Error {
	if e, ok := p.(runtime.Error); ok {
		attrs = append(attrs, "error", e.Error())
	}
	log.Error("panic", append(attrs, "stack", string(debug.Stack()))...)
	return contracts.Errorf(contracts.CodeInternal, "internal error: retry once, then report it")
}
