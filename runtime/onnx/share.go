//go:build cgo && (linux || darwin)

package onnx

import (
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
)

// mostCopied is the most tokens that are copied at once: the streams that run wait for it.
const mostCopied = 1024

// Share copies the keys and values of the longest beginning of prompt that another sequence of the scope
// holds, see engine.Sharer: 45 KiB a token for the default model, a hundredth of the time that computing them
// takes, at most mostCopied of them. Nothing is shared where the bits depend on how tokens were fed.
func (e *Engine) Share(s engine.Seq, scope string, prompt []int32) int {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	own, _ := e.cache.Find(s)
	if e.graph == nil || e.info.MinPrefill > 1 {
		return own.Length
	}
	from, held, n := e.cache.TakeOver(s, scope, prompt, 1, mostCopied)
	if n > held {
		e.graph.kv.copy(from.Slot, own.Slot, held, n)
	}
	return n
}

// Keep allows so many bytes of closed sequences to stay for Share; what is more is given back before it
// returns. Safe from any goroutine.
func (e *Engine) Keep(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.Keep(bytes)
	e.giveBack()
}

// giveBack clears what the cache no longer keeps. The caller holds e.mu, which Shutdown takes before the memory
// is unmapped.
func (e *Engine) giveBack() {
	for _, place := range e.cache.Freed() {
		e.clear(place)
	}
}

func (e *Engine) clear(p kvcache.Place) {
	if e.kv == nil {
		return
	}
	if err := e.kv.clear(p.Slot, p.Length); err != nil {
		e.log.Error("kv memory is not given back", "slot", p.Slot, "tokens", p.Length, "error", err)
	}
}
