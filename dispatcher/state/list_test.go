package state

import (
	"testing"
	"testing/synctest"
	"time"
)

// A tenant that asks for many lists at once makes another one wait for one of them, not for all.
func TestListsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ls := NewLists(Logs{})
		var order []string
		ask := func(tenant string) {
			done, err := ls.turn(t.Context(), tenant)
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, tenant)
			time.Sleep(time.Second)
			done(0)
		}
		for range 20 {
			go ask("many")
		}
		synctest.Wait()
		go ask("one")
		synctest.Wait()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(order) != 21 || order[1] != "one" && order[2] != "one" {
			t.Errorf("turns: %v", order)
		}
		if n := ls.asked.Inside(); n != 0 {
			t.Errorf("%d tenants are remembered", n)
		}
	})
}
