package batch_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/worker/batch"
)

func TestScheduleTable(t *testing.T) {
	t.Parallel()
	l := batch.Limits{Budget: 16, Row: 16, Min: 2}
	tests := []struct {
		name  string
		step  uint64
		views []batch.View
		want  []batch.Piece
	}{
		{"nothing to do", 0, nil, []batch.Piece{}},
		{"decodes always run", 0, []batch.View{{}, {Rank: 3}}, []batch.Piece{{Index: 0}, {Index: 1}}},
		{"a long prompt gets one chunk beside them", 0, []batch.View{{}, {Rest: 100}}, []batch.Piece{{Index: 0}, {Index: 1, Prompt: 16}}},
		{"a chunk never leaves one token behind", 0, []batch.View{{Rest: 17}}, []batch.Piece{{Index: 0, Prompt: 15}}},
		{"a prompt of one token is whole", 0, []batch.View{{Rest: 1}}, []batch.Piece{{Index: 0, Prompt: 1}}},
		{"urgent first, then oldest", 0, []batch.View{{Rank: 3, Order: 1, Rest: 10}, {Rank: 0, Order: 3, Rest: 10}, {Rank: 0, Order: 2, Rest: 4}},
			[]batch.Piece{{Index: 2, Prompt: 4}, {Index: 1, Prompt: 10}, {Index: 0, Prompt: 2}}},
		{"what is through soonest before what is older", 0, []batch.View{{Order: 1, Rest: 12}, {Order: 2, Rest: 8}, {Order: 3, Rest: 8}},
			[]batch.Piece{{Index: 1, Prompt: 8}, {Index: 2, Prompt: 8}}},
		{"each eighth step oldest first", 7, []batch.View{{Rank: 0, Order: 3, Rest: 20}, {Rank: 3, Order: 1, Rest: 20}}, []batch.Piece{{Index: 1, Prompt: 16}}},
		{"what is left of the budget is too small for a chunk", 0, []batch.View{{Order: 1, Rest: 15}, {Order: 2, Rest: 19}}, []batch.Piece{{Index: 0, Prompt: 15}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := batch.Schedule([]batch.Piece{}, tt.step, tt.views, l)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("Schedule(%d, %+v) (-want +got):\n%s", tt.step, tt.views, d)
			}
		})
	}
}

// A step of prompts beside streams is of as many tokens as are computed at once, or of several times as many, but for
// the end of the prompts.
func TestPlanFillsWhatIsComputedTogether(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ together, decoding, rest, want int }{
		{16, 3, 500, 61}, {16, 1, 500, 63}, {16, 60, 500, 52}, {16, 0, 500, 64}, {16, 3, 20, 20},
		{4, 3, 500, 61}, {1, 3, 500, 64}, {0, 3, 500, 64}, {100, 3, 500, 64},
	} {
		p := batch.Planner{Limits: batch.Limits{Budget: 64, Row: 64, Min: 1, Together: c.together}}
		views := make([]batch.View, c.decoding, c.decoding+1)
		pieces := p.Plan(nil, append(views, batch.View{Rest: c.rest}))
		if got := pieces[len(pieces)-1].Prompt; got != c.want {
			t.Errorf("%d prompt tokens beside %d streams with %d computed together, want %d", got, c.decoding, c.together, c.want)
		}
	}
	p := batch.Planner{Limits: batch.Limits{Budget: 64, Row: 64, Min: 2, Together: 16}}
	vectors.teach(p.Took) // 8 prompt tokens beside one stream, 14 beside 8
	for decoding, want := range map[int]int{1: 15, 8: 8, 12: 20} {
		pieces := p.Plan(nil, append(make([]batch.View, decoding), batch.View{Rank: 1, Rest: 500}))
		if got := pieces[len(pieces)-1].Prompt; got != want {
			t.Errorf("%d prompt tokens beside %d streams at the device's pace, want %d", got, decoding, want)
		}
	}
}

// Every prompt is cut into rows of at least Min, budgets hold, and every sequence comes to its end.
func TestScheduleProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		least := rapid.IntRange(1, 4).Draw(t, "min")
		l := batch.Limits{Min: least, Row: rapid.IntRange(2*least-1, 20).Draw(t, "row"), Budget: rapid.IntRange(2*least-1, 40).Draw(t, "budget")}
		n := rapid.IntRange(1, 8).Draw(t, "sequences")
		views := make([]batch.View, n)
		for i := range views {
			views[i] = batch.View{Rank: rapid.IntRange(0, 3).Draw(t, "rank"), Order: uint64(i), Rest: rapid.IntRange(0, 60).Draw(t, "rest")}
		}
		whole := make([]int, n)
		for i, v := range views {
			whole[i] = v.Rest
		}
		for step := uint64(0); ; step++ {
			left := 0
			for _, v := range views {
				left += v.Rest
			}
			if left == 0 {
				return
			}
			if step > 1000 {
				t.Fatalf("prompts %v not done after %d steps under %+v, left %+v", whole, step, l, views)
			}
			used, moved := 0, false
			rows := map[int]bool{}
			for _, p := range batch.Schedule(nil, step, views, l) {
				v := &views[p.Index]
				if rows[p.Index] {
					t.Fatalf("two rows of sequence %d in one step", p.Index)
				}
				rows[p.Index] = true
				if p.Prompt > l.Row || p.Prompt > v.Rest || (p.Prompt == 0) != (v.Rest == 0) {
					t.Fatalf("piece %+v of %+v under %+v", p, *v, l)
				}
				if p.Prompt > 0 && p.Prompt < l.Min && p.Prompt != whole[p.Index] {
					t.Fatalf("chunk of %d tokens of a prompt of %d, at least %d wanted", p.Prompt, whole[p.Index], l.Min)
				}
				v.Rest -= p.Prompt
				used += p.Prompt
				moved = moved || p.Prompt > 0
			}
			for i, v := range views {
				if v.Rest == 0 && whole[i] == 0 && !rows[i] {
					t.Fatalf("decoding sequence %d has no row", i)
				}
			}
			if used > l.Budget || !moved {
				t.Fatalf("step used %d prompt tokens under %+v (moved %v)", used, l, moved)
			}
		}
	})
}
