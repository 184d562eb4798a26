package memory_test

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// sink keeps the sums of the benchmark alive.
var sink uint64

// BenchmarkRead reads more memory than any cache holds, by 1 and 2 threads: the bandwidth that bounds
// a decode step, which reads every weight once. make bench-peers holds the decode speed against it.
// Its figure is the fastest pass: other work on the machine only takes away from it.
func BenchmarkRead(b *testing.B) {
	words := make([]uint64, 256<<20/8)
	for i := range words {
		words[i] = uint64(i) // pages exist only once they are written
	}
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			best := time.Hour
			for b.Loop() {
				start := time.Now()
				read(words, threads)
				best = min(best, time.Since(start))
			}
			b.ReportMetric(float64(len(words)*8)/best.Seconds()/1e9, "best-GB/s")
		})
	}
}

func read(words []uint64, threads int) {
	var wg sync.WaitGroup
	sums := make([]uint64, threads)
	for i := range threads {
		part := words[i*len(words)/threads : (i+1)*len(words)/threads]
		wg.Go(func() { sums[i] = sum(part) })
	}
	wg.Wait()
	for _, s := range sums {
		sink += s
	}
}

// sum touches every cache line with four chains of loads: enough for the memory to be what it waits for.
func sum(w []uint64) uint64 {
	var a, b, c, d uint64
	for ; len(w) >= 32; w = w[32:] {
		a += w[0]
		b += w[8]
		c += w[16]
		d += w[24]
	}
	return a + b + c + d
}
