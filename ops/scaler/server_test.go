package scaler_test

import (
	"context"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/ops/scaler"
)

// definition is the protocol as KEDA 2.21 has it: names, numbers and types of all fields.
const definition = `syntax = "proto3"; package externalscaler;
message ScaledObjectRef { string name = 1; string namespace = 2; map<string, string> scalerMetadata = 3; }
message IsActiveResponse { bool result = 1; }
message GetMetricSpecResponse { repeated MetricSpec metricSpecs = 1; }
message MetricSpec { string metricName = 1; int64 targetSize = 2; double targetSizeFloat = 3; }
message GetMetricsRequest { ScaledObjectRef scaledObjectRef = 1; string metricName = 2; }
message GetMetricsResponse { repeated MetricValue metricValues = 1; }
message MetricValue { string metricName = 1; int64 metricValue = 2; double metricValueFloat = 3; }`

// dispatcher answers as one does; its fields are guarded by mu.
type dispatcher struct {
	mu      sync.Mutex
	name    string
	arrived backlog.Arrived
	jobs    int
	held    int
	state   contracts.QueueState
	running []contracts.RunningJob
	url     string
}

func (d *dispatcher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var v any
	switch r.URL.Path {
	case "/v1/load":
		models := map[string]backlog.Arrived{}
		if d.arrived != (backlog.Arrived{}) {
			models["m"] = d.arrived
		}
		v = map[string]any{"dispatcher": d.name, "models": models}
	case "/v1/workers":
		steps := contracts.StepSums{Budget: 512}
		for i := range 100 { // 10 ms a step, 0.1 ms a prompt token, 0.5 ms a row
			p, rows := float64(i%7*50), float64(i%9)
			steps.Add(p, rows, 10+0.1*p+0.5*rows, 0)
		}
		v = map[string]any{"data": []contracts.Heartbeat{{Model: "m", State: contracts.WorkerReady, Slots: 8, Jobs: d.running, KV: contracts.KVMemory{Total: 1 << 30, PerToken: 1 << 10}, Steps: &steps}}}
	case "/v1/queues":
		v = map[string]any{"data": []map[string]any{{"model": "m", "state": d.state, "pending": d.jobs, "running": 0}, {"model": "m", "state": d.state, "class": "p3", "held": d.held}}}
	}
	_ = json.NewEncoder(w).Encode(v)
}

func (d *dispatcher) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// keda is a client that knows the protocol from its definition only.
type keda struct {
	conn  *grpc.ClientConn
	types protoreflect.MessageDescriptors
}

func (k keda) message(name protoreflect.Name) *dynamicpb.Message {
	return dynamicpb.NewMessage(k.types.ByName(name))
}

func field(m protoreflect.Message, name protoreflect.Name) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(name))
}

// ref is what a trigger's metadata says, in pairs after the model.
func (k keda) ref(model string, more ...string) *dynamicpb.Message {
	ref := k.message("ScaledObjectRef")
	fields := ref.Descriptor().Fields()
	ref.Set(fields.ByName("name"), protoreflect.ValueOfString("pool"))
	entries := ref.Mutable(fields.ByName("scalerMetadata")).Map()
	entries.Set(protoreflect.ValueOfString("scalerAddress").MapKey(), protoreflect.ValueOfString("x:1"))
	if model != "" {
		entries.Set(protoreflect.ValueOfString("model").MapKey(), protoreflect.ValueOfString(model))
	}
	for ; len(more) > 1; more = more[2:] {
		entries.Set(protoreflect.ValueOfString(more[0]).MapKey(), protoreflect.ValueOfString(more[1]))
	}
	return ref
}

func (k keda) call(t *testing.T, method string, in *dynamicpb.Message, out protoreflect.Name) (*dynamicpb.Message, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := k.message(out)
	return m, k.conn.Invoke(ctx, "/externalscaler.ExternalScaler/"+method, in, m)
}

// workers is what GetMetrics says.
func (k keda) workers(t *testing.T) float64 {
	t.Helper()
	return k.measure(t, "pelton-workers", k.ref("m"))
}

