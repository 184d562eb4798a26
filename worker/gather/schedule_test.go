package gather_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/worker/gather"
)

func TestNext(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	limits := gather.Limits{Units: 10, Delay: 5 * time.Millisecond}
	old := ago(time.Second)
	for name, c := range map[string]struct {
		waiting []gather.View
		limits  gather.Limits
		pick    []int
		wait    time.Duration
	}{
		"nothing waits":          {nil, limits, nil, 0},
		"alone, long enough":     {[]gather.View{{Bucket: "a", Units: 3, Since: old}}, limits, []int{0}, 0},
		"alone, waits":           {[]gather.View{{Bucket: "a", Units: 3, Since: ago(2 * time.Millisecond)}}, limits, nil, 3 * time.Millisecond},
		"no delay":               {[]gather.View{{Bucket: "a", Units: 3, Since: now}}, gather.Limits{Units: 10}, []int{0}, 0},
		"full at once":           {[]gather.View{{Bucket: "a", Units: 6, Since: now}, {Bucket: "a", Units: 4, Since: now, Order: 1}}, limits, []int{0, 1}, 0},
		"no room for more":       {[]gather.View{{Bucket: "a", Units: 6, Since: now}, {Bucket: "a", Units: 5, Since: now, Order: 1}}, limits, []int{0}, 0},
		"no bucket, no company":  {[]gather.View{{Units: 1, Since: now}, {Units: 1, Since: now, Order: 1}}, limits, []int{0}, 0},
		"larger than the limit":  {[]gather.View{{Bucket: "a", Units: 11, Since: now}}, limits, []int{0}, 0},
		"smaller fills the rest": {[]gather.View{{Bucket: "a", Units: 6, Since: old}, {Bucket: "a", Units: 5, Order: 1}, {Bucket: "a", Units: 4, Order: 2}}, limits, []int{0, 2}, 0},
		"other bucket":           {[]gather.View{{Bucket: "a", Units: 1, Since: old}, {Bucket: "b", Units: 1, Order: 1}, {Bucket: "a", Units: 1, Order: 2}}, limits, []int{0, 2}, 0},
		"urgent leads":           {[]gather.View{{Rank: 3, Bucket: "a", Units: 1, Since: old}, {Rank: 0, Bucket: "b", Units: 1, Order: 1, Since: old}}, limits, []int{1}, 0},
		"urgent joins first":     {[]gather.View{{Rank: 2, Bucket: "a", Units: 5, Since: old}, {Rank: 3, Bucket: "a", Units: 5, Order: 1}, {Rank: 2, Bucket: "a", Units: 5, Order: 2}}, limits, []int{0, 2}, 0},
	} {
		pick, wait := gather.Next(c.waiting, c.limits, now)
		if !slices.Equal(pick, c.pick) || wait != c.wait {
			t.Errorf("%s: Next(%+v) = %v, %v, want %v, %v", name, c.waiting, pick, wait, c.pick, c.wait)
		}
	}
}

// TestNextProperties: the leader is the most urgent, oldest call; what is picked shares its bucket and
// stays within the limit; and whatever waits is picked in the end.
func TestNextProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var waiting []gather.View
		n := rapid.IntRange(1, 30).Draw(t, "calls")
		for i := range n {
			waiting = append(waiting, gather.View{
				Rank: rapid.IntRange(0, 3).Draw(t, "rank"), Order: uint64(i), Units: rapid.IntRange(1, 12).Draw(t, "units"),
				Bucket: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "bucket"),
			})
		}
		for rounds := 0; len(waiting) > 0; rounds++ {
			pick, wait := gather.Next(waiting, gather.Limits{Units: 10}, time.Unix(0, 0))
			if len(pick) == 0 || wait != 0 {
				t.Fatalf("nothing picked of %+v", waiting)
			}
			lead, units := waiting[pick[0]], 0
			for i, v := range waiting {
				if v.Rank < lead.Rank || v.Rank == lead.Rank && v.Order < lead.Order {
					t.Fatalf("%d led before %d: %+v", pick[0], i, waiting)
				}
			}
			for _, i := range pick {
				units += waiting[i].Units
				if len(pick) > 1 && (waiting[i].Bucket != lead.Bucket || lead.Bucket == "") {
					t.Fatalf("picked %v of %+v", pick, waiting)
				}
			}
			if len(pick) > 1 && units > 10 {
				t.Fatalf("picked %d units: %v of %+v", units, pick, waiting)
			}
			slices.Sort(pick)
			for _, i := range slices.Backward(slices.Compact(pick)) {
				waiting = slices.Delete(waiting, i, i+1)
			}
			if rounds > n {
				t.Fatalf("still waiting after %d rounds: %+v", rounds, waiting)
			}
		}
	})
}
