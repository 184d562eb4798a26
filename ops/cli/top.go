package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pelton-run/pelton/contracts"
)

const (
	// topEvery is how often top looks and draws.
	topEvery = time.Second
	// topTime is how long one look may take.
	topTime = 5 * time.Second
	// topSpan is how many looks rates and quantiles are of.
	topSpan = 30
)

// What a terminal is told: another screen without a cursor, its upper left corner, the rest of a line and of the screen.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toCorner    = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

func (a *app) topCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "top", Short: "Show the fleet live: workers, queues, first tokens, refusals", Args: cobra.NoArgs,
		Example: example("pelton top", "pelton top --once"),
		Long: `top draws the fleet each second until q or Ctrl-C. It reads what worker ls, queue ls and the console do
(/v1/workers, /v1/queues, /metrics), so where the door asks for keys it needs an operator's. Rates, and the time to a
first token at the door, are of the last half minute, at the dispatcher that answers; without any first token in it, since
that one's start. While the fleet does not answer
it keeps what it knew and tries again. With --once, or where the output is no terminal, it prints one frame.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.settings.yes("once") || !isTerminal(a.screen()) {
				return a.topOnce(cmd.Context())
			}
			return a.topLive(cmd.Context())
		},
	}
	serverFlag(c)
	c.Flags().Bool("once", false, "print one frame and end")
	return c
}

// screen is what stdout writes to.
func (a *app) screen() io.Writer {
	if o, ok := a.out.(*output); ok {
		return o.Writer
	}
	return a.out
}

// topOnce prints a frame of two looks a second apart, of which rates need both.
func (a *app) topOnce(ctx context.Context) error {
	var seen looks
	for i := range 2 {
		if i > 0 && !sleep(ctx, topEvery) {
			return ctx.Err()
		}
		l, err := a.lookAtFleet(ctx)
		if err != nil {
			return err
		}
		seen.add(l)
	}
	_, err := io.WriteString(a.out, strings.Join(seen.frame(a.settings.text("server"), nil), "\n")+"\n")
	return err
}

// sleep tells whether ctx lasted for so long.
func sleep(ctx context.Context, span time.Duration) bool {
	select {
	case <-time.After(span):
		return true
	case <-ctx.Done():
		return false
	}
}

// topLive draws until it is told to end, and leaves the terminal as it was.
func (a *app) topLive(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if in, ok := a.in.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(int(in.Fd()), before) }()
		go keys(in, stop) // until the process ends: a read of a terminal cannot be called off
	}
	if _, err := io.WriteString(a.out, enterScreen); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(a.out, leaveScreen) }()
	var seen looks
	for begin := time.Now(); ctx.Err() == nil; begin = time.Now() {
		l, err := a.lookAtFleet(ctx)
		if err == nil {
			seen.add(l)
		} else if ctx.Err() != nil {
			break
		}
		if _, err := io.WriteString(a.out, a.drawn(seen.frame(a.settings.text("server"), err))); err != nil {
			return err
		}
		sleep(ctx, topEvery-time.Since(begin))
	}
	return nil
}

// keys calls stop when a key says so: in raw mode Ctrl-C is one too.
func keys(in io.Reader, stop func()) {
	var b [64]byte
	for {
		n, err := in.Read(b[:])
		if err != nil || bytes.ContainsAny(b[:n], "qQ\x03\x04") {
			stop()
			return
		}
	}
}

// drawn is a frame as the terminal is to get it: cut to its size, over the one before.
func (a *app) drawn(lines []string) string {
	width, height := 80, 24
	if f, ok := a.screen().(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	if len(lines) > height {
		lines = append(lines[:height-1:height-1], fmt.Sprintf("… and %d lines more", len(lines)-height+1))
	}
	var b strings.Builder
	b.WriteString(toCorner)
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if utf8.RuneCountInString(line) > width {
			line = string([]rune(line)[:width-1]) + "…"
		}
		b.WriteString(line + clearLine)
	}
	b.WriteString(clearBelow)
	return b.String()
}

// fleetLook is the fleet at one moment.
type fleetLook struct {
	at      time.Time
	workers []contracts.Heartbeat
	queues  []contracts.QueueDepth
	door    samples
}

func (a *app) lookAtFleet(ctx context.Context) (l fleetLook, err error) {
	ctx, cancel := context.WithTimeout(ctx, topTime)
	defer cancel()
	if l.workers, err = fetchList[contracts.Heartbeat](ctx, a, "/v1/workers"); err != nil {
		return l, err
	}
	if l.queues, err = fetchList[contracts.QueueDepth](ctx, a, "/v1/queues"); err != nil {
		return l, err
	}
	resp, err := a.open(ctx, "GET", "/metrics", nil)
	if err != nil {
		return l, err
	}
	defer func() { _ = resp.Body.Close() }()
	l.door, err = parseSamples(io.LimitReader(resp.Body, maxReply))
	l.at = time.Now()
	return l, err
}

// looks are the latest looks, the oldest first.
type looks []fleetLook

// add adds a look.
func (s *looks) add(l fleetLook) {
	*s = append(*s, l)
	if len(*s) > topSpan {
		*s = slices.Delete(*s, 0, 1)
	}
}

// door is the last look, and the first one at the same process: another one, or the same after a restart, counts anew.
func (s looks) door() (first, last fleetLook) {
	last = s[len(s)-1]
	i := slices.IndexFunc(s, func(l fleetLook) bool { return l.door.started() == last.door.started() })
	return s[i], last
}

// frame is what is shown of the looks, line by line. away is why there is no newer one.
func (s *looks) frame(server string, away error) []string {
	clock := time.Now().Format(time.TimeOnly)
	if len(*s) == 0 {
		lines := []string{plain(fmt.Sprintf("%s  %s", server, clock))}
		if away != nil {
			lines = append(lines, "", plain(describe(away)), "trying again")
		}
		return lines
	}
	first, last := s.door()
	seconds := last.at.Sub(first.at).Seconds()
	rates, all := tokenRates(*s)
	running, held := 0, 0
	for _, w := range last.workers {
		running += len(w.Jobs)
	}
	waiting := 0
	for _, q := range last.queues {
		waiting, held = waiting+q.Pending, held+q.Held
	}
	lines := []string{plain(fmt.Sprintf("%s  %s  %d workers  %d running  %d waiting  %d held  %s tokens/s", server, clock, len(last.workers), running, waiting, held, all))}
	p50, p95, since := firstTokens(first.door, last.door, 0.5), firstTokens(first.door, last.door, 0.95), ""
	if p50 == "-" {
		if p50 = firstTokens(nil, last.door, 0.5); p50 != "-" {
			p95, since = firstTokens(nil, last.door, 0.95), " since its start"
		}
	}
	rate := func(outcome string) string {
		if seconds <= 0 {
			return "-"
		}
		label := `outcome="` + outcome + `"`
		return fmt.Sprintf("%.1f/s", max(0, last.door.total("pelton_jobs_total", label)-first.door.total("pelton_jobs_total", label))/seconds)
	}
	lines = append(lines, fmt.Sprintf("first token p50 %s  p95 %s%s    admitted %s    refused: shed %s  rejected %s", p50, p95, since, rate("admitted"), rate("shed"), rate("rejected")))
	if away != nil {
		lines = append(lines, plain(fmt.Sprintf("NO ANSWER for %s, trying again: %s", time.Since(last.at).Round(time.Second), describe(away))))
	}
	lines = append(lines, "")
	lines = append(lines, columns(workerRows(last.workers, rates))...)
	lines = append(lines, "")
	return append(lines, columns(queueRows(last.queues))...)
}

func workerRows(workers []contracts.Heartbeat, rates map[string]string) [][]string {
	rows := [][]string{{"WORKER", "STATE", "MODEL", "DEVICE", "JOBS", "SLOTS", "KV RESERVED", "KV TOTAL", "RESIDENT", "TOKENS/S", "STEP"}}
	for _, w := range workers {
		used := 0
		for _, j := range w.Jobs {
			used += j.Slots
		}
		rows = append(rows, []string{w.Worker, workerState(w), w.Model, w.Device, strconv.Itoa(len(w.Jobs)), fmt.Sprintf("%d/%d", used, w.Slots),
			size(w.KV.Reserved), size(w.KV.Total), size(w.Stats.ResidentBytes), rates[w.Worker], fmt.Sprintf("%.1f ms", w.Stats.StepMS)})
	}
	return rows
}

// queueRows adds up the sizes of each class, and leaves out classes of open queues in which nothing is.
func queueRows(queues []contracts.QueueDepth) [][]string {
	type line struct {
		model string
		class contracts.Class
	}
	sums := map[line]contracts.QueueDepth{}
	var order []line
	for _, q := range queues {
		k := line{q.Model, q.Class}
		sum, known := sums[k]
		if !known {
			order = append(order, k)
		}
		if state := stateOf(q); !known || state != string(contracts.QueueOpen) {
			sum.State = contracts.QueueState(state)
		}
		sum.Pending, sum.Running, sum.Held = sum.Pending+q.Pending, sum.Running+q.Running, sum.Held+q.Held
		sums[k] = sum
	}
	rows := [][]string{{"MODEL", "CLASS", "STATE", "WAITING", "HELD", "RUNNING"}}
	for _, k := range order {
		if q := sums[k]; q.State != contracts.QueueOpen || q.Pending+q.Running+q.Held > 0 {
			rows = append(rows, []string{k.model, string(k.class), string(q.State), strconv.Itoa(q.Pending), strconv.Itoa(q.Held), strconv.Itoa(q.Running)})
		}
	}
	if len(rows) == 1 {
		return [][]string{{"no jobs"}}
	}
	return rows
}

func columns(rows [][]string) []string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		for i := range r {
			r[i] = plain(dash(r[i]))
		}
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

// plain is s without what a terminal may take for a command: names come from whoever runs a worker.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// tokenRates are the output tokens a second of each worker, by its own clock, and of all.
func tokenRates(s looks) (of map[string]string, all string) {
	type count struct{ sent, started, tokens int64 }
	first, sum, known := map[string]count{}, 0.0, false
	of = map[string]string{}
	for _, l := range s {
		for _, w := range l.workers {
			now := count{w.Sent, w.Started, w.Stats.OutputTokens}
			before, seen := first[w.Worker]
			if !seen || before.started != now.started {
				first[w.Worker] = now
			}
		}
	}
	for _, w := range s[len(s)-1].workers {
		before := first[w.Worker]
		if seconds := float64(w.Sent-before.sent) / 1000; seconds > 0 {
			rate := max(0, float64(w.Stats.OutputTokens-before.tokens)/seconds)
			of[w.Worker], sum, known = fmt.Sprintf("%.1f", rate), sum+rate, true
		}
	}
	if !known {
		return of, "-"
	}
	return of, fmt.Sprintf("%.1f", sum)
}

// firstTokens is a quantile of the times to a first token at the door that came between two looks.
func firstTokens(before, now samples, q float64) string {
	const name = "pelton_gateway_time_to_first_token_seconds_bucket"
	was, counts := before.buckets(name), now.buckets(name)
	for i := range counts {
		for _, b := range was {
			if b.to == counts[i].to {
				counts[i].count -= b.count
			}
		}
	}
	low, below := 0.0, 0.0
	for i, b := range counts {
		all := counts[len(counts)-1].count
		if all <= 0 {
			break
		}
		if b.count >= q*all {
			switch {
			case i == len(counts)-1: // the last bucket has no end
				return "> " + span(low)
			case b.count > below:
				low += (b.to - low) * (q*all - below) / (b.count - below)
			}
			return span(low)
		}
		low, below = b.to, b.count
	}
	return "-"
}

func span(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

// samples are the lines of Prometheus's text format that this command reads: names with labels to values.
type samples map[string]float64

var errNoMetrics = errors.New("/metrics tells nothing of this fleet: give --server a dispatcher, of this version")

func parseSamples(r io.Reader) (samples, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	out := samples{}
	for line := range strings.Lines(string(text)) {
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64); err == nil {
			out[line[:at]] = v
		}
	}
	if len(out) == 0 {
		return nil, errNoMetrics
	}
	return out, nil
}

// started is when the process began that answered.
func (s samples) started() float64 { return s["process_start_time_seconds"] }

// total adds up the series of a name that have a label.
func (s samples) total(name, label string) (sum float64) {
	for series, v := range s {
		if strings.HasPrefix(series, name+"{") && strings.Contains(series, label) {
			sum += v
		}
	}
	return sum
}

// bucket is how many came within a time.
type bucket struct{ to, count float64 }

// buckets adds up a histogram over all its series, the shortest time first.
func (s samples) buckets(name string) (out []bucket) {
	sums := map[float64]float64{}
	for series, v := range s {
		labels, ours := strings.CutPrefix(series, name+"{")
		_, le, has := strings.Cut(labels, `le="`)
		le, _, _ = strings.Cut(le, `"`)
		if to, err := strconv.ParseFloat(le, 64); ours && has && err == nil {
			sums[to] += v
		}
	}
	for to, n := range sums {
		out = append(out, bucket{to, n})
	}
	slices.SortFunc(out, func(a, b bucket) int { return cmp.Compare(a.to, b.to) })
	return out
}
