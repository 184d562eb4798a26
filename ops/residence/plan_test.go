package residence_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/ops/residence"
)

func TestVictims(t *testing.T) {
	t.Parallel()
	rare := residence.Candidate{Seat: 1, Bytes: 100, Load: time.Second, Uses: 0.5}
	busy := residence.Candidate{Seat: 2, Bytes: 100, Load: time.Second, Uses: 50}
	slow := residence.Candidate{Seat: 3, Bytes: 100, Load: 30 * time.Second, Uses: 2}
	large := residence.Candidate{Seat: 4, Bytes: 1000, Load: time.Second, Uses: 60} // cheap for each byte
	unused := residence.Candidate{Seat: 5, Bytes: 10}
	for name, c := range map[string]struct {
		idle []residence.Candidate
		need int64
		want []int
		ok   bool
	}{
		"nothing needed":             {[]residence.Candidate{rare}, 0, nil, true},
		"nothing there":              {nil, 1, nil, false},
		"the least used":             {[]residence.Candidate{busy, rare, slow}, 100, []int{1}, true},
		"quick to load before slow":  {[]residence.Candidate{slow, busy}, 100, []int{2}, true},
		"two":                        {[]residence.Candidate{busy, rare, slow}, 101, []int{1, 2}, true},
		"per byte":                   {[]residence.Candidate{busy, large}, 100, []int{4}, true},
		"not more than needed":       {[]residence.Candidate{unused, large, rare}, 1000, []int{4}, true},
		"all together are too small": {[]residence.Candidate{unused, rare}, 111, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := residence.Victims(c.idle, c.need)
			if !slices.Equal(got, c.want) || ok != c.ok {
				t.Errorf("Victims(%+v, %d) = %v, %v; want %v, %v", c.idle, c.need, got, ok, c.want, c.ok)
			}
		})
	}
}

// Whatever is idle: what is chosen is enough, and without any one of it, it is not.
func TestVictimsAreEnoughAndNeeded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var idle []residence.Candidate
		var all int64
		for i := range rapid.IntRange(0, 8).Draw(t, "models") {
			c := residence.Candidate{Seat: i, Bytes: rapid.Int64Range(1, 100).Draw(t, "bytes"),
				Load: time.Duration(rapid.IntRange(0, 9).Draw(t, "load")) * time.Second, Uses: float64(rapid.IntRange(0, 9).Draw(t, "uses"))}
			idle, all = append(idle, c), all+c.Bytes
		}
		need := rapid.Int64Range(-10, 500).Draw(t, "need")
		got, ok := residence.Victims(idle, need)
		if ok != (need <= all) {
			t.Fatalf("Victims = %v, %v with %d of %d needed", got, ok, need, all)
		}
		var sum int64
		for _, seat := range got {
			sum += idle[seat].Bytes
		}
		for _, seat := range got {
			if sum-idle[seat].Bytes >= need {
				t.Fatalf("%v free %d bytes, seat %d with %d is not needed for %d", got, sum, seat, idle[seat].Bytes, need)
			}
		}
		if ok && sum < need {
			t.Fatalf("%v free %d bytes, %d are needed", got, sum, need)
		}
	})
}
