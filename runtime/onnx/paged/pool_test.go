package paged

import (
	"slices"
	"testing"
)

func TestPool(t *testing.T) {
	t.Parallel()
	p := newPool(5, 3)
	p.take(0, 2)
	p.take(2, 3)
	if got := slices.Sorted(slices.Values(slices.Concat(p.of...))); !slices.Equal(got, []int32{0, 1, 2, 3, 4}) || len(p.free) != 0 {
		t.Errorf("all pages taken: %v of %v, free %v; want each once", p.of, got, p.free)
	}
	p.give(0)
	p.give(1)
	p.take(1, 2)
	if len(p.of[0]) != 0 || len(p.of[1]) != 2 || slices.ContainsFunc(p.of[1], func(i int32) bool { return slices.Contains(p.of[2], i) }) {
		t.Errorf("pages given and taken again: %v", p.of)
	}
}

func TestNewEnough(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"1.31.0": true, "1.31.1": true, "1.40.0": true, "2.0.0": true, "1.24.4": false, "0.99.0": false, "": false, "dev": false} {
		if err := newEnough(version); (err == nil) != want {
			t.Errorf("version %q: %v", version, err)
		}
	}
}
