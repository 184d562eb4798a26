//go:build cgo && (linux || darwin)

package onnx_test

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"
	"time"
)

// Flags of `make bench-embed`.
var (
	benchTexts   = flag.String("texts", "", "JSON array of texts for TestTextsPerSecond; without it the test is a short run")
	benchVariant = flag.String("variant", "fp32", "variant of MiniLM")
	benchBatch   = flag.Int("batch", 32, "texts that come together")
)

// TestTextsPerSecond embeds texts as a worker does, tokenizing included: those that come together are cut
// into calls of like lengths up to the graph's limit. It prints the rate and judges none.
func TestTextsPerSecond(t *testing.T) {
	list := []string{"a short text", "and another one, a little longer"}
	if *benchTexts != "" {
		raw, err := os.ReadFile(*benchTexts)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Parallel()
	}
	n, tok := openMiniLM(t, *benchVariant, nil)
	vectors := 0
	start := time.Now()
	var all [][]int32
	for _, text := range list {
		all = append(all, tok.Cut(tok.Encode(text), 256))
	}
	slices.SortStableFunc(all, func(a, b []int32) int { return len(a) - len(b) }) // as workers and sentence-transformers do
	for rows := range slices.Chunk(all, *benchBatch) {
		for len(rows) > 0 {
			some, tokens := 0, 0
			for some < len(rows) && (some == 0 || tokens+len(rows[some]) <= n.Info().Limit) {
				tokens += len(rows[some])
				some++
			}
			vectors += len(embed(t, n, rows[:some]...))
			rows = rows[some:]
		}
	}
	if vectors != len(list) {
		t.Errorf("%d vectors of %d texts", vectors, len(list))
	}
	t.Logf("%.1f texts/s", float64(vectors)/time.Since(start).Seconds())
}
