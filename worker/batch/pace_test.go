package batch_test

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/worker/batch"
)

// A device that takes 10 ms for a step of decoding rows and 0.25 ms more for a prompt token gets 40
// prompt tokens a step.
func TestPaceFollowsTheDevice(t *testing.T) {
	t.Parallel()
	took := func(prompt, rows int) time.Duration {
		d := time.Duration(prompt) * 250 * time.Microsecond
		if rows > 0 {
			d += 10 * time.Millisecond
		}
		return d
	}
	var p batch.Pace
	if got := p.Budget(8, 64); got != 64 {
		t.Errorf("Budget before anything is known = %d, want all 64", got)
	}
	p.Observe(64, 8, took(64, 8)) // cannot be told apart yet
	p.Observe(0, 8, took(0, 8))
	if got := p.Budget(8, 64); got != 64 {
		t.Errorf("Budget without a prompt seen = %d, want all 64", got)
	}
	for range 5 {
		p.Observe(64, 8, took(64, 8))
	}
	for _, c := range []struct{ rows, most, want int }{{8, 64, 40}, {1, 64, 40}, {30, 64, 40}, {0, 64, 64}, {8, 20, 20}, {8, 8, 8}} {
		if got := p.Budget(c.rows, c.most); got != c.want {
			t.Errorf("Budget(%d, %d) = %d, want %d", c.rows, c.most, got, c.want)
		}
	}
	p.Observe(0, 1, time.Millisecond)
	if got := p.Budget(1, 64); got != 16 {
		t.Errorf("Budget beside one fast stream = %d, want the floor of 16", got)
	}
	p.Observe(0, 8, time.Second) // something else had the processor
	if got := p.Budget(8, 4096); got > 900 {
		t.Errorf("Budget after one slow step = %d, want no more than a fifth of what it asks for", got)
	}
}

// Prompts alone teach the pace, and steps that seem to take no time do not break it.
func TestPaceOfPromptsAlone(t *testing.T) {
	t.Parallel()
	var p batch.Pace
	p.Observe(50, 0, 50*time.Millisecond)
	p.Observe(0, 2, 30*time.Millisecond)
	p.Observe(10, 2, 0)
	p.Observe(0, 3, 0)
	if got := p.Budget(2, 64); got != 30 {
		t.Errorf("Budget = %d, want 30: a step takes as long as 30 prompt tokens", got)
	}
}
