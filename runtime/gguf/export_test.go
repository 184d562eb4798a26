package gguf

import "slices"

// Keys are the metadata keys, sorted.
func (f *File) Keys() []string {
	keys := make([]string, 0, len(f.meta))
	for k := range f.meta {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
