package loadgen

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window says which part of a trace is replayed, and how.
type Window struct {
	From  time.Duration // in the trace's time
	Until time.Duration // length of the replay in real time; 0 is the rest of the trace
	Speed float64       // trace seconds in a real one; 0 is 1
	Share float64       // of the requests that is kept, drawn at random; 0 is all
}

// ReadTrace reads the requests of a trace file inside w. It knows three formats by their first line:
// Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens), Mooncake's JSON Lines (timestamp in ms,
// input_length, output_length, hash_ids) and ServeGen's clients (client, start_s, rate_rps, cv,
// distribution, p1, p2), whose arrivals are drawn from rng and which say nothing of lengths.
func ReadTrace(in io.Reader, rng *rand.Rand, w Window) (Plan, error) {
	w.Speed = cmp.Or(w.Speed, 1)
	w.Share = cmp.Or(w.Share, 1)
	b := bufio.NewReader(in)
	first, err := b.Peek(1)
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the trace is empty: give one of Azure's or ServeGen's columns, or Mooncake's JSON Lines")
	} else if err != nil {
		return nil, fmt.Errorf("the trace cannot be read: %w", err)
	}
	var p Plan
	if first[0] == '{' {
		p, err = readMooncake(b)
	} else {
		p, err = readCSV(b, rng, w)
	}
	if err != nil {
		return nil, err
	}
	return w.cut(rng, p), nil
}

// end is the end of the window in the trace's time.
func (w Window) end() time.Duration {
	end := float64(w.From) + float64(w.Until)*w.Speed
	if w.Until == 0 || end >= math.MaxInt64 { // a Duration ends after 292 years
		return math.MaxInt64
	}
	return time.Duration(end)
}

// cut keeps what lies in the window and converts it to real time.
func (w Window) cut(rng *rand.Rand, p Plan) Plan {
	slices.SortStableFunc(p, func(a, b Request) int { return cmp.Compare(a.At, b.At) })
	out := Plan{}
	for _, r := range p {
		if r.At < w.From || r.At >= w.end() || rng.Float64() >= w.Share {
			continue
		}
		at := float64(r.At-w.From) / w.Speed
		if at >= math.MaxInt64 {
			return out // it never comes, nor do those after it
		}
		r.At = time.Duration(at)
		out = append(out, r)
	}
	return out
}

func readMooncake(in io.Reader) (Plan, error) {
	var p Plan
	dec := json.NewDecoder(in)
	for {
		var line struct {
			Timestamp *float64 `json:"timestamp"`
			Input     int      `json:"input_length"`
			Output    int      `json:"output_length"`
			Blocks    []int64  `json:"hash_ids"`
		}
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return p, nil
		} else if err != nil {
			return nil, fmt.Errorf("trace, request %d: %w", len(p)+1, err)
		}
		at := line.Timestamp
		switch {
		case at == nil:
			return nil, fmt.Errorf("trace, request %d: no timestamp: the JSON Lines of a trace are Mooncake's", len(p)+1)
		case !(*at >= 0 && *at < 1e12):
			return nil, fmt.Errorf("trace, request %d: timestamp %g: wanted milliseconds since the first", len(p)+1, *at)
		}
		if err := sound(line.Input, line.Output); err != nil {
			return nil, fmt.Errorf("trace, request %d: %w", len(p)+1, err)
		}
		p = append(p, Request{At: time.Duration(*at * float64(time.Millisecond)), Input: line.Input, Output: line.Output, Blocks: line.Blocks})
	}
}

// sound tells what is wrong with the lengths of a request.
func sound(input, output int) error {
	if min(input, output) < 0 || max(input, output) > maxTokens {
		return fmt.Errorf("%d tokens in, %d out: wanted 0 to %d", input, output, maxTokens)
	}
	return nil
}