// measure is what GetMetrics says of a metric.
func (k keda) measure(t *testing.T, name string, ref *dynamicpb.Message) float64 {
	t.Helper()
	ask := k.message("GetMetricsRequest")
	ask.Set(ask.Descriptor().Fields().ByName("scaledObjectRef"), protoreflect.ValueOfMessage(ref))
	ask.Set(ask.Descriptor().Fields().ByName("metricName"), protoreflect.ValueOfString(name))
	answer, err := k.call(t, "GetMetrics", ask, "GetMetricsResponse")
	if err != nil {
		t.Fatal(err)
	}
	list := field(answer, "metricValues").List()
	if list.Len() != 1 {
		t.Fatalf("GetMetrics: %v", answer)
	}
	value := list.Get(0).Message()
	got := field(value, "metricValueFloat").Float()
	if said := field(value, "metricName").String(); said != name || field(value, "metricValue").Int() != int64(math.Ceil(got)) {
		t.Errorf("GetMetrics: %v", answer)
	}
	return got
}

func setup(t *testing.T, names ...string) (keda, *scaler.Watch, []*dispatcher) {
	t.Helper()
	var cfg scaler.Config
	var list []*dispatcher
	for _, name := range names {
		d := &dispatcher{name: name}
		server := httptest.NewServer(d)
		t.Cleanup(server.Close)
		d.url = server.URL
		list, cfg.Servers = append(list, d), append(cfg.Servers, server.URL)
	}
	cfg.Every, cfg.Lead = time.Hour, 3*time.Hour // the test looks
	w, err := scaler.NewWatch(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- scaler.NewServer(w).Serve(ctx, l, nil) }()
	t.Cleanup(func() { stop(); <-served })
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	files, err := (&protocompile.Compiler{Resolver: &protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{"k.proto": definition})}}).Compile(t.Context(), "k.proto")
	if err != nil {
		t.Fatal(err)
	}
	return keda{conn, files[0].Messages()}, w, list
}

// TestProtocol: a client that knows the protocol from its definition is told what the fleet needs, before
// and while load comes, when it goes, and when a dispatcher is silent.
func TestProtocol(t *testing.T) {
	t.Parallel()
	k, w, fleet := setup(t, "a", "b")
	look := func() {
		t.Helper()
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.call(t, "IsActive", k.ref("m"), "IsActiveResponse"); status.Code(err) != codes.Unavailable {
		t.Errorf("before the first look: %v, want Unavailable", err)
	}
	if _, err := k.call(t, "IsActive", k.ref(""), "IsActiveResponse"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a model: %v, want InvalidArgument", err)
	}
	answer, err := k.call(t, "GetMetricSpec", k.ref("m"), "GetMetricSpecResponse")
	if err != nil || field(answer, "metricSpecs").List().Len() != 1 {
		t.Fatalf("GetMetricSpec: %v, %v", answer, err)
	}
	one := field(answer, "metricSpecs").List().Get(0).Message()
	if field(one, "metricName").String() != "pelton-workers" || field(one, "targetSize").Int() != 1 || field(one, "targetSizeFloat").Float() != 1 {
		t.Errorf("GetMetricSpec: %v", answer)
	}
	stream, err := k.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/externalscaler.ExternalScaler/StreamIsActive")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(k.ref("m")); err != nil {
		t.Fatal(err)
	}
	said := func(want bool) {
		t.Helper()
		m := k.message("IsActiveResponse")
		if err := stream.RecvMsg(m); err != nil || field(m, "result").Bool() != want {
			t.Fatalf("StreamIsActive: %v, %v, want %v", m, err, want)
		}
	}
	look()
	look()
	said(false)
	if got := k.workers(t); got != 0 {
		t.Errorf("an idle fleet needs %g workers, want 0", got)
	}
	fleet[1].set(func() { fleet[1].arrived = backlog.Arrived{Jobs: 1000, Prompt: 1_000_000, Output: 100_000} })
	look()
	said(true)
	if got := k.workers(t); got <= 1 {
		t.Errorf("a fleet with much to do needs %g workers", got)
	}
	active, err := k.call(t, "IsActive", k.ref("m"), "IsActiveResponse")
	if err != nil || !field(active, "result").Bool() {
		t.Errorf("IsActive: %v, %v", active, err)
	}
	if active, err = k.call(t, "IsActive", k.ref("unknown"), "IsActiveResponse"); err != nil || field(active, "result").Bool() {
		t.Errorf("IsActive of a model that nobody asked for: %v, %v", active, err)
	}
	look()
	look()
	look()
	look()
	said(false)
}

