package worker_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkJob is one job of 8 tokens at a time on an idle worker whose engine takes no time: what
// queue, claim and records cost from the submit to the final record, as the producer sees it.
func BenchmarkJob(b *testing.B) {
	f := newFleet(b, 15*time.Second)
	f.hire("w", newFake())
	var first []float64
	for i := range b.N {
		a := order(fmt.Sprint("job", i), "why is the sky blue?", 8)
		sent := time.Now()
		f.submit(a)
		f.final(a.Job.ID)
		first = append(first, float64(time.Since(sent))/float64(time.Millisecond))
	}
	slices.Sort(first)
	b.ReportMetric(first[len(first)/2], "ms-to-final-p50")
	b.ReportMetric(first[len(first)*99/100], "ms-to-final-p99")
}

// BenchmarkStreams is many jobs at once on one worker whose engine takes no time: the cost of batch,
// text and records for each token.
func BenchmarkStreams(b *testing.B) {
	f := newFleet(b, 15*time.Second)
	e := newFake()
	e.info.MaxSequences = 64
	f.hire("w", e)
	const tokens = 64
	b.ResetTimer()
	for i := range b.N {
		f.submit(order(fmt.Sprint("job", i), "why is the sky blue?", tokens))
	}
	for i := range b.N {
		f.final(fmt.Sprint("job", i))
	}
	b.ReportMetric(float64(b.N*tokens)/b.Elapsed().Seconds(), "tok/s")
}