func readCSV(in io.Reader, rng *rand.Rand, w Window) (Plan, error) {
	r := csv.NewReader(in)
	r.ReuseRecord = true // a week of Azure's has 27 million rows
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	var row func([]string) error
	var p Plan
	switch head := strings.Join(head, ","); head {
	case "TIMESTAMP,ContextTokens,GeneratedTokens":
		row = azure(&p, w)
	case "client,start_s,rate_rps,cv,distribution,p1,p2":
		row = serveGen(&p, rng, w)
	default:
		return nil, fmt.Errorf("trace: unknown columns %q: wanted Azure's, ServeGen's, or Mooncake's JSON Lines", head)
	}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return nil, fmt.Errorf("trace: %w", err)
		}
		if err := row(fields); err != nil {
			line, _ := r.FieldPos(0)
			return nil, fmt.Errorf("trace, line %d: %w", line, err)
		}
	}
}

// azure takes the rows of a trace that lie in w. Times of 2023 have no zone, those of 2024 have one, and no
// fraction when that is zero.
func azure(p *Plan, w Window) func([]string) error {
	var start time.Time
	return func(row []string) error {
		at, err := time.Parse("2006-01-02 15:04:05.9999999", strings.TrimSuffix(row[0], "+00:00"))
		input, err2 := strconv.Atoi(row[1])
		output, err3 := strconv.Atoi(row[2])
		if err := errors.Join(err, err2, err3, sound(input, output)); err != nil {
			return err
		}
		if start.IsZero() {
			start = at
		}
		since := at.Sub(start)
		if since < 0 {
			return errors.New("it is earlier than the first: sort the trace by its times")
		}
		if since >= w.From && since < w.end() {
			*p = append(*p, Request{At: since, Input: max(1, input), Output: max(1, output)})
		}
		return nil
	}
}

// serveGenWindow is how long ServeGen's rate of a client holds.
const serveGenWindow = 600 * time.Second

// Bounds of what a client of ServeGen may ask for.
const (
	maxRate  = 1e5  // requests a second
	minShape = 0.01 // of the distribution: with less, gaps are 0 or without end
)

// serveGen draws the arrivals of each client and window: so many gaps as the rate asks for, stretched
// so that they fill the window, as ServeGen's own generator does (arXiv 2505.09999).
func serveGen(p *Plan, rng *rand.Rand, w Window) func([]string) error {
	return func(row []string) error {
		var v [4]float64 // start_s, rate_rps, p1, p2
		var errs []error
		for j, column := range []int{1, 2, 5, 6} {
			var err error
			v[j], err = strconv.ParseFloat(row[column], 64)
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if !(v[0] >= 0 && v[0] < 1e9 && v[1] >= 0 && v[1] <= maxRate && v[2] >= minShape && v[2] <= 1e6) {
			return fmt.Errorf("start_s %g, rate_rps %g, p1 %g: they must not be negative, the rate at most %g, p1 at least %g", v[0], v[1], v[2], maxRate, minShape)
		}
		draw := gamma
		if row[4] == "Weibull" {
			draw = weibull
		} else if row[4] != "Gamma" {
			return fmt.Errorf("distribution %q is neither Gamma nor Weibull", row[4])
		}
		start := time.Duration(v[0] * float64(time.Second))
		if start+serveGenWindow <= w.From || start >= w.end() {
			return nil
		}
		n := int(v[1]*serveGenWindow.Seconds() + rng.Float64()) // the fraction decides at random
		for _, at := range fill(rng, n, v[2], draw) {
			*p = append(*p, Request{At: start + time.Duration(at*float64(serveGenWindow))})
		}
		return nil
	}
}

// fill returns n arrivals in [0, 1) whose n+1 gaps are drawn and stretched. The scale of the
// distribution falls out by the stretching.
func fill(rng *rand.Rand, n int, shape float64, draw func(*rand.Rand, float64) float64) []float64 {
	out := make([]float64, n)
	sum := 0.0
	for i := range out {
		sum += draw(rng, shape)
		out[i] = sum
	}
	sum += draw(rng, shape)
	for i := range out {
		out[i] /= max(sum, math.SmallestNonzeroFloat64)
	}
	return out
}
