package gate

import (
	"context"
	"sync"
)

// Keys lets one call of a key in at a time. The zero value is ready. Safe for concurrent use.
type Keys[K comparable] struct {
	mu     sync.Mutex
	inside map[K]chan struct{} // closed when the call leaves
}

// Enter waits until nobody is inside with the key, or until ctx ends; every nil must be followed by Leave.
func (k *Keys[K]) Enter(ctx context.Context, key K) error {
	for {
		k.mu.Lock()
		before := k.inside[key]
		if before == nil {
			if k.inside == nil {
				k.inside = map[K]chan struct{}{}
			}
			k.inside[key] = make(chan struct{})
		}
		k.mu.Unlock()
		if before == nil {
			return nil
		}
		select {
		case <-before:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Leave lets the next one in.
func (k *Keys[K]) Leave(key K) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.inside[key])
	delete(k.inside, key)
}

// Inside is how many keys have a call inside.
func (k *Keys[K]) Inside() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.inside)
}
