//go:build cgo && (linux || darwin)

package onnx_test

import (
	"fmt"
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

// BenchmarkPrefill feeds prompts in rows of at most MaxStepTokens.
func BenchmarkPrefill(b *testing.B) {
	e := open(b, nil)
	for _, n := range []int{60, 128, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			prompt := someTokens(e, n)
			b.ReportAllocs()
			for b.Loop() {
				seq, err := e.Open(n)
				if err != nil {
					b.Fatal(err)
				}
				for at := 0; at < n; at += 64 {
					end := min(at+64, n)
					step(b, e, &engine.Row{Seq: seq, Tokens: prompt[at:end], Sample: end == n})
				}
				e.Close(seq)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
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

// BenchmarkContext is what attention costs: decode behind 100 and 1,000 tokens, and prompts of three lengths
// in rows of MaxStepTokens; milliseconds by the clock and of the processor, medians. -threads as for
// BenchmarkSteps.
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
	report := func(name string, run func()) {
		var wall, used []float64
		for range 5 {
			start, before := time.Now(), processorTime(b)
			run()
			wall, used = append(wall, time.Since(start).Seconds()*1e3), append(used, (processorTime(b)-before).Seconds()*1e3)
		}
		b.Logf("%-30s %8.1f ms, processor %8.1f ms", name, median(wall), median(used))
	}
	for _, n := range []int{60, 512, 1500} {
		report(fmt.Sprintf("prompt of %d", n), func() { e.Close(feed(n)) })
	}
	for _, held := range []int{100, 1000} {
		var rows []*engine.Row
		for range 32 {
			rows = append(rows, &engine.Row{Seq: feed(held), Tokens: []int32{5}, Sample: true})
		}
		for _, n := range []int{1, 4, 8, 16, 32} {
			report(fmt.Sprintf("decode %d behind %d", n, held), func() { step(b, e, rows[:n]...) })
		}
		for _, r := range rows {
			e.Close(r.Seq)
		}
	}
}
