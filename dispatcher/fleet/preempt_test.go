package fleet_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

func running(job string, class contracts.Class, started, kv int64, slots int) contracts.RunningJob {
	return contracts.RunningJob{Tenant: "t", Job: job, Class: class, Started: started, KV: kv, Slots: slots, Yields: true}
}

// loaded is a worker of 100 bytes and 4 slots, one byte a token, with these jobs.
func loaded(name string, jobs ...contracts.RunningJob) contracts.Heartbeat {
	h := contracts.Heartbeat{Worker: name, State: contracts.WorkerReady, Model: "m", Slots: 4, KV: contracts.KVMemory{Total: 100, PerToken: 1}, Jobs: jobs}
	for _, j := range jobs {
		h.KV.Reserved += j.KV
	}
	return h
}

func waiting(job string, class contracts.Class, kv, slots int) fleet.Waiting {
	return fleet.Waiting{Tenant: "t", Job: job, Model: "m", Class: class, KVTokens: kv, Slots: slots}
}

func names(victims []fleet.Holding) string {
	out := ""
	for _, v := range victims {
		out += v.Job + " "
	}
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	stubborn := running("a", contracts.P3, 1, 100, 1)
	stubborn.Yields = false
	full := loaded("w", running("a", contracts.P3, 1, 50, 1), running("b", contracts.P3, 2, 50, 1))
	draining := full
	draining.State = contracts.WorkerDraining
	for _, c := range []struct {
		name  string
		waits fleet.Waiting
		live  []contracts.Heartbeat
		want  string
	}{
		{"there is room", waiting("x", contracts.P0, 40, 1), []contracts.Heartbeat{loaded("w", running("a", contracts.P3, 1, 50, 1))}, ""},
		{"latest started", waiting("x", contracts.P0, 40, 1), []contracts.Heartbeat{full}, "b "},
		{"both are needed", waiting("x", contracts.P0, 80, 1), []contracts.Heartbeat{full}, "b a "},
		{"too large", waiting("x", contracts.P0, 101, 1), []contracts.Heartbeat{full}, ""},
		{"another model's", fleet.Waiting{Tenant: "t", Job: "x", Model: "n", Class: contracts.P0, KVTokens: 1, Slots: 1}, []contracts.Heartbeat{full}, ""},
		{"worker drains", waiting("x", contracts.P0, 40, 1), []contracts.Heartbeat{draining}, ""},
		{"does not yield", waiting("x", contracts.P0, 40, 1), []contracts.Heartbeat{loaded("w", stubborn)}, ""},
		{"equals", waiting("x", contracts.P1, 40, 1), []contracts.Heartbeat{loaded("w", running("a", contracts.P1, 1, 100, 1))}, ""},
		{"least urgent", waiting("x", contracts.P0, 40, 1), []contracts.Heartbeat{loaded("w", running("a", contracts.P2, 9, 50, 1), running("b", contracts.P3, 1, 50, 1))}, "b "},
		{"fewest", waiting("x", contracts.P0, 80, 1), []contracts.Heartbeat{full, loaded("v", running("c", contracts.P2, 1, 90, 1))}, "c "},
		{"slots", waiting("x", contracts.P0, 1, 1), []contracts.Heartbeat{loaded("w", running("a", contracts.P3, 1, 1, 2), running("b", contracts.P2, 2, 1, 2))}, "a "},
		{"needless small one", waiting("x", contracts.P0, 90, 1), []contracts.Heartbeat{loaded("w", running("a", contracts.P3, 2, 5, 1), running("b", contracts.P2, 1, 95, 1))}, "b "},
	} {
		p := fleet.NewPreemptor()
		p.Wait(c.waits, zero)
		if got := names(p.Plan(c.live, zero)); got != c.want {
			t.Errorf("%s: victims %q, want %q", c.name, got, c.want)
		}
		if got := p.Plan(c.live, zero.Add(time.Second)); len(got) != 0 {
			t.Errorf("%s: a second later again %q", c.name, names(got))
		}
	}
}

