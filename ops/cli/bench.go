package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/ops/loadgen"
)

func (a *app) benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Offer load to an OpenAI endpoint or a fleet and report latencies and goodput",
		Long: `bench draws a plan of requests from a seed and sends it, in the open loop (no request waits for another's
answer, times count from the planned moment) or with --concurrency in the closed loop. It reports TTFT, TPOT,
ITL, E2E, goodput, refusals, wasted tokens and its own schedule slip, as a table, in the JSON of vLLM's
benchmark and as an HTML page. Exit code 8 means that fewer than --min-attainment of the requests were good,
5 that none completed, 1 that this machine could not keep up, so that the figures say nothing of the server.`,
		Example: example("pelton bench --rate 20 --duration 30s --input-tokens 512 --output-tokens 64 --slo-ttft 200ms",
			"pelton bench --url http://other:8000 --arrival gamma --cv 3 --rate 50 --html report.html",
			"pelton bench --nats nats://127.0.0.1:4222 --model sim --class p1:1,p3:4 --cancel-share 0.1 --cancel-after 1s",
			"pelton bench --concurrency 16 --requests 200"),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bench(cmd.Context()) },
	}
	targetFlags(c)
	loadFlags(c)
	arrivalFlags(c)
	f := c.Flags()
	f.Duration("duration", 30*time.Second, "how long requests are sent")
	f.Int("concurrency", 0, "closed loop: keep so many requests open, whatever --rate says")
	calibrateFlags(c)
	return c
}

// arrivalFlags say when requests are sent.
func arrivalFlags(c *cobra.Command) {
	f := c.Flags()
	f.String("arrival", "poisson", "poisson, gamma (with --cv) or constant")
	f.Float64("rate", 10, "requests a second")
	f.Float64("cv", 2, "coefficient of variation of the gaps with --arrival gamma; 1 is Poisson, above is burstier")
	f.Int("requests", 0, "most requests; 0 is no bound")
}

func (a *app) replayCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay TRACE",
		Short: "Replay a trace of requests against an OpenAI endpoint or a fleet",
		Long: `replay sends the requests of a trace at its times with its lengths, and reports as bench does. It reads Azure's
CSV, Mooncake's JSON Lines (with shared prefixes) and the clients of ServeGen (arrivals are drawn from each
client's distribution; lengths are those of --input-tokens and --output-tokens).`,
		Example: example("pelton replay conv.csv --speed 90 --duration 60s", "pelton replay code.csv --share 0.1 --max-input 4096 --html burst.html",
			"pelton replay clients.csv --from 24h --speed 600 --share 0.05"),
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.replay(cmd.Context(), args[0]) },
	}
	targetFlags(c)
	loadFlags(c)
	windowFlags(c)
	c.Flags().Duration("duration", 0, "how long requests are sent; 0 is the rest of the trace")
	return c
}

// windowFlags say which part of a trace is sent.
func windowFlags(c *cobra.Command) {
	f := c.Flags()
	f.Duration("from", 0, "begin so far into the trace")
	f.Float64("speed", 1, "seconds of the trace in one of the replay")
	f.Float64("share", 1, "share of the requests that is sent, drawn at random")
	f.Int("max-input", 0, "cut longer inputs of the trace to so many tokens; 0 is no bound")
}

// targetFlags say where the load goes.
func targetFlags(c *cobra.Command) {
	brokerFlags(c)
	f := c.Flags()
	f.String("url", "http://127.0.0.1:8080", "`URL` of the OpenAI endpoint, without /v1; the key is read from PELTON_API_KEY. Unused with --nats")
	f.String("model", "", "`model` to ask; default the server's first (needed with --nats)")
	f.String("endpoint", "chat", "chat or completions")
	f.Bool("ignore-eos", true, "ask for exactly as many answer tokens as planned; servers that do not know ignore_eos may refuse it")
	f.String("tenant-keys", "", "`file` with a JSON object of API keys by tenant, for --tenant over HTTP")
	f.Duration("timeout", loadgen.DefaultTimeout, "how long an answer is waited for")
	f.Int("max-in-flight", 4096, "open loop: most requests open at once; more are not sent, and the run has failed")
}

