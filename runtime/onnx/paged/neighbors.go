package paged

// Neighbors are the models that are opened on the same device.
type Neighbors struct {
	Before, After int
	Weights       int64 // bytes, of those after
}

// freeShare is the part of a device's free memory that models plan with; the rest is for scratch memory and what is
// captured.
const freeShare = 0.8

// share is what one of several models takes for its cache when so many bytes are free behind its weights: the same for
// each of them, if those before took theirs.
func (n Neighbors) share(free int64) int64 {
	all := float64(n.Before + 1 + n.After)
	return int64(max(0, float64(free-n.Weights)*freeShare/(all-freeShare*float64(n.Before))))
}
