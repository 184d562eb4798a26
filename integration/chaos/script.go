package chaos

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is what a fault does.
type Kind string

// The faults. All but Dispatch are done to a worker in the middle of a stream.
const (
	Kill     Kind = "kill"     // it is gone at once, and another one starts
	Freeze   Kind = "freeze"   // it says nothing for a while, then goes on where it was
	Drain    Kind = "drain"    // it is asked to stop, and another one starts
	Preempt  Kind = "preempt"  // one of its jobs is told to give way
	Dispatch Kind = "dispatch" // a dispatcher is gone at once, and starts again
)

// Fault is one line of a script.
type Fault struct {
	Wait  time.Duration // after the fault before
	Kind  Kind
	Which int           // of the workers, or of the dispatchers; a fleet may take the next one
	For   time.Duration // how long a freeze lasts, or a drain's patience
}

// String is the fault as a run prints it.
func (f Fault) String() string {
	return fmt.Sprintf("+%v %s %d for %v", f.Wait, f.Kind, f.Which, f.For)
}

// Pace says how a script's faults follow each other.
type Pace struct {
	Deaths      int           // kills in all
	Mean        time.Duration // between two faults
	Workers     int
	Dispatchers int
	Freeze      time.Duration // mean; 0 is none
}

// Script draws the faults of a run: as many kills as asked for, and with every ten of them about two
// freezes, two drains, two preemptions and the death of a dispatcher. The same seed and pace give the
// same script.
func Script(seed uint64, p Pace) []Fault {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []Fault
	for kills := 0; kills < p.Deaths; {
		f := Fault{Kind: Kill, Which: rng.IntN(p.Workers), Wait: time.Duration(rng.Float64() * 2 * float64(p.Mean))}
		switch n := rng.IntN(17); {
		case n < 2 && p.Freeze > 0:
			f.Kind, f.For = Freeze, time.Duration((0.5+rng.Float64())*float64(p.Freeze))
		case n >= 2 && n < 4:
			f.Kind, f.For = Drain, time.Duration(rng.IntN(300))*time.Millisecond
		case n >= 4 && n < 6:
			f.Kind = Preempt
		case n == 6 && p.Dispatchers > 1:
			f.Kind, f.Which = Dispatch, rng.IntN(p.Dispatchers)
		default:
			kills++
		}
		out = append(out, f)
	}
	return out
}