// loadFlags say what is asked for, and what is reported.
func loadFlags(c *cobra.Command) {
	outputFlags(c)
	f := c.Flags()
	f.String("input-tokens", "512", "prompt `tokens`: a count, or a range such as 100-900")
	f.String("output-tokens", "64", "answer `tokens`: a count, or a range")
	f.String("class", "", "priority `classes` with weights, for example p1:1,p3:4")
	f.String("tenant", "", "`tenants` with weights, for example a:3,b:1")
	f.Duration("deadline", 0, "deadline of each request from its sending; 0 is none")
	f.Float64("cancel-share", 0, "share of the requests that their producer gives up")
	f.Duration("cancel-after", time.Second, "how long after sending they are given up")
	f.Duration("warm-up", 0, "leave requests planned in the first so many seconds out of the report")
	f.Uint64("seed", 0, "seed of the plan; 0 draws one")
	f.Duration("slo-ttft", 0, "a good request has its first token within this")
	f.Duration("slo-tpot", 0, "a good request takes at most this for each further token, on average")
	f.Duration("slo-e2e", 0, "a good request has its last token within this")
	f.Float64("min-attainment", 0, "exit with 8 when a smaller `share` of the requests was good")
	f.String("json", "", "`file` for the report in the JSON of vLLM's benchmark")
	f.String("html", "", "`file` for the report as a page with charts")
	f.Bool("details", false, "add the times of each request to the JSON")
}

func (a *app) bench(ctx context.Context) error {
	if a.settings.yes("calibrate") {
		return a.calibrate(ctx)
	}
	l, err := a.arrivals()
	if err != nil {
		return err
	}
	if open := a.settings.number("concurrency"); open > 0 {
		l.label, l.traffic = fmt.Sprintf("closed loop of %d", open), loadgen.Traffic{Concurrency: open}
		most := a.settings.number("requests")
		if most == 0 {
			most = 200_000 // the duration ends it
		}
		l.draw = func(*rand.Rand) (loadgen.Plan, error) { return make(loadgen.Plan, most), nil }
	}
	return a.offer(ctx, l)
}

func (a *app) replay(ctx context.Context, path string) error {
	l, err := a.trace(path, a.settings.duration("duration"))
	if err != nil {
		return err
	}
	return a.offer(ctx, l)
}

// maxRequests is the most that is drawn without --requests.
const maxRequests = 4_000_000

// load is where a plan comes from.
type load struct {
	label   string
	traffic loadgen.Traffic
	draw    func(*rand.Rand) (loadgen.Plan, error)
}

// of is the traffic of a plan of the load: a trace's rate is known only then.
func (l load) of(plan loadgen.Plan) loadgen.Traffic {
	t := l.traffic
	if last := plan[len(plan)-1].At; t == (loadgen.Traffic{}) && last > 0 {
		t.Rate = float64(len(plan)) / last.Seconds()
	}
	return t
}

// arrivals is the load of arrivalFlags.
func (a *app) arrivals() (load, error) {
	p := loadgen.Process{Kind: a.settings.text("arrival"), Rate: *a.float("rate"), CV: *a.float("cv")}
	if err := p.Validate(); err != nil {
		return load{}, usageError{err}
	}
	label, traffic := fmt.Sprintf("%s, %g requests/s", p.Kind, p.Rate), loadgen.Traffic{Rate: p.Rate}
	switch p.Kind {
	case "poisson":
		traffic.Burstiness = 1
	case "gamma":
		label += fmt.Sprintf(", cv %g", p.CV)
		traffic.Burstiness = 1 / (p.CV * p.CV)
	}
	until, most := a.settings.duration("duration"), a.settings.number("requests")
	if n := p.Rate * until.Seconds(); most == 0 && n > maxRequests {
		return load{}, usageError{fmt.Errorf("%.3g requests/s for %v are %.3g requests, at most %d are drawn: lower --rate or --duration, or say --requests", p.Rate, until, n, maxRequests)}
	}
	return load{label, traffic, func(rng *rand.Rand) (loadgen.Plan, error) { return loadgen.At(p.Draw(rng, until, most)), nil }}, nil
}

// trace is the load of a file, cut by windowFlags.
func (a *app) trace(path string, until time.Duration) (load, error) {
	w := loadgen.Window{From: a.settings.duration("from"), Until: until, Speed: *a.float("speed"), Share: *a.float("share")}
	if !(w.Speed > 0 && w.Speed <= math.MaxFloat64) || !(w.Share > 0 && w.Share <= 1) || w.From < 0 || w.Until < 0 {
		return load{}, usageError{errors.New("--speed must be above 0, --share above 0 and at most 1, --from and --duration not negative")}
	}
	if _, err := os.Stat(path); err != nil {
		return load{}, coded{err, exitNotFound}
	}
	label := fmt.Sprintf("%s at speed %g, share %g", path, w.Speed, w.Share)
	return load{label, loadgen.Traffic{}, func(rng *rand.Rand) (loadgen.Plan, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return loadgen.ReadTrace(f, rng, w)
	}}, nil
}

