package scaler_test

import (
	"encoding/csv"
	"math"
	"os"
	"strconv"
	"testing"

	"github.com/pelton-run/pelton/ops/scaler"
)

// weight is how much worse unplanned load is than capacity in vain.
const weight = 4

// plannedCost is what planning cost over a series, as shares of all load.
type plannedCost struct{ unplanned, vain float64 }

func (c plannedCost) all() float64 { return weight*c.unplanned + c.vain }

// TestForecast: on a week of real load, after two days of learning, planning by the forecast costs less than
// planning by the last value, and than the last value with a fixed margin.
func TestForecast(t *testing.T) {
	t.Parallel()
	for category, series := range rates(t) {
		for _, ahead := range []int{1, 3, 6} {
			f := scaler.Forecast{Ahead: ahead}
			plans := make([][3]float64, len(series))
			for i, v := range series {
				f.Add(v)
				if i+ahead < len(series) {
					plans[i+ahead] = [3]float64{f.Upper(), v, 1.2 * v}
				}
			}
			var costs [3]plannedCost
			total := 0.0
			for i := 288; i < len(series); i++ {
				total += series[i]
				for k, plan := range plans[i] {
					costs[k].unplanned += max(0, series[i]-plan)
					costs[k].vain += max(0, plan-series[i])
				}
			}
			for k := range costs {
				costs[k].unplanned, costs[k].vain = costs[k].unplanned/total, costs[k].vain/total
			}
			ours, naive, fixed := costs[0], costs[1], costs[2]
			t.Logf("%s, %d ahead: unplanned %.1f %% and in vain %.1f %%; last value %.1f and %.1f; last value and a fifth %.1f and %.1f", category, ahead,
				100*ours.unplanned, 100*ours.vain, 100*naive.unplanned, 100*naive.vain, 100*fixed.unplanned, 100*fixed.vain)
			if ours.all() >= min(naive.all(), fixed.all()) {
				t.Errorf("%s, %d ahead: the forecast costs %.3f, the last value %.3f, with a fixed margin %.3f", category, ahead, ours.all(), naive.all(), fixed.all())
			}
		}
	}
}

// TestForecastEdges: nothing, zeros, and a first value after them.
func TestForecastEdges(t *testing.T) {
	t.Parallel()
	f := scaler.Forecast{Ahead: 3}
	if f.Upper() != 0 {
		t.Errorf("before the first window: %v, want 0", f.Upper())
	}
	for range 50 {
		f.Add(0)
	}
	if f.Upper() != 0 {
		t.Errorf("after zeros: %v, want 0", f.Upper())
	}
	f.Add(7)
	if got := f.Upper(); got < 5 || math.IsNaN(got) || got > 100 {
		t.Errorf("after the first load: %v, want about 7", got)
	}
	for range 500 {
		f.Add(7)
	}
	if got := f.Upper(); math.Abs(got-7) > 0.1 {
		t.Errorf("after a steady load of 7: %v", got)
	}
}

func rates(t *testing.T) map[string][]float64 {
	t.Helper()
	file, err := os.Open("testdata/servegen_rates.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]float64{}
	for _, r := range rows[1:] {
		v, err := strconv.ParseFloat(r[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[r[0]] = append(out[r[0]], v)
	}
	return out
}
