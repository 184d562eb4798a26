package paged

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPool lets slots take, share, trim and give pages: each page is free or has as many users as slots have it.
func TestPool(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const pages, slots = 30, 6
		p := newPool(pages, slots)
		slot := rapid.IntRange(0, slots-1)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				if s := slot.Draw(t, "slot"); len(p.of[s]) == 0 && len(p.free) > 0 {
					n := rapid.IntRange(1, len(p.free)).Draw(t, "n")
					p.take(s, n)
					if len(p.of[s]) != n {
						t.Fatalf("%d pages taken, want %d", len(p.of[s]), n)
					}
				}
			},
			"share": func(t *rapid.T) {
				from, to := slot.Draw(t, "from"), slot.Draw(t, "to")
				n := rapid.IntRange(0, min(len(p.of[from]), len(p.of[to]))).Draw(t, "n")
				at := rapid.IntRange(0, n).Draw(t, "at")
				p.share(from, to, at, n)
				if !slices.Equal(p.of[from][at:n], p.of[to][at:n]) {
					t.Fatalf("%v and %v are not the same from %d to %d", p.of[from], p.of[to], at, n)
				}
			},
			"trim": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				p.trim(s, rapid.IntRange(0, len(p.of[s])).Draw(t, "n"))
			},
			"": func(t *rapid.T) {
				users := make([]int, pages)
				for _, own := range p.of {
					for i, page := range own {
						users[page]++
						if slices.Contains(own[:i], page) {
							t.Fatalf("a slot has a page twice: %v", own)
						}
					}
				}
				for _, page := range p.free {
					if users[page]--; users[page] != -1 {
						t.Fatalf("page %d is free and taken, or free twice", page)
					}
					users[page] = 0
				}
				if !slices.Equal(users, p.users) {
					t.Fatalf("pages have users %v, the pool says %v", users, p.users)
				}
			},
		})
	})
}

// TestNeighbors opens models one after the other on a device: their caches are equal and leave a fifth.
func TestNeighbors(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Int64Range(1, 1e5), 1, 8).Draw(t, "weights")
		free := int64(1e6)
		var caches []int64
		for i, w := range weights {
			n := Neighbors{Before: i, After: len(weights) - i - 1}
			for _, other := range weights[i+1:] {
				n.Weights += other
			}
			free -= w
			cache := n.share(free)
			free -= cache
			caches = append(caches, cache)
		}
		sum := int64(0)
		for _, c := range caches {
			sum += c
		}
		if slices.Max(caches)-slices.Min(caches) > 50 || sum/4-free > 50 || free-sum/4 > 50 {
			t.Fatalf("weights %v: caches %v, %d left", weights, caches, free)
		}
	})
	if got := (Neighbors{After: 1, Weights: 2000}).share(1000); got != 0 {
		t.Errorf("weights that do not fit leave a cache of %d", got)
	}
}