// sound refuses numbers below 0 where they mean nothing, and shares that are none.
func (a *app) sound() error {
	var errs []error
	for _, name := range []string{"requests", "concurrency", "max-in-flight", "max-input", "duration", "timeout", "warm-up", "deadline", "cancel-after", "slo-ttft", "slo-tpot", "slo-e2e"} {
		if strings.HasPrefix(a.settings.text(name), "-") {
			errs = append(errs, fmt.Errorf("--%s must not be negative", name))
		}
	}
	for _, name := range []string{"cancel-share", "min-attainment"} {
		if v := *a.float(name); !(v >= 0 && v <= 1) {
			errs = append(errs, fmt.Errorf("--%s must be from 0 to 1", name))
		}
	}
	return errors.Join(errs...)
}

var errWarmUp = usageError{errors.New("--warm-up leaves no request to report: shorten it, or raise --duration")}

// plan draws what is sent, from a seed.
func (a *app) plan(l load) (plan loadgen.Plan, mix loadgen.Mix, seed uint64, err error) {
	mix, err = a.mix()
	if err = errors.Join(a.sound(), err); err != nil {
		return nil, mix, 0, usageError{err}
	}
	if seed, _ = strconv.ParseUint(a.settings.text("seed"), 10, 64); seed == 0 {
		seed = rand.Uint64()>>11 | 1 // JSON readers take integers up to 2^53
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	if plan, err = l.draw(rng); err != nil {
		return nil, mix, 0, usageError{err}
	}
	if len(plan) == 0 {
		return nil, mix, 0, usageError{errors.New("the plan holds no request: raise --duration or --rate, or choose another part of the trace")}
	}
	if a.settings.number("concurrency") == 0 && plan[len(plan)-1].At < a.settings.duration("warm-up") {
		return nil, mix, 0, errWarmUp
	}
	return mix.Fill(rng, plan), mix, seed, nil
}

// offer draws the plan, runs it and reports.
func (a *app) offer(ctx context.Context, l load) error {
	plan, mix, seed, err := a.plan(l)
	if err != nil {
		return err
	}
	first, stop := context.WithTimeout(ctx, cmp.Or(a.settings.duration("timeout"), loadgen.DefaultTimeout))
	defer stop()
	target, header, done, err := a.target(first, mix)
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	defer done()
	prompter, err := loadgen.Gauge(first, target, plan[0].Tenant)
	if err != nil {
		return cmp.Or(ctx.Err(), error(coded{err, exitUnavailable}))
	}
	header.Date, header.Load, header.Seed, header.Settings = time.Now().UTC().Format(time.RFC3339), l.label, seed, a.given()
	header.Version, header.Objectives, header.Traffic = version(), a.objectives(), l.of(plan)
	host, _ := os.Hostname()
	header.Host = fmt.Sprintf("%s, %d cores, %s/%s, %s", host, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	fmt.Fprintf(a.err, "%s: %s, seed %d\n", header.Target, l.label, seed)
	samples, err := loadgen.Run(ctx, loadgen.Config{
		Plan: plan, Target: target, Prompter: prompter, Concurrency: a.settings.number("concurrency"),
		Until: a.settings.duration("duration"), MaxInFlight: a.settings.number("max-in-flight"), Timeout: a.settings.duration("timeout"),
	})
	if err != nil {
		return err
	}
	report := loadgen.Reduce(samples, loadgen.Measured{WarmUp: a.settings.duration("warm-up"), Objectives: header.Objectives})
	report.Run = header
	if ctx.Err() != nil { // interrupted: what there is, and the code that says so
		return errors.Join(ctx.Err(), a.writeReport(&report))
	}
	return errors.Join(a.writeReport(&report), a.judge(&report))
}

func (a *app) objectives() loadgen.Objectives {
	return loadgen.Objectives{TTFT: a.settings.duration("slo-ttft"), TPOT: a.settings.duration("slo-tpot"), E2E: a.settings.duration("slo-e2e")}
}

// given are the settings that are not defaults.
func (a *app) given() map[string]string {
	out := map[string]string{}
	for _, name := range a.settings.names() {
		if a.settings.source[name] != "default" {
			out[name] = redacted(a.settings.text(name))
		}
	}
	return out
}

func (a *app) mix() (loadgen.Mix, error) {
	m := loadgen.Mix{MaxInput: a.settings.number("max-input"), Deadline: a.settings.duration("deadline"), CancelShare: *a.float("cancel-share"), CancelAfter: a.settings.duration("cancel-after")}
	var errs [4]error
	m.Input, errs[0] = loadgen.ParseLengths(a.settings.text("input-tokens"))
	m.Output, errs[1] = loadgen.ParseLengths(a.settings.text("output-tokens"))
	m.Classes, errs[2] = loadgen.ParseWeights(a.settings.text("class"))
	m.Tenants, errs[3] = loadgen.ParseWeights(a.settings.text("tenant"))
	for _, c := range m.Classes.Names() {
		if !slices.Contains(contracts.Classes, contracts.Class(c)) {
			errs[2] = errors.Join(errs[2], fmt.Errorf("--class %s: the classes are p0 to p3", c))
		}
	}
	return m, errors.Join(errs[:]...)
}

// target is where the load goes; done closes its connection.
func (a *app) target(ctx context.Context, mix loadgen.Mix) (_ loadgen.Target, h loadgen.Header, done func(), err error) {
	text := a.settings.text("endpoint") == "completions"
	if e := a.settings.text("endpoint"); e != "chat" && !text {
		return nil, h, nil, usageError{fmt.Errorf("--endpoint %s: the endpoints are chat and completions", e)}
	}
	h.Model = a.settings.text("model")
	if a.settings.source["nats"] == "default" {
		return a.httpTarget(ctx, mix, h, text)
	}
	if a.settings.source["url"] != "default" || h.Model == "" {
		return nil, h, nil, usageError{errors.New("--nats needs --model and excludes --url")}
	}
	nc, err := connect(ctx, a.remote(), "pelton bench")
	if err != nil {
		return nil, h, nil, err
	}
	h.Target = "pelton over NATS"
	n := &loadgen.NATS{Client: clients(nc, mix), Model: h.Model, Text: text, IgnoreEOS: a.settings.yes("ignore-eos")}
	return n, h, nc.Close, nil
}

// clients has one of each tenant of a load.
func clients(nc *nats.Conn, mix loadgen.Mix) func(tenant string) *client.Client {
	of := map[string]*client.Client{}
	for _, tenant := range append(mix.Tenants.Names(), "") {
		of[tenant] = client.New(nc, tenant)
	}
	return func(tenant string) *client.Client { return of[tenant] }
}

func (a *app) httpTarget(ctx context.Context, mix loadgen.Mix, h loadgen.Header, text bool) (loadgen.Target, loadgen.Header, func(), error) {
	secure, err := a.httpClient()
	if err != nil {
		return nil, h, nil, err
	}
	key, err := apiKey()
	if err != nil {
		return nil, h, nil, usageError{err}
	}
	t := &loadgen.HTTP{
		URL: strings.TrimSuffix(a.settings.text("url"), "/"), Model: h.Model, Text: text, Key: key, IgnoreEOS: a.settings.yes("ignore-eos"),
		Client: loadgen.NewClient(secure, max(a.settings.number("max-in-flight"), a.settings.number("concurrency"))),
	}
	if t.Keys, err = a.tenantKeys(mix.Tenants.Names()); err != nil {
		return nil, h, nil, usageError{err}
	}
	if t.Model == "" {
		if t.Model, err = t.FirstModel(ctx, anyOf(mix.Tenants.Names())); err != nil {
			return nil, h, nil, coded{err, exitUnavailable}
		}
	}
	h.Target, h.Model = redacted(t.URL), t.Model
	return t, h, t.Client.CloseIdleConnections, nil
}

// anyOf is the first of names, "" of none.
func anyOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// tenantKeys reads the keys of the tenants; over HTTP a tenant is who its key says.
func (a *app) tenantKeys(tenants []string) (map[string]string, error) {
	if len(tenants) == 0 {
		return nil, nil
	}
	b, err := os.ReadFile(a.settings.text("tenant-keys"))
	if err != nil {
		return nil, fmt.Errorf("--tenant over HTTP needs --tenant-keys, a JSON file {tenant: key}: %w", err)
	}
	var keys map[string]string
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, fmt.Errorf("--tenant-keys: it is no JSON of the form {tenant: key}: %w", err)
	}
	for _, t := range tenants {
		if keys[t] == "" {
			return nil, fmt.Errorf("--tenant-keys: no key of tenant %s in %s: add it there (Pelton's: `pelton auth key add %s`)", t, a.settings.text("tenant-keys"), t)
		}
	}
	return keys, nil
}

// writeReport prints the report and writes the files that were asked for. It prints also when a file cannot be
// written: nobody measures again for that.
func (a *app) writeReport(r *loadgen.Report) error {
	var text bytes.Buffer
	err := r.WriteJSON(&text, a.settings.yes("details"))
	if err != nil {
		return err
	}
	if path := a.settings.text("json"); path != "" {
		err = errors.Join(err, os.WriteFile(path, text.Bytes(), 0o644))
	}
	if path := a.settings.text("html"); path != "" {
		var page bytes.Buffer
		err = errors.Join(err, r.WriteHTML(&page), os.WriteFile(path, page.Bytes(), 0o644))
	}
	if a.forPeople() {
		sayCounts(a.out, r)
	}
	return errors.Join(err, a.print(benchTable(r, text.Bytes())))
}

func sayCounts(w io.Writer, r *loadgen.Report) {
	fmt.Fprintf(w, "%d requests in %.1f s:", r.All.Requests, r.Duration)
	for _, o := range loadgen.Outcomes {
		if n := r.All.Outcomes[o]; n > 0 {
			fmt.Fprintf(w, " %d %s", n, o)
		}
	}
	fmt.Fprintf(w, "\ngood %.1f %%: %.4g requests/s, %.4g tokens/s (%s)\noutput %.4g tokens/s, wasted %.1f %% of the tokens\n\n", 100*r.All.Attainment(),
		r.PerSecond(r.All.GoodRequests), r.PerSecond(r.All.GoodTokens), r.Run.Objectives, r.PerSecond(r.All.OutputTokens), 100*r.All.Waste())
	if f := r.Fleet; f != nil {
		fmt.Fprintf(w, "%d x %s: busy %.1f %%, %.1f %% of it for requests that did not complete; steps of %.4g ms with %.1f sequences and %.1f prompt tokens; KV cache %.1f %% reserved\n",
			f.Workers, f.Device, 100*f.Busy, 100*f.Lost, f.StepMS, f.Rows, f.Prompt, 100*f.KV)
		if f.Deaths+f.Yielded > 0 {
			fmt.Fprintf(w, "%d workers died, %d jobs were handed over, %d gave way\n", f.Deaths, f.Handed, f.Yielded)
		}
		fmt.Fprintln(w)
	}
}

func benchTable(r *loadgen.Report, value json.RawMessage) table {
	t := table{head: []string{"GROUP", "MS", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX", "P95", "STD"}, wide: 9, value: value}
	for _, s := range append(append([]loadgen.Summary{r.All}, r.Classes...), r.Tenants...) {
		for _, m := range []struct {
			name string
			q    loadgen.Quantiles
		}{{"TTFT", s.TTFT}, {"TPOT", s.TPOT}, {"ITL", s.ITL}, {"E2E", s.E2E}, {"refusal", s.Refusals}, {"slip", s.Slip}} {
			if m.q.Count == 0 {
				continue
			}
			row := []string{s.Name, m.name, strconv.FormatInt(m.q.Count, 10)}
			for _, v := range []float64{m.q.Mean, m.q.P50, m.q.P90, m.q.P99, m.q.P999, m.q.Max, m.q.P95, m.q.Std} {
				row = append(row, fmt.Sprintf("%.4g", v))
			}
			t.rows = append(t.rows, row)
		}
	}
	return t
}

// judge makes the exit code of a report.
func (a *app) judge(r *loadgen.Report) error {
	for _, f := range r.Failures(3) {
		fmt.Fprintf(a.err, "failed: %s\n", f)
	}
	if r.All.Requests == 0 {
		return errWarmUp
	}
	warning := r.Warning()
	if r.All.Outcomes[loadgen.Unsent] > 0 {
		return fmt.Errorf("the run measured this generator, not the server: %s", warning)
	} else if warning != "" {
		fmt.Fprintf(a.err, "warning: %s\n", warning)
	}
	if least := *a.float("min-attainment"); r.All.Attainment() < least {
		return coded{fmt.Errorf("%.1f %% of the requests were good, %.1f %% are wanted", 100*r.All.Attainment(), 100*least), exitCheck}
	}
	if r.All.Outcomes[loadgen.Completed]+r.All.Outcomes[loadgen.Canceled] == 0 {
		return contracts.Errorf(contracts.CodeUnavailable, "no request completed: what failed is said above; see that the server is up and serves the model")
	}
	return nil
}
