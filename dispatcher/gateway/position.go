package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// theEnd is the id after which nothing follows.
const theEnd = "end"

// position is how far a reader of events got: for each choice the index of the last event it has, -1
// for none. As text, the id of an event, it is the indexes joined by dots: with one choice the index
// alone. Each choice's events are the same on every dispatcher, however those of several choices mix, so
// that any dispatcher can go on after any id.
type position struct {
	last  []int
	ended bool
}

func (p *position) has(choice, index int) bool {
	return p.ended || (choice < len(p.last) && index <= p.last[choice])
}

func (p *position) set(choice, index int) {
	for len(p.last) <= choice {
		p.last = append(p.last, -1)
	}
	p.last[choice] = index
}

// next counts one more event of a choice and returns its index.
func (p *position) next(choice int) int {
	index := 0
	if choice < len(p.last) {
		index = p.last[choice] + 1
	}
	p.set(choice, index)
	return index
}

// single tells whether at most one choice was seen.
func (p *position) single() bool { return len(p.last) <= 1 }

// String is the id of the event that brought a reader here.
func (p *position) String() string {
	if p.ended {
		return theEnd
	}
	parts := make([]string, len(p.last))
	for i, n := range p.last {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ".")
}

// resumeAfter is where a reader wants to go on: after Last-Event-ID, or ?after= where headers cannot be
// set. Without either it has nothing yet.
func resumeAfter(r *http.Request) (p position, err error) {
	name, text := "Last-Event-ID", r.Header.Get("Last-Event-ID")
	if text == "" {
		name, text = "after", r.URL.Query().Get("after")
	}
	switch text {
	case "":
		return p, nil
	case theEnd:
		return position{ended: true}, nil
	}
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < -1 || n > 4*contracts.MaxMaxTokens {
			return position{}, contracts.Invalid(name, "%s %q is not the id of an event: send that of the last event that arrived", name, brief(text))
		}
		p.last = append(p.last, n)
	}
	return p, nil
}
