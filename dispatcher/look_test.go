package dispatcher

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Of many producers that ask about jobs at once, few ask the broker; the others wait, but not for longer than an
// answer may take.
func TestLooksAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Dispatcher{cfg: Config{Timeout: 5 * time.Second}, looks: make(chan struct{}, maxLooks)}
		over := make(chan struct{})
		outcomes := make(chan error, 1000)
		for range 1000 {
			go func() {
				outcomes <- d.look(context.Background(), func() error {
					<-over
					return nil
				})
			}()
		}
		synctest.Wait()
		if len(d.looks) != maxLooks {
			t.Errorf("%d ask at once, want %d", len(d.looks), maxLooks)
		}
		time.Sleep(6 * time.Second)
		for range 1000 - maxLooks {
			if err := <-outcomes; contracts.CodeOf(err) != contracts.CodeOverloaded {
				t.Fatalf("one that waited for too long: %v", err)
			}
		}
		close(over)
		for range maxLooks {
			if err := <-outcomes; err != nil {
				t.Error(err)
			}
		}
		if len(d.looks) != 0 {
			t.Errorf("%d places are not given back", len(d.looks))
		}
	})
}
