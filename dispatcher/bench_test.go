package dispatcher_test

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkSubmit is the cost of taking a job in: decide, look for the id in both streams, publish.
// "backlog" has 50,000 jobs in the queue.
func BenchmarkSubmit(b *testing.B) {
	for _, backlog := range []int{0, 50_000} {
		b.Run(fmt.Sprintf("backlog=%d", backlog), func(b *testing.B) {
			d, _ := start(b, nil)
			ctx := b.Context()
			fill := make(chan error, 64)
			for range 64 {
				fill <- nil
			}
			for i := range backlog {
				if err := <-fill; err != nil {
					b.Fatal(err)
				}
				go func() { _, err := d.Submit(ctx, textJob(fmt.Sprint("backlog-", i), "abc")); fill <- err }()
			}
			for range 64 {
				if err := <-fill; err != nil {
					b.Fatal(err)
				}
			}
			var n atomic.Int64
			b.ResetTimer()
			for b.Loop() {
				if _, err := d.Submit(ctx, textJob(fmt.Sprint("job-", n.Add(1)), "abc")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFirstPiece is the time from Start to the first piece, with a worker that answers at once.
func BenchmarkFirstPiece(b *testing.B) {
	d, broker := start(b, nil)
	startWorker(b, broker.Conn(), "w", nil)
	ctx := b.Context()
	i := 0
	for b.Loop() {
		i++
		j := textJob(id(i), "abc")
		j.Params.MaxTokens = ptr(1)
		_, chunks, err := d.Start(ctx, j)
		if err != nil {
			b.Fatal(err)
		}
		first := true
		for c, err := range chunks {
			if err != nil {
				b.Fatal(err)
			}
			if first && !c.Final() {
				first = false
				b.StopTimer()
			}
		}
		b.StartTimer()
	}
}

// BenchmarkResume is a reader that attaches to a finished job of 190 pieces.
func BenchmarkResume(b *testing.B) {
	d, broker := start(b, nil)
	startWorker(b, broker.Conn(), "w", nil)
	ctx := b.Context()
	j := textJob("j", "abc")
	j.Params.MaxTokens = ptr(190)
	if _, err := d.Submit(ctx, j); err != nil {
		b.Fatal(err)
	}
	read(b, "warm up", d.Stream(ctx, tenant, "j", -1))
	for b.Loop() {
		for c, err := range d.Stream(ctx, tenant, "j", -1) {
			if err != nil {
				b.Fatal(err)
			}
			_ = c
		}
	}
}
