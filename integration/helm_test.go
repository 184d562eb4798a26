package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/cli"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/runtime/hub"
)

const chart = "../ops/deploy/helm"

// object is what of a Kubernetes object the tests look at.
type object struct {
	Kind     string
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Spec struct {
		Template struct{ Spec podSpec }
		Triggers []struct {
			Type, Name string
			Metadata   map[string]string
		}
		Advanced struct {
			ScalingModifiers struct{ Formula, Target string } `yaml:"scalingModifiers"`
		}
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Endpoints []struct{ Path string }
		JobLabel  string `yaml:"jobLabel"`
	}
}

type podSpec struct {
	TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
	Containers                    []container
}

type container struct {
	Name  string
	Image string
	Args  []string
	Env   []struct{ Name, Value string }
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	StartupProbe   probe `yaml:"startupProbe"`
	LivenessProbe  probe `yaml:"livenessProbe"`
	ReadinessProbe probe `yaml:"readinessProbe"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// flag is the value of a flag in the container's arguments.
func (c container) flag(name string) string {
	for _, a := range c.Args {
		if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return v
		}
	}
	return ""
}

// rendered are the objects of each case, as Helm made them of the chart; `make helm-write` renews them.
func rendered(t *testing.T) map[string][]object {
	t.Helper()
	files, err := filepath.Glob(chart + "/check/cases/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("cases %v, %v", files, err)
	}
	out := map[string][]object{}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(chart, "rendered", filepath.Base(f)))
		if err != nil {
			t.Fatal(err)
		}
		if want := chartSum(t, f); !bytes.HasPrefix(text, []byte("# "+want+"\n")) {
			t.Errorf("%s is not of the chart as it is now: make helm-write", filepath.Base(f))
		}
		for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var o object
			if err := d.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			out[filepath.Base(f)] = append(out[filepath.Base(f)], o)
		}
	}
	return out
}

// chartSum is the checksum that check.py writes into what it renders.
func chartSum(t *testing.T, values string) string {
	t.Helper()
	files := []string{values}
	err := filepath.WalkDir(chart+"/pelton", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := func(f string) string {
		rel, _ := filepath.Rel(chart, f)
		return filepath.ToSlash(rel)
	}
	slices.SortFunc(files, func(a, b string) int {
		return slices.Compare(strings.Split(name(a), "/"), strings.Split(name(b), "/"))
	})
	h := sha256.New()
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(slices.Concat([]byte(name(f)), []byte{0}, data, []byte{0}))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestChartScales: KEDA is pointed at the stream and at every consumer of the pool's model, as the layout
// names them, and adds all of them up.
func TestChartScales(t *testing.T) {
	t.Parallel()
	pools := 0
	for file, objects := range rendered(t) {
		models := map[string]string{}
		for _, o := range objects {
			for _, c := range o.Spec.Template.Spec.Containers {
				if c.Args[0] == "worker" {
					models[o.Metadata.Name] = c.flag("model")
				}
			}
		}
		for _, o := range objects {
			if o.Kind != "ScaledObject" {
				continue
			}
			pools++
			var want, got, names []string
			model := models[o.Metadata.Name]
			if e, ok := hub.Lookup(model); ok { // jobs are of its full name
				model = e.Name
			}
			for _, class := range contracts.Classes {
				for _, size := range contracts.Sizes {
					want = append(want, subject.Consumer(model, class, size))
				}
			}
			for _, tr := range o.Spec.Triggers {
				names = append(names, tr.Name)
				if tr.Type != "nats-jetstream" {
					continue
				}
				got = append(got, tr.Metadata["consumer"])
				if tr.Metadata["stream"] != topology.StreamJobs || tr.Metadata["natsServerMonitoringEndpoint"] == "" || tr.Metadata["accountID"] == "" {
					t.Errorf("%s: %s: trigger %v", file, o.Metadata.Name, tr.Metadata)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s is scaled by the consumers\n%v, want\n%v", file, o.Metadata.Name, got, want)
			}
			terms := len(want)
			own := "" // what our scaler tells of the model's queue
			for _, tr := range o.Spec.Triggers[terms:] {
				if measure := tr.Metadata["measure"]; measure != "" {
					own += tr.Name + " "
					if tr.Type != "external" || tr.Metadata["model"] != model || measure != tr.Name || !strings.HasPrefix(tr.Metadata["scalerAddress"], "pelton-scaler.") {
						t.Errorf("%s: %s asks our scaler with %v", file, o.Metadata.Name, tr)
					}
				}
			}
			formula := strings.Join(names[:terms], " + ")
			if strings.HasSuffix(file, "scaled.yaml") {
				if formula = "open * (" + formula + " + held)"; own != "held open " {
					t.Errorf("%s: %s asks our scaler for %q, want held jobs and whether the queue is open", file, o.Metadata.Name, own)
				}
			} else if own != "" {
				t.Errorf("%s: %s asks a scaler that is not there for %q", file, o.Metadata.Name, own)
			}
			if last := o.Spec.Triggers[len(names)-1]; last.Name == "outside" {
				formula = fmt.Sprintf("max(%s, outside * %s)", formula, o.Spec.Advanced.ScalingModifiers.Target)
				if last.Metadata["model"] != model || last.Metadata["scalerAddress"] == "" {
					t.Errorf("%s: %s asks the scaler with %v", file, o.Metadata.Name, last.Metadata)
				}
			}
			if f := o.Spec.Advanced.ScalingModifiers.Formula; f != formula {
				t.Errorf("%s: %s has the formula %q, want %q", file, o.Metadata.Name, f, formula)
			}
		}
	}
	if pools < 2 {
		t.Errorf("%d pools are scaled in all cases, want 2", pools)
	}
	helpers, err := os.ReadFile(chart + "/pelton/templates/_helpers.tpl")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range hub.Catalog() {
		for _, alias := range e.Aliases {
			if pair := fmt.Sprintf("%q %q", alias, e.Name); !strings.Contains(string(helpers), pair) {
				t.Errorf("pelton.model of the chart does not know %s", pair)
			}
		}
	}
}

// TestChartMonitors: what Prometheus scrapes is called as in ops/deploy/prometheus, whose rules name it, and nothing
// is scraped twice.
func TestChartMonitors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../ops/deploy/prometheus/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Jobs []struct {
			Name string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, j := range config.Jobs {
		want = append(want, j.Name)
	}
	objects := rendered(t)["scaled.yaml"]
	for _, m := range objects {
		for _, s := range objects {
			if m.Kind != "ServiceMonitor" || s.Kind != "Service" {
				continue
			}
			same := true
			for k, v := range m.Spec.Selector.MatchLabels {
				same = same && s.Metadata.Labels[k] == v
			}
			if same {
				got = append(got, s.Metadata.Labels[m.Spec.JobLabel])
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("Prometheus calls what it scrapes %q, the rules are for %q", got, want)
	}
}

// TestChartRuns: containers are given flags and settings that their command has, ports that it listens on,
// paths that it serves, and more time to end than a drain may take.
func TestChartRuns(t *testing.T) {
	t.Parallel()
	served, err := node.ServeSim("m", "sim:h100")
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(testContext(t, time.Minute), node.Config{Data: t.TempDir(), Dispatcher: true, Workers: 1, HTTP: "127.0.0.1:0", Models: []node.Served{served}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(testContext(t, 20*time.Second)) })
	help := map[string]string{}
	seen := map[string]bool{}
	for file, objects := range rendered(t) {
		for _, o := range objects {
			for _, e := range o.Spec.Endpoints {
				serves(t, n, file, e.Path)
			}
			for _, c := range o.Spec.Template.Spec.Containers {
				where := file + ": " + o.Metadata.Name
				command := c.Args[0]
				if seen[command] = true; help[command] == "" {
					var out bytes.Buffer
					if code := cli.Main([]string{command, "--help"}, strings.NewReader(""), &out, &out); code != 0 {
						t.Fatalf("%s: no command %q: %s", where, command, out.String())
					}
					help[command] = out.String()
				}
				c.runs(t, where, help[command])
				if command == "provision" {
					continue
				}
				if command == "scaler" {
					if !strings.HasSuffix(c.flag("listen"), ":"+strconv.Itoa(c.Ports[0].ContainerPort)) {
						t.Errorf("%s: port %v with --listen=%s", where, c.Ports, c.flag("listen"))
					}
					continue
				}
				for _, p := range []probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
					serves(t, n, where, p.HTTPGet.Path)
					if !strings.HasSuffix(c.flag("http"), ":"+strconv.Itoa(c.Ports[0].ContainerPort)) || p.HTTPGet.Port != c.Ports[0].Name {
						t.Errorf("%s: probes of port %s, which is %v, with --http=%s", where, p.HTTPGet.Port, c.Ports, c.flag("http"))
					}
				}
				grace, err := time.ParseDuration(c.flag("grace"))
				if left := time.Duration(o.Spec.Template.Spec.TerminationGracePeriodSeconds-c.Lifecycle.PreStop.Sleep.Seconds) * time.Second; err != nil || left < grace+5*time.Second {
					t.Errorf("%s: %v to end and a drain of %v, %v", where, left, grace, err)
				}
				if want := map[bool]string{true: "/pelton:", false: "/worker:"}[command == "dispatcher" || c.flag("engine") == "sim"]; !strings.Contains(c.Image, want) {
					t.Errorf("%s: image %s, want %s", where, c.Image, want)
				}
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("the chart runs %v, want dispatcher, worker, provision and scaler", seen)
	}
}

func (c container) runs(t *testing.T, where, help string) {
	t.Helper()
	for _, a := range c.Args[1:] {
		name, _, _ := strings.Cut(a, "=")
		if !strings.Contains(help, name+" ") {
			t.Errorf("%s: %s has no flag %s", where, c.Args[0], name)
		}
	}
	for _, e := range c.Env {
		name, ok := strings.CutPrefix(e.Name, "PELTON_")
		if flag := "--" + strings.ReplaceAll(strings.ToLower(name), "_", "-"); !ok || !strings.Contains(help, flag+" ") && !strings.Contains(help, e.Name) {
			t.Errorf("%s: %s has no setting %s", where, c.Args[0], e.Name)
		}
	}
}

func serves(t *testing.T, n *node.Node, where, path string) {
	t.Helper()
	resp, err := http.Get("http://" + n.HTTP() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s answers %s", where, path, resp.Status)
	}
}
