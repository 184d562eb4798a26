//go:build cgo && (linux || darwin)

package onnx

import (
	"fmt"
	"os"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// kvMemory is the KV cache: for each layer a buffer of keys and one of values, each of shape
// [slots, KVHeads, region]. What a region holds is the attention kernel's business, but for this: a
// sequence's tokens fill it from its start, in panels of 16.
type kvMemory struct {
	*session.Mapping
	shape   model.Shape
	buffers int // 2 x layers
	slots   int
	region  int64 // bytes of one slot's head
	buffer  int64 // bytes of one buffer
}

const (
	floatBytes  = 4
	panelTokens = 16
	maxMapping  = 1 << 45 // bytes of address space that 64-bit systems surely have
)

func newKVMemory(s model.Shape, slots int) (*kvMemory, error) {
	k := &kvMemory{shape: s, buffers: 2 * s.Layers, slots: slots}
	k.region = panels(s.ContextLength) * panelBytes(s)
	k.buffer = k.region * int64(s.KVHeads) * int64(slots)
	if all := float64(k.buffer) * float64(k.buffers); all > maxMapping {
		return nil, fmt.Errorf("a kv cache of %d slots of %d tokens needs %.3g bytes of address space: allow fewer sequences", slots, s.ContextLength, all)
	}
	var err error
	if k.Mapping, err = session.NewMapping(k.buffer * int64(k.buffers)); err != nil {
		return nil, err
	}
	return k, nil
}

// panels is how many panels n tokens fill.
func panels(n int) int64 { return int64((n + panelTokens - 1) / panelTokens) }

// panelBytes is what a panel takes in one region.
func panelBytes(s model.Shape) int64 {
	return s.KVBytesPerToken() / int64(2*s.Layers*s.KVHeads) * panelTokens
}

// regions calls f with the byte offset of every region of a slot.
func (k *kvMemory) regions(slot int, f func(offset int64) error) error {
	for b := range k.buffers {
		for h := range k.shape.KVHeads {
			if err := f(int64(b)*k.buffer + (int64(slot)*int64(k.shape.KVHeads)+int64(h))*k.region); err != nil {
				return err
			}
		}
	}
	return nil
}

// copy copies the tokens from number first up to number end of a slot to the same places of another one, and
// what shares a panel with them.
func (k *kvMemory) copy(from, to, first, end int) {
	size := panelBytes(k.shape)
	low, high := int64(first/panelTokens)*size, panels(end)*size
	shift := int64(to-from) * int64(k.shape.KVHeads) * k.region
	_ = k.regions(from, func(at int64) error {
		copy(k.Bytes[at+shift+low:at+shift+high], k.Bytes[at+low:at+high])
		return nil
	})
}

// clear gives the pages of a slot's first tokens back.
func (k *kvMemory) clear(slot, tokens int) error {
	page := int64(os.Getpagesize())
	size := min((panels(tokens)*panelBytes(k.shape)+page-1)/page*page, k.region)
	return k.regions(slot, func(at int64) error { return k.Release(at, at+size) })
}

// blockTokens is the number of tokens that fill whole pages in each region, at least a panel: what is
// reserved in such blocks is exactly what becomes resident.
func blockTokens(s model.Shape) int {
	page, n := int64(os.Getpagesize()), panelTokens
	for n < 1024 && panels(n)*panelBytes(s)%page != 0 {
		n *= 2
	}
	return n
}
