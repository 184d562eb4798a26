package batch

import (
	"fmt"
	"log/slog"
	"runtime"
)

// Panicked logs that a part was stopped by a panic, with where and attrs, and returns that as an error. The value
// p may quote a prompt, so only that of a runtime error is told.
func Panicked(log *slog.Logger, part string, p any, stack []byte, attrs ...any) error {
	err := fmt.Errorf("%s panicked: a value of type %T", part, p)
	if e, ok := p.(runtime.Error); ok {
		err = fmt.Errorf("%s panicked: %w", part, e)
	}
	log.Error("panic", append(attrs, "err", err, "stack", string(stack))...)
	return err
}
