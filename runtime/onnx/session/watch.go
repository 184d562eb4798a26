//go:build cgo && (linux || darwin)

package session

import (
	"context"
	"log/slog"

	ort "github.com/yalue/onnxruntime_go"
)

// Watch ends running calls with the options when ctx ends, until release is called. A context that has ended is
// an error, its cause.
func Watch(ctx context.Context, options *ort.RunOptions, log *slog.Logger) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if ctx.Done() == nil {
		return func() {}, nil
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		if err := options.Terminate(); err != nil {
			log.Error("a canceled step goes on", "error", err)
		}
	})
	return func() {
		if stop() {
			return
		}
		<-fired // the flag is sticky: it must be set before it is cleared
		if err := options.UnsetTerminate(); err != nil {
			log.Error("steps stay canceled", "error", err)
		}
	}, nil
}
