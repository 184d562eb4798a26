package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/hub/repo"
	"github.com/pelton-run/pelton/runtime/model"
)

// Exit codes of every command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnavailable = 5
	exitTimeout     = 6
	exitPartial     = 7
	exitCheck       = 8
	exitInterrupted = 130
)

// errQuiet ends a command with exitFailed whose output already said why.
var errQuiet = errors.New("said already")

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// coded gives an error its exit code.
type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }

func exitCode(err error) int {
	var usage usageError
	var code coded
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"), strings.Contains(err.Error(), "arg(s)"):
		return exitUsage
	case errors.As(err, &code):
		return code.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, model.ErrNotFound), errors.Is(err, repo.ErrChoice):
		return exitNotFound
	case errors.Is(err, hub.ErrAccess):
		return exitRefused
	case errors.Is(err, hub.ErrUnavailable), errors.Is(err, node.ErrBroker):
		return exitUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	if e, ok := errors.AsType[*contracts.Error](err); ok {
		return exitOf(e.Code)
	}
	return exitFailed
}

func exitOf(c contracts.Code) int {
	switch c.Info().HTTP {
	case 400, 413, 501:
		return exitUsage
	case 404:
		return exitNotFound
	case 401, 403, 409, 429:
		return exitRefused
	case 503:
		return exitUnavailable
	case 504:
		return exitTimeout
	}
	return exitFailed
}

// describe is the one line that says what failed and what to do next.
func describe(err error) string {
	if e, ok := errors.AsType[*contracts.Error](err); ok {
		text := e.Message
		if e.Param != "" && !strings.Contains(text, e.Param) {
			text = e.Param + ": " + text
		}
		return text + " [" + string(e.Code) + "]"
	}
	return err.Error()
}
