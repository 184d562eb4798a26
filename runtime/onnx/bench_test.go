//go:build cgo && (linux || darwin)

package onnx_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// BenchmarkDecode steps n sequences that hold 128 tokens at first.
func BenchmarkDecode(b *testing.B) {
	e := open(b, nil)
	for _, n := range []int{1, 4, 8, 16, 32} {
		b.Run(fmt.Sprintf("b%d", n), func(b *testing.B) { decode(b, e, n) })
	}
}

// BenchmarkSpin compares the three ways in which threads wait.
func BenchmarkSpin(b *testing.B) {
	for _, spin := range []struct {
		name string
		how  onnx.Spin
	}{{"auto", onnx.SpinAuto}, {"on", onnx.SpinOn}, {"off", onnx.SpinOff}} {
		e := open(b, func(c *onnx.Config) { c.Spin = spin.how })
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/b%d", spin.name, n), func(b *testing.B) { decode(b, e, n) })
		}
		if err := e.Shutdown(); err != nil {
			b.Fatal(err)
		}
	}
}

func decode(b *testing.B, e *onnx.Engine, n int) {
	rows := make([]*engine.Row, n)
	prompt := someTokens(e, 128)
	for i := range rows {
		seq, err := e.Open(2048)
		if err != nil {
			b.Fatal(err)
		}
		defer e.Close(seq)
		for at := 0; at < len(prompt); at += 64 {
			step(b, e, &engine.Row{Seq: seq, Tokens: prompt[at : at+64]})
		}
		rows[i] = &engine.Row{Seq: seq, Tokens: []int32{5}, Sample: true}
	}
	b.ReportAllocs()
	for b.Loop() {
		step(b, e, rows...)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
}

func step(b testing.TB, e *onnx.Engine, rows ...*engine.Row) {
	if err := e.Step(b.Context(), rows); err != nil {
		b.Fatal(err)
	}
	for _, r := range rows {
		if r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}

// BenchmarkPrefill feeds prompts in rows of at most MaxStepTokens. best-tok/s is by the fastest run of each row:
// other work on the machine only adds to it.
func BenchmarkPrefill(b *testing.B) {
	e := open(b, nil)
	for _, n := range []int{60, 128, 512, 1500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			prompt := someTokens(e, n)
			fastest := map[int]time.Duration{}
			b.ReportAllocs()
			for b.Loop() {
				seq, err := e.Open(n)
				if err != nil {
					b.Fatal(err)
				}
				for at := 0; at < n; at += 64 {
					end, start := min(at+64, n), time.Now()
					step(b, e, &engine.Row{Seq: seq, Tokens: prompt[at:end], Sample: end == n})
					if took := time.Since(start); fastest[at] == 0 || took < fastest[at] {
						fastest[at] = took
					}
				}
				e.Close(seq)
			}
			best := time.Duration(0)
			for _, took := range fastest {
				best += took
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
			b.ReportMetric(float64(n)/best.Seconds(), "best-tok/s")
		})
	}
}

// BenchmarkClose opens, fills with 512 tokens and closes: the price of giving memory back.
func BenchmarkClose(b *testing.B) {
	e := open(b, nil)
	prompt := someTokens(e, 64)
	for b.Loop() {
		b.StopTimer()
		seq, err := e.Open(512)
		if err != nil {
			b.Fatal(err)
		}
		for range 8 {
			step(b, e, &engine.Row{Seq: seq, Tokens: prompt})
		}
		b.StartTimer()
		e.Close(seq)
	}
}

// BenchmarkContext is what attention costs: prompts in rows of MaxStepTokens, and decode behind 100 and 1,000
// tokens; milliseconds by the clock and of the processor, medians. -threads as for BenchmarkSteps.
func BenchmarkContext(b *testing.B) {
	e := open(b, func(c *onnx.Config) { c.Threads = *stepThreads })
	feed := func(n int) engine.Seq {
		seq, err := e.Open(n + 50)
		if err != nil {
			b.Fatal(err)
		}
		for prompt := someTokens(e, n); len(prompt) > 0; {
			part := prompt[:min(64, len(prompt))]
			step(b, e, &engine.Row{Seq: seq, Tokens: part})
			prompt = prompt[len(part):]
		}
		return seq
	}
	report := func(name string, rounds int, run func()) {
		var wall, used []float64
		for range rounds {
			start, before := time.Now(), processorTime(b)
			run()
			wall, used = append(wall, time.Since(start).Seconds()*1e3), append(used, (processorTime(b)-before).Seconds()*1e3)
		}
		fmt.Fprintf(os.Stderr, "%-25s %8.1f ms, processor %8.1f ms\n", name, median(wall), median(used))
	}
	decode := func(held int, rows ...int) {
		var all []*engine.Row
		for range rows[len(rows)-1] {
			all = append(all, &engine.Row{Seq: feed(held), Tokens: []int32{5}, Sample: true})
		}
		for _, n := range rows {
			report(fmt.Sprintf("decode %d behind %d", n, held), 7, func() { step(b, e, all[:n]...) })
		}
		for _, r := range all {
			e.Close(r.Seq)
		}
	}
	for n, rounds := range map[int]int{60: 5, 512: 3, 1500: 1} {
		report(fmt.Sprintf("prompt of %d", n), rounds, func() { e.Close(feed(n)) })
	}
	decode(100, 1, 4, 8, 16, 32)
	decode(1000, 1, 4, 8)
}
