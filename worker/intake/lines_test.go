package intake_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/worker/intake"
)

func cost(s contracts.Size) int64 {
	return map[contracts.Size]int64{contracts.SizeS: 1, contracts.SizeM: 4, contracts.SizeL: 16, contracts.SizeX: 32}[s]
}

// only makes lines of which exactly the given ones may hold a job.
func only(marked ...intake.Line) *intake.Lines {
	l := intake.NewLines(cost)
	for _, c := range contracts.Classes {
		for _, s := range contracts.Sizes {
			l.Empty(intake.Line{Class: c, Size: s})
		}
	}
	for _, m := range marked {
		l.Mark(m)
	}
	return l
}

func TestNext(t *testing.T) {
	t.Parallel()
	p0s, p0l := intake.Line{Class: contracts.P0, Size: contracts.SizeS}, intake.Line{Class: contracts.P0, Size: contracts.SizeL}
	p2s, p2m := intake.Line{Class: contracts.P2, Size: contracts.SizeS}, intake.Line{Class: contracts.P2, Size: contracts.SizeM}
	p3s, p3x := intake.Line{Class: contracts.P3, Size: contracts.SizeS}, intake.Line{Class: contracts.P3, Size: contracts.SizeX}
	age := func(l *intake.Lines, of intake.Line, by intake.Line, n int) *intake.Lines {
		l.Mark(of)
		for range n {
			l.Took(by)
		}
		return l
	}
	known := func(l *intake.Lines, of intake.Line) *intake.Lines {
		l.Waits(of)
		return l
	}
	tests := []struct {
		name  string
		lines *intake.Lines
		free  int64
		slots int
		want  intake.Action
	}{
		{"nothing known", only(), 32, 1, intake.Action{}},
		{"no slot", only(p0s), 32, 0, intake.Action{}},
		{"no memory for anything", only(p0s), 0, 1, intake.Action{}},
		{"urgent first", only(p3s, p2s, p0l), 32, 1, intake.Action{Do: intake.Pull, Line: p0l, Cost: 16}},
		{"small before large in a class", only(p2m, p2s), 32, 1, intake.Action{Do: intake.Pull, Line: p2s, Cost: 1}},
		{"does a larger urgent job wait?", only(p0l, p3s), 8, 1, intake.Action{Do: intake.Look, Line: p0l}},
		{"it does: hold for it", known(only(p0l, p3s), p0l), 8, 1, intake.Action{Cost: 16}},
		{"not due yet", age(only(p0s), p3x, p0s, 63), 32, 1, intake.Action{Do: intake.Pull, Line: p0s, Cost: 1}},
		{"due and fits", age(only(p0s), p3x, p0s, 64), 32, 1, intake.Action{Do: intake.Pull, Line: p3x, Cost: 32}},
		{"due, does not fit: urgent ones still pass", known(age(only(p0s), p3x, p0s, 64), p3x), 8, 1, intake.Action{Do: intake.Pull, Line: p0s, Cost: 1}},
		{"due, does not fit: its own class holds", known(age(only(p3s), p3x, p3s, 64), p3x), 8, 1, intake.Action{Cost: 32}},
		{"overdue: everything holds", known(age(only(p0s), p3x, p0s, 256), p3x), 8, 1, intake.Action{Cost: 32}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.lines.Next(tt.free, tt.slots); got != tt.want {
				t.Errorf("Next(%d, %d) = %+v, want %+v", tt.free, tt.slots, got, tt.want)
			}
		})
	}
}

// A worker under endless backlog: nothing is pulled that does not fit, the worker never gets stuck,
// and no line is passed over more often than the package comment promises.
func TestNobodyStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := intake.NewLines(cost)
		total := int64(rapid.IntRange(32, 80).Draw(t, "bytes"))
		slots := rapid.IntRange(1, 20).Draw(t, "slots")
		full := rapid.SliceOfN(rapid.IntRange(0, 15), 1, 16).Draw(t, "lines with endless jobs")
		endless := map[intake.Line]bool{}
		for _, i := range full {
			endless[intake.Line{Class: contracts.Classes[i/4], Size: contracts.Sizes[i%4]}] = true
		}
		random := rapid.SliceOfN(rapid.IntRange(0, 19), 64, 64).Draw(t, "which job ends")
		free, seats := total, slots
		var running []int64
		passed := map[intake.Line]int{}
		for step := range 3000 {
			act := l.Next(free, seats)
			switch act.Do {
			case intake.Pull:
				if act.Cost > free || seats < 1 || act.Cost != cost(act.Line.Size) {
					t.Fatalf("pulled %+v with %d bytes and %d slots free", act, free, seats)
				}
				if !endless[act.Line] {
					l.Empty(act.Line)
					continue
				}
				l.Took(act.Line)
				free, seats = free-act.Cost, seats-1
				running = append(running, act.Cost)
				for line := range endless {
					passed[line]++
					if limit := 4*intake.Patience[line.Class] + 16; passed[line] > limit && line != act.Line {
						t.Fatalf("line %v was passed over %d times, at most %d are promised", line, passed[line], limit)
					}
				}
				passed[act.Line] = 0
			case intake.Look:
				if endless[act.Line] {
					l.Waits(act.Line)
				} else {
					l.Empty(act.Line)
				}
			case intake.Wait:
				if len(running) == 0 {
					t.Fatalf("an empty worker waits though %v hold jobs", endless)
				}
				i := random[step%len(random)] % len(running)
				free, seats = free+running[i], seats+1
				running = append(running[:i], running[i+1:]...)
				l.Forget()
				if step%7 == 0 {
					l.MarkAll()
				}
			}
		}
	})
}

// Whatever is reserved, resized and released, the room is never over its total and ends up whole.
func TestRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := intake.NewRoom(memory.NewBudget(100), 8)
		var held []*intake.Reservation
		canceled := canceledContext()
		for range rapid.IntRange(1, 60).Draw(t, "operations") {
			bytes, slots := int64(rapid.IntRange(0, 120).Draw(t, "bytes")), rapid.IntRange(0, 9).Draw(t, "slots")
			switch op := rapid.IntRange(0, 3).Draw(t, "operation"); {
			case op == 0 || len(held) == 0:
				free, seats := r.Free()
				v := r.Reserve(bytes, slots)
				if (v != nil) != (bytes <= free && slots <= seats) {
					t.Fatalf("Reserve(%d, %d) = %v with %d and %d free", bytes, slots, v, free, seats)
				}
				if v != nil {
					held = append(held, v)
				}
			case op == 1:
				_ = held[0].Fit(canceled, bytes, slots)
			case op == 2:
				held[len(held)-1].Release(bytes, slots)
			default:
				held[0].Close()
				held = held[1:]
			}
			if free, seats := r.Free(); free < 0 || free > 100 || seats < 0 || seats > 8 {
				t.Fatalf("%d bytes and %d slots are free of 100 and 8", free, seats)
			}
		}
		for _, v := range held {
			v.Close()
			v.Close()
		}
		if free, seats := r.Free(); free != 100 || seats != 8 {
			t.Fatalf("%d bytes and %d slots are free at the end, want 100 and 8", free, seats)
		}
	})
}
