package priority_test

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

func always(contracts.Class, priority.Work) bool { return true }

func item(tenant string, n int, class contracts.Class, tokens int) priority.Item {
	return priority.Item{Key: priority.Key{Tenant: tenant, Job: fmt.Sprint(tenant, n)}, Class: class, Prompt: tokens, Seq: 1}
}

// Tenants that always have jobs waiting get tokens in proportion to their weights: tokens divided by weight
// never differ by more than the largest job divided by the smaller weight (rule 2's promise).
func TestSharesConvergeToWeights(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weights := map[string]float64{}
		for i := range rapid.IntRange(2, 5).Draw(t, "tenants") {
			weights[fmt.Sprint("t", i)] = float64(rapid.IntRange(1, 8).Draw(t, "weight"))
		}
		const largest = 2000
		q := priority.New(func(tenant string) float64 { return weights[tenant] })
		n := 0
		refill := func(tenant string) {
			n++
			q.Hold(item(tenant, n, contracts.P2, rapid.IntRange(1, largest).Draw(t, "tokens")))
		}
		for tenant := range weights {
			refill(tenant)
			refill(tenant)
		}
		got := map[string]float64{}
		for range 300 {
			i, ok := q.Next(always)
			if !ok {
				t.Fatal("nothing is let in though jobs wait")
			}
			got[i.Tenant] += i.Tokens()
			q.Start(i.Key)
			q.End(i.Key)
			refill(i.Tenant)
			for a := range weights {
				for b := range weights {
					if ga, gb := got[a]/weights[a], got[b]/weights[b]; ga-gb > largest/min(weights[a], weights[b])+1e-6 {
						t.Fatalf("%s of weight %v had %.0f tokens, %s of weight %v %.0f", a, weights[a], got[a], b, weights[b], got[b])
					}
				}
			}
		}
	})
}

// Whatever happens: what is held, inside and running adds up, nobody who waits is forgotten, and an empty
// queue is empty.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := priority.New(nil)
		held, inside := map[priority.Key]priority.Item{}, map[priority.Key]priority.Item{}
		some := func(m map[priority.Key]priority.Item) (priority.Item, bool) {
			var keys []string
			for k := range m {
				keys = append(keys, k.Tenant+"\x00"+k.Job)
			}
			if len(keys) == 0 {
				return priority.Item{}, false
			}
			least := keys[0]
			for _, k := range keys {
				least = min(least, k)
			}
			for k, i := range m {
				if k.Tenant+"\x00"+k.Job == least {
					return i, true
				}
			}
			return priority.Item{}, false
		}
		for n := range rapid.IntRange(1, 120).Draw(t, "operations") {
			i := item(fmt.Sprint("t", rapid.IntRange(0, 3).Draw(t, "tenant")), n, contracts.Classes[rapid.IntRange(0, 3).Draw(t, "class")], rapid.IntRange(1, 100).Draw(t, "tokens"))
			switch rapid.IntRange(0, 5).Draw(t, "operation") {
			case 0, 1:
				q.Hold(i)
				held[i.Key] = i
			case 2:
				q.Enter(i)
				inside[i.Key] = i
			case 3:
				if next, ok := q.Next(always); ok {
					if _, was := held[next.Key]; !was {
						t.Fatalf("%v was let in and not held", next.Key)
					}
					delete(held, next.Key)
					inside[next.Key] = next
				} else if len(held) > 0 {
					t.Fatalf("nothing is let in though %d jobs are held", len(held))
				}
			case 4:
				if i, ok := some(inside); ok {
					if rapid.Bool().Draw(t, "back") {
						q.Back(i.Key)
						held[i.Key] = i
					} else if !q.Start(i.Key) || q.Start(i.Key) {
						t.Fatalf("start of %v", i.Key)
					}
					delete(inside, i.Key)
				}
			default:
				if i, ok := some(held); ok {
					if !q.End(i.Key) || q.End(i.Key) {
						t.Fatalf("end of %v", i.Key)
					}
					delete(held, i.Key)
				}
			}
			var h, in priority.Work
			for _, c := range contracts.Classes {
				h = priority.Work{Jobs: h.Jobs + q.Held(c).Jobs, Prompt: h.Prompt + q.Held(c).Prompt}
				in = priority.Work{Jobs: in.Jobs + q.Inside(c).Jobs, Prompt: in.Prompt + q.Inside(c).Prompt}
			}
			if want := sum(held); h != want {
				t.Fatalf("held %+v, want %+v", h, want)
			}
			if want := sum(inside); in != want {
				t.Fatalf("inside %+v, want %+v", in, want)
			}
		}
	})
}

func sum(items map[priority.Key]priority.Item) (w priority.Work) {
	for _, i := range items {
		w.Jobs++
		w.Prompt += i.Prompt
	}
	return w
}

// A tenant with one job does not wait behind another's hundred, and is told so.
func TestFloodWaitsForItself(t *testing.T) {
	t.Parallel()
	q := priority.New(nil)
	for n := range 100 {
		q.Hold(item("flood", n, contracts.P2, 100))
	}
	for range 10 { // the flood has had some
		i, _ := q.Next(always)
		q.Start(i.Key)
	}
	if w := q.Ahead(contracts.P2, "flood"); w.Jobs != 90 || w.Prompt != 9000 {
		t.Errorf("ahead of the flood's next job are %+v, want its own 90", w)
	}
	if w := q.Ahead(contracts.P2, "light"); w.Jobs != 0 {
		t.Errorf("ahead of another tenant's first job are %+v, want none", w)
	}
	q.Hold(item("light", 1, contracts.P2, 100))
	q.Hold(item("light", 2, contracts.P2, 100))
	if w := q.Ahead(contracts.P2, "light"); w.Jobs != 4 || w.Prompt != 400 {
		t.Errorf("ahead of its third one are %+v, want its own two and two of the flood", w)
	}
	if w := q.Ahead(contracts.P3, "other"); w.Jobs != 92 {
		t.Errorf("ahead of a less urgent job are %+v, want all 92", w)
	}
	if w := q.Ahead(contracts.P1, "other"); w.Jobs != 0 {
		t.Errorf("ahead of a more urgent job are %+v, want none", w)
	}
	place := math.MaxInt
	for n := range 4 {
		if i, _ := q.Next(always); i.Tenant == "light" {
			place = min(place, n)
		}
	}
	if place > 1 {
		t.Errorf("the light tenant's job went %dth, want first or second", place+1)
	}
}

// Each class has room of its own: a full one keeps no other out, and a more urgent one goes first.
func TestClasses(t *testing.T) {
	t.Parallel()
	q := priority.New(nil)
	for n := range 3 {
		q.Hold(item("a", n, contracts.P3, 10))
		q.Hold(item("b", n, contracts.P0, 10))
	}
	room := func(c contracts.Class, inside priority.Work) bool { return inside.Jobs < 2 }
	var order string
	for i, ok := q.Next(room); ok; i, ok = q.Next(room) {
		order += string(i.Class) + " "
	}
	if order != "p0 p0 p3 p3 " {
		t.Errorf("let in %s, want two of each class, urgent ones first", order)
	}
	waiting := item("c", 1, contracts.P2, 10)
	waiting.Seq = 0
	q.Hold(waiting)
	if i, ok := q.Next(room); ok {
		t.Errorf("%v was let in before it was stored", i.Key)
	}
	q.Stored(waiting.Key, 7)
	if i, ok := q.Next(room); !ok || i.Seq != 7 {
		t.Errorf("stored, and then %v, %v", i, ok)
	}
}
