//go:build cgo && (linux || darwin)

package onnx_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

var (
	stepThreads  = flag.Int("threads", 0, "of the engines in BenchmarkSteps; with 1 the processor's time is exact also on a busy machine")
	stepRounds   = flag.Int("rounds", 5, "of BenchmarkSteps")
	stepVariants = flag.String("variants", "naive,fused,fp32,q8,q4,bf16-w4", "or folders of models, that BenchmarkSteps compares; the first is the baseline")
	stepLevel    = flag.String("level", "", "of instructions that our kernels use in BenchmarkSteps; the processor's highest when empty")
)

// load is one thing that is timed: rows sequences side by side, fed tokens each in a step.
type load struct {
	name         string
	rows, tokens int
}

var stepLoads = []load{{"prompt of 60", 1, 60}, {"decode 1", 1, 1}, {"decode 4", 4, 1}, {"decode 8", 8, 1}, {"decode 16", 16, 1}, {"decode 32", 32, 1}}

// BenchmarkSteps compares the variants of a graph on one processor, by turns in one run, and prints the
// table of runtime/PERFORMANCE.md: medians of wall and processor time in milliseconds.
func BenchmarkSteps(b *testing.B) {
	names := strings.Split(*stepVariants, ",")
	engines := make([]*onnx.Engine, len(names))
	for i, v := range names {
		engines[i] = openVariant(b, v)
	}
	if *stepLevel != "" {
		defer func() { _ = kernels.Select(kernels.Level()) }()
		if err := kernels.Select(*stepLevel); err != nil {
			b.Fatal(err)
		}
	}
	wall, used := map[[2]int][]float64{}, map[[2]int][]float64{}
	for range *stepRounds {
		for l, load := range stepLoads {
			for i, e := range engines {
				w, u := timeLoad(b, e, load)
				wall[[2]int{i, l}] = append(wall[[2]int{i, l}], w...)
				used[[2]int{i, l}] = append(used[[2]int{i, l}], u...)
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\nwall / processor ms, median of %d rounds, %d threads (0: all)\n| variant | resident MiB |", *stepRounds, *stepThreads)
	for _, l := range stepLoads {
		fmt.Fprintf(&table, " %s |", l.name)
	}
	for i, e := range engines {
		weights, arena := e.Footprint()
		fmt.Fprintf(&table, "\n| %s | %d + %d |", names[i], weights>>20, arena>>20)
		for l := range stepLoads {
			k := [2]int{i, l}
			fmt.Fprintf(&table, " %.1f / %.1f (%.2fx) |", median(wall[k]), median(used[k]), median(used[[2]int{0, l}])/median(used[k]))
		}
	}
	fmt.Fprintln(os.Stderr, table.String())
}

func openVariant(b *testing.B, variant string) *onnx.Engine {
	b.Helper()
	dir := variant
	if !strings.Contains(variant, "/") {
		if !slices.Contains(convert.Variants(), variant) {
			b.Fatalf("no variant %q: choose of %v", variant, convert.Variants())
		}
		var err error
		if dir, _, err = hub.Ensure(context.Background(), model.Store{Root: model.DefaultRoot()}, hub.Default, variant, nil); err != nil {
			b.Fatal(err)
		}
	}
	return open(b, func(c *onnx.Config) { c.ModelDir, c.Threads, c.MaxSequences = dir, *stepThreads, 33 })
}

// timeLoad runs a few steps of a load on sequences that hold 100 tokens when they decode, and gives the
// milliseconds of each: by the clock, and of the process on all cores.
func timeLoad(b *testing.B, e *onnx.Engine, l load) (wall, used []float64) {
	b.Helper()
	rows, warm := make([]*engine.Row, l.rows), 0
	for i := range rows {
		rows[i] = &engine.Row{Sample: true}
	}
	for try := range 5 {
		if try == 0 || l.tokens > 1 {
			for _, r := range rows {
				e.Close(r.Seq)
				seq, err := e.Open(160)
				if err != nil {
					b.Fatal(err)
				}
				r.Seq, r.Tokens = seq, someTokens(e, l.tokens)
				if l.tokens == 1 {
					step(b, e, &engine.Row{Seq: seq, Tokens: someTokens(e, 50)})
					step(b, e, &engine.Row{Seq: seq, Tokens: someTokens(e, 50)})
				}
			}
		}
		start, before := time.Now(), processorTime(b)
		step(b, e, rows...)
		if warm++; warm > 1 {
			wall = append(wall, time.Since(start).Seconds()*1e3)
			used = append(used, (processorTime(b)-before).Seconds()*1e3)
		}
	}
	for _, r := range rows {
		e.Close(r.Seq)
	}
	return wall, used
}

// processorTime is what the process has used, in user mode and in the kernel.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(x []float64) float64 {
	x = slices.Clone(x)
	slices.Sort(x)
	return x[len(x)/2]
}

// BenchmarkMixed decodes 8 streams while prompts of 60 tokens arrive one after the other in chunks: the
// time of a decode step beside a chunk, as a multiple of one without.
func BenchmarkMixed(b *testing.B) {
	e := open(b, nil)
	rows := make([]*engine.Row, 8)
	for i := range rows {
		seq, err := e.Open(2048)
		if err != nil {
			b.Fatal(err)
		}
		defer e.Close(seq)
		step(b, e, &engine.Row{Seq: seq, Tokens: someTokens(e, 60)})
		rows[i] = &engine.Row{Seq: seq, Tokens: []int32{5}, Sample: true}
	}
	for _, chunk := range []int{16, 32, 60} {
		b.Run(fmt.Sprintf("chunk%d", chunk), func(b *testing.B) {
			var alone, beside []float64
			prompt := someTokens(e, 60)
			timed := func(rows ...*engine.Row) float64 {
				start := time.Now()
				step(b, e, rows...)
				return time.Since(start).Seconds() * 1e3
			}
			for b.Loop() {
				alone = append(alone, timed(rows...))
				seq, err := e.Open(60)
				if err != nil {
					b.Fatal(err)
				}
				beside = append(beside, timed(append(slices.Clone(rows), &engine.Row{Seq: seq, Tokens: prompt[:chunk]})...))
				e.Close(seq)
			}
			b.ReportMetric(median(alone), "ms/alone")
			b.ReportMetric(median(beside), "ms/beside")
			b.ReportMetric(median(beside)/median(alone), "ratio")
		})
	}
}
