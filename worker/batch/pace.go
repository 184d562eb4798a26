package batch

import "time"

// Pace learns from past steps what they cost, and says how many prompt tokens may join the next one so
// that running streams do not wait long: about as long as they wait for each other. A step that brings
// prompt tokens along then takes at most about twice as long as one that does not, on any device, and
// when nobody decodes prompts get all the room there is. Pure: time is an argument.
type Pace struct {
	decode []float64 // seconds of a step without prompt tokens, by its rows; 0 is not known
	token  float64   // seconds that a prompt token adds; 0 is not known
}

const (
	// paceFloor keeps prompts going beside few and fast streams, in tokens.
	paceFloor = 16
	// paceGain is the weight of a new observation. A single slow step, when something else had the
	// processor, does not change the pace by much.
	paceGain = 0.2
)

// Observe takes a step into account: its prompt tokens, its rows that decoded, and how long it took.
func (p *Pace) Observe(prompt, rows int, took time.Duration) {
	seconds := took.Seconds()
	if prompt == 0 {
		for len(p.decode) <= rows {
			p.decode = append(p.decode, 0)
		}
		p.decode[rows] = mixed(p.decode[rows], seconds)
		return
	}
	base, known := p.base(rows)
	if rows > 0 && !known {
		return
	}
	if added := seconds - base; added > 0 {
		p.token = mixed(p.token, added/float64(prompt))
	}
}

func mixed(old, seen float64) float64 {
	if old == 0 {
		return seen
	}
	return old + paceGain*(seen-old)
}

// base is how long rows take to decode: what was seen of so many, or else of the next fewer or more.
func (p *Pace) base(rows int) (seconds float64, known bool) {
	for n := min(rows, len(p.decode)-1); n > 0; n-- {
		if p.decode[n] > 0 {
			return p.decode[n], true
		}
	}
	for n := rows + 1; n < len(p.decode); n++ {
		if p.decode[n] > 0 {
			return p.decode[n], true
		}
	}
	return 0, false
}

// Budget is the most prompt tokens that should join a step in which rows sequences decode, from
// paceFloor (or most, if that is less) to most.
func (p *Pace) Budget(rows, most int) int {
	base, known := p.base(rows)
	if rows == 0 || !known || p.token == 0 {
		return most
	}
	return int(min(max(base/p.token, paceFloor), float64(most)))
}
