package hub

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// lockPoll is how often a waiter looks whether the other is done.
const lockPoll = 100 * time.Millisecond

// Waiting is the stage that is reported while another process holds the lock.
const Waiting = "waiting for another pelton to finish"

// lock takes the file lock at path, waiting for whoever holds it; the operating system frees it when
// its holder dies. The file stays: removing it would let two processes hold two locks.
func lock(ctx context.Context, path string, p Progress) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, explain(err, filepath.Dir(path))
	}
	l := flock.New(path)
	got, err := l.TryLock()
	if err == nil && !got {
		p.report(Waiting, 0, 0)
		got, err = l.TryLockContext(ctx, lockPoll)
	}
	if ctx.Err() != nil {
		if got {
			_ = l.Unlock()
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, explain(fmt.Errorf("lock %s: %w", path, err), filepath.Dir(path))
	}
	return func() { _ = l.Unlock() }, nil
}
