package sampler

// uniform is the random number of a position: the top 53 bits of a hash of (seed, position), in [0,1).
// Counter-based numbers need no state, so any worker can continue a sequence at any position.
func uniform(seed uint64, position int) float64 {
	return float64(mix(seed^mix(uint64(position)+golden))>>11) / (1 << 53)
}

// StreamSeed returns the seed of one of several choices that a job asks for at once. Choice 0 has the
// job's own seed, so that asking for more choices does not change the first.
func StreamSeed(seed uint64, choice int) uint64 {
	if choice == 0 {
		return seed
	}
	return mix(seed + mix(uint64(choice)*golden))
}

const golden = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
// Generators, 2014), applied after one step.
func mix(z uint64) uint64 {
	z += golden
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