func TestPlanRemembers(t *testing.T) {
	t.Parallel()
	full := []contracts.Heartbeat{loaded("w", running("a", contracts.P3, 1, 50, 1), running("b", contracts.P3, 2, 50, 1))}
	p := fleet.NewPreemptor()
	p.Wait(waiting("x", contracts.P0, 50, 1), zero)
	if got := names(p.Plan(full, zero)); got != "b " {
		t.Fatalf("victims %q", got)
	}
	if got := names(p.Plan(full, zero.Add(3*time.Second))); got != "b " {
		t.Errorf("victims %q after the first ask led to nothing", got)
	}
	free := []contracts.Heartbeat{loaded("w", running("a", contracts.P3, 1, 50, 1))}
	p.Taken("t", "x", "w", zero.Add(3*time.Second))
	if !p.Idle() {
		t.Error("a job that was taken waits")
	}
	p.Wait(waiting("y", contracts.P0, 50, 1), zero.Add(3*time.Second))
	if got := names(p.Plan(free, zero.Add(3*time.Second))); got != "a " {
		t.Errorf("victims %q, want a: the room that the heartbeat shows was just taken by x", got)
	}
	p.Taken("t", "y", "", zero.Add(3*time.Second))
	if got := p.Plan(full, zero.Add(20*time.Minute)); len(got) != 0 || !p.Idle() {
		t.Errorf("victims %q for nobody", names(got))
	}
}

// TestPlanProperties: whatever runs and waits, no victim is as urgent as every job that waits, none is
// asked twice in a row, and what is freed on a worker is no more than what waits needs: without any one
// of the victims fewer jobs would fit.
func TestPlanProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var live []contracts.Heartbeat
		classOf := map[string]contracts.Class{}
		for w := range rapid.IntRange(1, 3).Draw(t, "workers") {
			var jobs []contracts.RunningJob
			for i := range rapid.IntRange(0, 4).Draw(t, "jobs") {
				j := running(fmt.Sprint(w, "-", i), rapid.SampledFrom(contracts.Classes).Draw(t, "class"), rapid.Int64Range(1, 9).Draw(t, "started"), rapid.Int64Range(1, 25).Draw(t, "kv"), 1)
				j.Yields = rapid.IntRange(0, 4).Draw(t, "yields") > 0
				if j.Yields {
					classOf[j.Job] = j.Class
				}
				jobs = append(jobs, j)
			}
			live = append(live, loaded(fmt.Sprint("w", w), jobs...))
		}
		w := waiting("x", rapid.SampledFrom(contracts.Classes).Draw(t, "waits"), rapid.IntRange(1, 110).Draw(t, "need"), rapid.IntRange(1, 4).Draw(t, "slots"))
		p := fleet.NewPreemptor()
		p.Wait(w, zero)
		victims := p.Plan(live, zero)
		for _, v := range victims {
			if c, yields := classOf[v.Job]; !yields || c <= w.Class || v.Worker != victims[0].Worker {
				t.Fatalf("victim %+v of class %q for a job of %q, first %+v", v, c, w.Class, victims[0])
			}
		}
		fits := func(h contracts.Heartbeat, gone []fleet.Holding) bool {
			bytes, slots := h.KV.Total, h.Slots
			for _, j := range h.Jobs {
				if !slices.ContainsFunc(gone, func(v fleet.Holding) bool { return v.Job == j.Job }) {
					bytes, slots = bytes-j.KV, slots-j.Slots
				}
			}
			return bytes >= int64(w.KVTokens) && slots >= w.Slots
		}
		for _, h := range live {
			if len(victims) > 0 && fits(h, nil) {
				t.Fatalf("victims %v although %s has room", victims, h.Worker)
			}
			if len(victims) > 0 && h.Worker == victims[0].Worker {
				if !fits(h, victims) {
					t.Fatalf("victims %v do not make room", victims)
				}
				for i := range victims {
					if fits(h, slices.Delete(slices.Clone(victims), i, i+1)) {
						t.Fatalf("victim %v is needless", victims[i])
					}
				}
			}
		}
		if again := p.Plan(live, zero.Add(time.Second)); len(again) > 0 {
			t.Fatalf("victims %v again %v", victims, again)
		}
	})
}