// TestSilence: while a dispatcher does not answer, what was decided stays.
func TestSilence(t *testing.T) {
	t.Parallel()
	k, w, fleet := setup(t, "a", "b")
	for i := range 3 {
		fleet[0].set(func() { fleet[0].arrived.Jobs, fleet[0].jobs = int64(i), i })
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.workers(t); got != 1 {
		t.Errorf("a fleet with two jobs needs %g workers, want 1", got)
	}
	fleet[1].set(func() { fleet[1].name = "b-restarted" }) // nothing is known of the time between
	if err := w.Look(t.Context()); err != nil || k.workers(t) != 1 {
		t.Errorf("after the restart of a dispatcher: %g workers, %v, want 1 still", k.workers(t), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := w.Look(ctx); err == nil || k.workers(t) != 1 {
		t.Errorf("a look that failed: %v, %g workers, want an error and 1 still", err, k.workers(t))
	}
}

// TestWaiting: jobs that wait since before the scaler started, while none arrive, need a worker; until that
// is known nothing is said.
func TestWaiting(t *testing.T) {
	t.Parallel()
	k, w, fleet := setup(t, "a")
	fleet[0].set(func() { fleet[0].jobs = 500 })
	if err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.call(t, "IsActive", k.ref("m"), "IsActiveResponse"); status.Code(err) != codes.Unavailable {
		t.Errorf("after one look: %v, want Unavailable", err)
	}
	for range 3 {
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := k.workers(t); got != 1 {
			t.Errorf("500 jobs wait: %g workers, want 1", got)
		}
	}
}

// TestPlans: what is decided of a model and from what; one with workers and no jobs is there too.
func TestPlans(t *testing.T) {
	t.Parallel()
	_, w, fleet := setup(t, "a", "b")
	look := func() {
		t.Helper()
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if look(); w.Plans() != nil {
		t.Errorf("after one look: %+v, want nothing", w.Plans())
	}
	fleet[0].set(func() { fleet[0].jobs, fleet[0].held = 0, 0 })
	look()
	if got := w.Plans(); len(got) != 1 || got[0] != (scaler.Plan{Model: "m", Ready: 1}) {
		t.Errorf("an idle fleet: %+v, want its model and worker, and no need", got)
	}
	for _, d := range fleet {
		d.set(func() {
			d.arrived, d.jobs, d.held = backlog.Arrived{Jobs: 1000, Prompt: 1_000_000, Output: 100_000}, 5, 2
		})
	}
	look()
	got := w.Plans()
	if len(got) != 1 || got[0].Ready != 1 || got[0].Jobs != 7 || got[0].Held != 2 || !got[0].Known || !got[0].Active || got[0].Demand.Prompt <= got[0].Demand.Output || got[0].Workers < 1 {
		t.Errorf("a busy fleet: %+v", got)
	}
	if d, ok := w.Decision("m"); !ok || d != got[0].Decision {
		t.Errorf("the scaler decides %+v, the plan says %+v", d, got[0].Decision)
	}
}

// TestResolve: each address of a name is a dispatcher of its own.
func TestResolve(t *testing.T) {
	t.Parallel()
	d := &dispatcher{name: "a"}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w, err := scaler.NewWatch(scaler.Config{Servers: []string{"http://127.0.0.1:" + port}, Resolve: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Look(t.Context()); err != nil {
		t.Error(err)
	}
	if w, err = scaler.NewWatch(scaler.Config{Servers: []string{"http://no.such.name.invalid"}, Resolve: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Look(t.Context()); err == nil {
		t.Error("a name without addresses: no error")
	}
}

// TestNeed: by hand.
func TestNeed(t *testing.T) {
	t.Parallel()
	fit := contracts.StepFit{Step: 10, PerToken: 0.1, PerRow: 0.5, Steps: 100}
	for _, c := range []struct {
		what   string
		demand scaler.Demand
		worker scaler.Worker
		want   float64
	}{
		{"nothing", scaler.Demand{}, scaler.Worker{Fit: fit, Slots: 8, Tokens: 1e6}, 0},
		{"prompts", scaler.Demand{Jobs: 10, Prompt: 5000}, scaler.Worker{Fit: fit, Slots: 8, Tokens: 1e6}, 0.5 / 0.7},
		{"answers, 8 at once", scaler.Demand{Jobs: 10, Output: 1000}, scaler.Worker{Fit: fit, Slots: 8, Tokens: 1e6}, 1000 * (10.0/8 + 0.5) / 1000 / 0.7},
		{"answers, 2 fit the memory", scaler.Demand{Jobs: 10, Output: 1000}, scaler.Worker{Fit: fit, Slots: 8, Tokens: 200}, 1000 * (10.0/2 + 0.5) / 1000 / 0.7},
		{"jobs without tokens", scaler.Demand{Jobs: 10}, scaler.Worker{Fit: fit, Slots: 8}, 0},
		{"an unknown worker", scaler.Demand{Jobs: 10, Output: 1000}, scaler.Worker{}, 0},
	} {
		if got := scaler.Need(c.demand, c.worker, 0.7); math.IsNaN(got) || math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %g workers, want %g", c.what, got, c.want)
		}
	}
}

// TestConfig: all problems at once.
func TestConfig(t *testing.T) {
	t.Parallel()
	if _, err := scaler.NewWatch(scaler.Config{Every: -1, Use: 2}); err == nil {
		t.Error("a bad configuration: no error")
	}
}

// TestHeld: jobs that dispatchers hold back are told as jobs, to be added to those of the broker's consumers.
func TestHeld(t *testing.T) {
	t.Parallel()
	k, w, fleet := setup(t, "a")
	fleet[0].set(func() { fleet[0].held = 500 })
	for range 2 {
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ref := k.ref("m", "measure", "held")
	answer, err := k.call(t, "GetMetricSpec", ref, "GetMetricSpecResponse")
	if err != nil || field(field(answer, "metricSpecs").List().Get(0).Message(), "metricName").String() != "pelton-held-jobs" {
		t.Errorf("GetMetricSpec: %v, %v", answer, err)
	}
	if got := k.measure(t, "pelton-held-jobs", ref); got != 500 {
		t.Errorf("%g held jobs, want 500", got)
	}
	if active, err := k.call(t, "IsActive", k.ref("m"), "IsActiveResponse"); err != nil || !field(active, "result").Bool() || k.workers(t) != 1 {
		t.Errorf("with held jobs only: %v, %v, %g workers", active, err, k.workers(t))
	}
}

// TestPaused: jobs of a paused queue, held ones and those that come too, start no worker, and the workers that still run
// some are kept; afterwards all of them count again.
func TestPaused(t *testing.T) {
	t.Parallel()
	k, w, fleet := setup(t, "a")
	d := fleet[0]
	look := func(change func()) {
		t.Helper()
		d.set(func() {
			change()
			d.arrived = backlog.Arrived{Jobs: d.arrived.Jobs + 1000, Output: d.arrived.Output + 100_000}
		})
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	says := func(what string, active bool, open, held float64) {
		t.Helper()
		answer, err := k.call(t, "IsActive", k.ref("m"), "IsActiveResponse")
		if err != nil || field(answer, "result").Bool() != active {
			t.Errorf("%s: IsActive: %v, %v, want %t", what, answer, err, active)
		}
		if got := k.measure(t, "pelton-queue-open", k.ref("m", "measure", "open")); got != open {
			t.Errorf("%s: open: %g, want %g", what, got, open)
		}
		if got := k.measure(t, "pelton-held-jobs", k.ref("m", "measure", "held")); got != held {
			t.Errorf("%s: %g held jobs, want %g", what, got, held)
		}
	}
	look(func() {})
	look(func() {
		d.jobs, d.held, d.state, d.running = 40, 500, contracts.QueuePaused, []contracts.RunningJob{{Job: "runs"}}
	})
	if says("paused, one runs", true, 0, 0); k.workers(t) != 1 {
		t.Errorf("%g workers, want the one that runs a job", k.workers(t))
	}
	look(func() { d.running = nil })
	if says("paused", false, 0, 0); k.workers(t) != 0 {
		t.Errorf("%g workers, want none", k.workers(t))
	}
	look(func() { d.state = contracts.QueueDraining })
	if says("draining", true, 1, 500); k.workers(t) < 1 {
		t.Errorf("%g workers, want some for what waits and comes", k.workers(t))
	}
}
