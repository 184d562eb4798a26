package lease

// Fence is the number that this holder's records carry.
func (c *Chain) Fence() uint64 { return c.fence }
