package paged

import "runtime"

// thread runs functions on one thread of the operating system: the library keeps what it captured on a device for
// the thread that it was captured on.
type thread struct {
	calls chan func()
	done  chan struct{}
}

func newThread() *thread {
	t := &thread{make(chan func()), make(chan struct{})}
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		for f := range t.calls {
			f()
			t.done <- struct{}{}
		}
	}()
	return t
}

// do returns when f has run. One caller at a time.
func (t *thread) do(f func()) {
	t.calls <- f
	<-t.done
}

func (t *thread) end() { close(t.calls) }
