package agenda

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockSteps: deadlines hold by the clock on the wall, also when it is set while they are waited for, or the
// machine slept and no timer went on.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		step, rest time.Duration // of the clock, and how long it then is to the deadline in half an hour
	}{
		{"an hour on", time.Hour, 0},
		{"an hour back", -time.Hour, 90 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended atomic.Int64
				var off atomic.Int64
				a := New(func() time.Time { return time.Now().Add(time.Duration(off.Load())) }, func(context.Context, string, string) bool { ended.Add(1); return false })
				a.Add("t", "j", a.now().Add(30*time.Minute).UnixMilli())
				go a.Run(t.Context())
				synctest.Wait()
				off.Store(int64(tt.step))
				time.Sleep(max(0, tt.rest-time.Second)) // in the bubble
				synctest.Wait()
				if ended.Load() != 0 {
					t.Error("ended too early")
				}
				time.Sleep(2*look + time.Second)
				synctest.Wait()
				if ended.Load() != 1 {
					t.Errorf("ended %d times, want once", ended.Load())
				}
			})
		})
	}
}

// TestClock: of two clocks the one that is behind counts, and a broker's goes on between its answers.
func TestClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		if c.Now() != time.Now() || c.Broker() != time.Now() {
			t.Error("before the broker said anything it is not the machine's time")
		}
		for _, ahead := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
			if got := c.Tell(time.Now().Add(-ahead), time.Now()); got != ahead {
				t.Errorf("%v ahead, want %v", got, ahead)
			}
			time.Sleep(time.Minute) // in the bubble
			if got, want := time.Since(c.Now()), max(ahead, 0); got != want {
				t.Errorf("%v ahead: the time is %v ago, want %v", ahead, got, want)
			}
			if got := time.Since(c.Broker()); got != ahead {
				t.Errorf("%v ahead: the broker's time is %v ago", ahead, got)
			}
		}
	})
}
