//go:build cgo && (linux || darwin)

package paged

import "github.com/pelton-run/pelton/runtime/engine"

// Share gives a sequence the pages of the longest beginning of prompt that another one of the scope holds, whole
// pages only, see engine.Sharer. Nothing is copied: full pages are only read.
func (e *Engine) Share(s engine.Seq, scope string, prompt []int32) int {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	own, _ := e.cache.Find(s)
	if e.graph == nil {
		return own.Length
	}
	page := e.info.BlockTokens
	from, held, n := e.cache.TakeOver(s, scope, prompt, page, len(prompt))
	e.pool.share(from.Slot, own.Slot, held/page, n/page)
	return n
}

// Keep allows so many bytes of closed sequences to stay for Share. Safe from any goroutine.
func (e *Engine) Keep(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.Keep(bytes)
	e.giveBack()
}

// giveBack takes the pages of what the cache no longer keeps. The caller holds e.mu.
func (e *Engine) giveBack() {
	for _, place := range e.cache.Freed() {
		e.pool.trim(place.Slot, 0)
	}
}
