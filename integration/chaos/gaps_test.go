package chaos

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/contracts"
)

func TestGaps(t *testing.T) {
	t.Parallel()
	h := &History{Out: map[string][]Record{}}
	begin := time.Unix(1000, 0)
	for i, c := range []*contracts.Chunk{
		claim(1, 0, 0), piece(1, 0, "a"), claim(2, 1, 0), piece(2, 1, "b"), released(2, contracts.ReleaseDrain), claim(3, 0, 0), piece(3, 2, "c"),
		released(4, contracts.ReleaseLost), claim(5, 2, 0), claim(6, 3, 0), piece(6, 3, "d"),
	} {
		h.Out["j"] = append(h.Out["j"], Record{c, begin.Add(time.Duration(i*i) * time.Second)})
	}
	want := map[string][]time.Duration{"": {8 * time.Second, 64 * time.Second}, "drain": {27 * time.Second}}
	if d := cmp.Diff(want, h.Gaps()); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	d := []time.Duration{5, 1, 4, 2, 3, 6, 9, 8, 7, 10}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 6, 0.95: 10, 1: 10} {
		if got := Quantile(d, q); got != want {
			t.Errorf("quantile %v: %d, want %d", q, got, want)
		}
	}
	if Quantile(nil, 0.5) != 0 {
		t.Error("the quantile of nothing is not 0")
	}
}

func TestSlope(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 0}, {[]float64{2, 2, 2}, 0}, {[]float64{1, 2, 3, 4}, 3}, {[]float64{0, 9, 0}, 0}, {[]float64{8, 4, 0}, -8}} {
		if got := Slope(tt.values); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("growth of %v: %v, want %v", tt.values, got, tt.want)
		}
	}
}
