package gather

import (
	"cmp"
	"slices"
	"time"
)

// View is a waiting call as [Next] sees it.
type View struct {
	Rank   int    // class of the job, 0 most urgent
	Order  uint64 // of arrival
	Bucket string
	Units  int
	Since  time.Time // of arrival
}

// Limits bound a call of the graph.
type Limits struct {
	Units int           // of all that is joined; a larger call runs alone
	Delay time.Duration // how long a leader may wait for company
}

// Next picks the calls that run now, by their places in waiting, the leader first. With none picked, wait
// is how long the leader waits on at most; 0 when nothing waits.
func Next(waiting []View, l Limits, now time.Time) (pick []int, wait time.Duration) {
	order := make([]int, len(waiting))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(waiting[a].Rank, waiting[b].Rank), cmp.Compare(waiting[a].Order, waiting[b].Order))
	})
	if len(order) == 0 {
		return nil, 0
	}
	lead := waiting[order[0]]
	pick, units, full := order[:1:1], lead.Units, lead.Bucket == "" || lead.Units >= l.Units
	if lead.Bucket != "" {
		for _, i := range order[1:] {
			v := waiting[i]
			if v.Bucket != lead.Bucket {
				continue
			}
			if units+v.Units > l.Units {
				full = true
				continue
			}
			pick, units = append(pick, i), units+v.Units
		}
	}
	if left := l.Delay - now.Sub(lead.Since); !full && units < l.Units && left > 0 {
		return nil, left
	}
	return pick, 0
}
