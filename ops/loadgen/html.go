package loadgen

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"
	"strings"
)

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"ms":      func(v float64) string { return fmt.Sprintf("%.4g", v) },
	"rate":    func(v float64) string { return fmt.Sprintf("%.4g", v) },
	"percent": func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) },
	"args":    func(name string, q Quantiles) row { return row{name, q} },
}).Parse(page))

// row is one line of the table of times.
type row struct {
	Name  string
	Times Quantiles
}

// WriteHTML writes r as one page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	return pageTemplate.Execute(w, struct {
		*Report
		Outcomes []Outcome
		Groups   []Summary
		Charts   []chart
	}{r, Outcomes, append(append([]Summary{r.All}, r.Classes...), r.Tenants...), r.charts()})
}

// chart is a picture in a box of width x height.
type chart struct {
	Title  string
	Lines  []line
	XTicks []tick
	YTicks []tick
}

// line is one series; Color numbers a color of the page.
type line struct {
	Name   string
	Color  int
	Points string
}

type tick struct {
	At    float64
	Label string
}

const width, height = 560.0, 220.0

type series struct {
	name   string
	points [][2]float64
}

func (s *series) add(x, y float64) { s.points = append(s.points, [2]float64{x, y}) }

func (r *Report) charts() []chart {
	planned, answered, refused := series{name: "planned"}, series{name: "answered"}, series{name: "refused"}
	p50, p99 := series{name: "TTFT p50"}, series{name: "TTFT p99"}
	for _, s := range r.Seconds {
		planned.add(s.At, float64(s.Planned))
		answered.add(s.At, float64(s.Answered))
		refused.add(s.At, float64(s.Refused))
		if s.Answered > 0 {
			p50.add(s.At, s.TTFT50)
			p99.add(s.At, s.TTFT99)
		}
	}
	var latencies []series
	end := nines(50)
	for _, c := range r.Curves {
		s := series{name: c.Name}
		for _, p := range c.Points {
			s.add(nines(p[0]), p[1])
			end = max(end, nines(p[0]))
		}
		latencies = append(latencies, s)
	}
	quantiles := draw("Times by percentile (ms)", latencies, true)
	quantiles.XTicks = nil
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		if x := nines(p) / end; x <= 1 {
			quantiles.XTicks = append(quantiles.XTicks, tick{x * width, fmt.Sprintf("p%v", p)})
		}
	}
	return []chart{
		quantiles,
		draw("TTFT over the run (ms, by planned time in s)", []series{p50, p99}, true),
		draw("Requests of each slice of the run (by planned time in s)", []series{planned, answered, refused}, false),
	}
}

// nines spreads percentiles so that each nine takes the same room.
func nines(p float64) float64 { return -math.Log10(1 - p/100) }

// draw scales the series into one box: x from the least to the greatest, y from 0, or by decades.
func draw(title string, all []series, decades bool) chart {
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), 0.0
	for _, s := range all {
		for _, p := range s.points {
			x0, x1 = min(x0, p[0]), max(x1, p[0])
			y0, y1 = min(y0, p[1]), max(y1, p[1])
		}
	}
	if x1 <= x0 {
		x0, x1 = min(x0, x1)-0.5, min(x0, x1)+1
	}
	if math.IsInf(x0, 0) {
		x0, x1, y0 = 0, 1, 1
	}
	y := scale{0, max(1, y1), false}
	if decades {
		y = scale{math.Floor(math.Log10(max(1e-3, y0))), math.Ceil(math.Log10(max(2e-3, y1))), true}
		y.high = max(y.high, y.low+1)
	}
	c := chart{Title: title, YTicks: y.ticks(), XTicks: []tick{{0, fmt.Sprintf("%.4g", x0)}, {width / 2, fmt.Sprintf("%.4g", (x0+x1)/2)}, {width, fmt.Sprintf("%.4g", x1)}}}
	for i, s := range all {
		var b strings.Builder
		for _, p := range s.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", (p[0]-x0)/(x1-x0)*width, y.at(p[1]))
		}
		c.Lines = append(c.Lines, line{s.name, i, b.String()})
	}
	return c
}

// scale is a vertical axis; of decades, low and high are powers of ten.
type scale struct {
	low, high float64
	decades   bool
}

func (s scale) at(v float64) float64 {
	if s.decades {
		v = math.Log10(max(1e-3, v))
	}
	return height * (1 - (v-s.low)/(s.high-s.low))
}

func (s scale) ticks() []tick {
	var out []tick
	if !s.decades {
		for i := range 5 {
			v := s.high * float64(i) / 4
			out = append(out, tick{s.at(v), fmt.Sprintf("%.3g", v)})
		}
		return out
	}
	for e := s.low; e <= s.high; e++ {
		out = append(out, tick{s.at(math.Pow(10, e)), strconv.FormatFloat(math.Pow(10, e), 'f', -1, 64)})
	}
	return out
}
