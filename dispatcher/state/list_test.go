package state

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts"
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

// A list of dead letters, which the broker reads in full, waits until no other list is made.
func TestDeadTakesTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ls := NewLists(Logs{})
		done, err := ls.turn(t.Context(), "other")
		if err != nil {
			t.Fatal(err)
		}
		defer done(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := ls.Dead(ctx, "many", 0); contracts.CodeOf(err) != contracts.CodeOverloaded {
			t.Errorf("got %v, want overloaded", err)
		}
	})
}
