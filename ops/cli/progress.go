package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pelton-run/pelton/runtime/hub"
)

// progress draws what hub reports: one line that is rewritten on a terminal, one line for each stage
// elsewhere.
type progress struct {
	app      *app
	terminal bool

	mu      sync.Mutex
	stage   string
	drawn   time.Time
	pending bool // a line without its newline stands on the terminal
}

func (a *app) newProgress() *progress { return &progress{app: a, terminal: isTerminal(a.err)} }

// count reports things done instead of bytes.
func (p *progress) count(stage string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		if p.stage != stage {
			fmt.Fprintln(p.app.err, stage)
		}
	} else {
		fmt.Fprintf(p.app.err, "\r%s %d of %d\x1b[K", stage, done, total)
		p.pending = true
	}
	p.stage = stage
}

// report is a [hub.Progress].
func (p *progress) report(e hub.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Stage != p.stage {
		p.endLine()
		p.stage, p.drawn = e.Stage, time.Time{}
		if !p.terminal {
			fmt.Fprintln(p.app.err, e.Stage)
		}
	}
	if !p.terminal || (time.Since(p.drawn) < 100*time.Millisecond && e.Done < e.Total) {
		return
	}
	p.drawn, p.pending = time.Now(), true
	if e.Total <= 0 {
		fmt.Fprintf(p.app.err, "\r%s\x1b[K", e.Stage)
		return
	}
	const width = 30
	full := int(min(e.Done, e.Total) * width / e.Total)
	fmt.Fprintf(p.app.err, "\r%s [%s%s] %s of %s\x1b[K", e.Stage, strings.Repeat("#", full), strings.Repeat(".", width-full), size(e.Done), size(e.Total))
}

// finish ends the line; it may be called twice.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
}

func (p *progress) endLine() {
	if p.pending {
		fmt.Fprintln(p.app.err)
		p.pending = false
	}
}
