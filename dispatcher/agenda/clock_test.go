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
				a := New(func(context.Context, string, string) bool { ended.Add(1); return false })
				var off atomic.Int64
				a.now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
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
