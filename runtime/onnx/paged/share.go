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
	own, ok := e.cache.Find(s)
	page := e.info.BlockTokens
	if !ok || e.graph == nil || own.Length%page != 0 {
		return own.Length
	}
	from, n := e.cache.Share(s, scope, prompt)
	if n -= n % page; n <= own.Length {
		return own.Length
	}
	if err := e.cache.Append(s, n-own.Length); err != nil {
		return own.Length
	}
	e.cache.Note(s, prompt[own.Length:n])
	e.pool.share(from.Slot, own.Slot, own.Length/page, n/page)
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
