package kvcache

// Count is the number of open sequences.
func (k *Cache) Count() int { return len(k.open) }
