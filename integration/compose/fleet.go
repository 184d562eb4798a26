package compose

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/ops/node"
)

// project is the name of the tests' fleet; what an earlier run left under it is removed.
const project = "pelton-e2e"

// simulated is the model of simulated workers.
const simulated = "sim"

// patience is how long a command of compose may take on a busy machine.
const patience = 5 * time.Minute

// Fleet is a running fleet of compose.yaml.
type Fleet struct {
	Secrets string // folder with what a producer needs: ca.pem, producer.creds, api-key
	Door    string // URL of the gateway
	Broker  string // URLs of the NATS servers

	t       testing.TB
	scaled  map[string]int    // services that are started with so many containers
	version string            // of the images that compose starts
	born    map[string]string // versions of simulated workers by host name, as far as [Join] made them
	key     string
	http    *http.Client
	ports   map[string]string
}

// Up starts a fleet of images of one version, with so many containers of the services in scaled; it ends
// with the test. The images are those that `make e2e` has built.
func Up(t testing.TB, version string, scaled map[string]int) *Fleet {
	t.Helper()
	f := &Fleet{t: t, scaled: scaled, version: version, born: map[string]string{}, Secrets: t.TempDir(), ports: map[string]string{}}
	var urls []string
	for _, name := range []string{"PELTON_HTTP_PORT", "PELTON_NATS_PORT_1", "PELTON_NATS_PORT_2", "PELTON_NATS_PORT_3"} {
		f.ports[name] = freePort(t)
		urls = append(urls, "tls://127.0.0.1:"+f.ports[name])
	}
	f.Door, f.Broker = "https://127.0.0.1:"+f.ports["PELTON_HTTP_PORT"], strings.Join(urls[1:], ",")
	_, _ = f.try(t.Context(), "down", "-v", "--remove-orphans", "-t", "1")
	t.Cleanup(f.down)
	f.start()
	f.compose("cp", "init:/etc/pelton/producer/.", f.Secrets)
	f.compose("cp", "init:/etc/pelton/provisioner/provisioner.creds", f.Secrets)
	f.open()
	return f
}

// start brings the whole fleet up.
func (f *Fleet) start() {
	f.t.Helper()
	begun := time.Now()
	args := []string{"up", "-d", "--wait", "--no-build", "--pull", "missing", "gateway"} // and what it depends on
	for service, n := range f.scaled {
		args = append(args, service, "--scale", service+"="+strconv.Itoa(n))
	}
	f.compose(args...)
	f.t.Logf("the fleet is up after %v", time.Since(begun).Round(time.Second))
}

// open reads the secrets and waits until the fleet answers.
func (f *Fleet) open() {
	f.t.Helper()
	pem, err := os.ReadFile(filepath.Join(f.Secrets, "ca.pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(f.Secrets, "api-key"))
	if err != nil {
		f.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	f.key = strings.TrimSpace(string(key))
	f.http = &http.Client{Transport: keyed{f.key, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 16}}}
	f.await("simulated workers", func() bool { return len(f.workers(f.t.Context(), simulated)) == f.scaled["worker-sim"] })
}

// keyed shows an API key with each request.
type keyed struct {
	key string
	rt  http.RoundTripper
}

func (k keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+k.key)
	return k.rt.RoundTrip(r)
}

// freePort is a port below those that connections are given, or a restarted container might find its own
// taken by a client.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port between 20000 and 32000")
	return ""
}

// down ends the fleet; of a failed test it shows the last lines of every container.
func (f *Fleet) down() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if f.t.Failed() {
		logs, _ := f.try(ctx, "logs", "--no-color", "--tail", "15")
		state, _ := f.try(ctx, "ps", "-a")
		f.t.Logf("%s\n%s", state, logs)
	}
	if os.Getenv("PELTON_E2E_KEEP") != "" {
		return
	}
	if out, err := f.try(ctx, "down", "-v", "--remove-orphans", "-t", "5"); err != nil {
		f.t.Errorf("down: %v\n%s", err, out)
	}
}

// try runs one command of compose.
func (f *Fleet) try(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"compose", "--profile", "sim", "--progress", "plain"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = f.env()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// env is the environment that makes compose mean this fleet.
func (f *Fleet) env() []string {
	env := append(os.Environ(), "COMPOSE_PROJECT_NAME="+project, "PELTON_VERSION="+f.version, "PELTON_BIND=127.0.0.1")
	for name, port := range f.ports {
		env = append(env, name+"="+port)
	}
	return env
}

// Version is the tag of the images under test.
func Version() string {
	if v := os.Getenv("PELTON_VERSION"); v != "" {
		return v
	}
	return "dev"
}

// compose is try that must work.
func (f *Fleet) compose(args ...string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	out, err := f.try(ctx, args...)
	if err != nil {
		f.t.Fatalf("docker compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// docker runs one command of the engine.
func (f *Fleet) docker(args ...string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		f.t.Errorf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// containers are the ids of a service's containers.
func (f *Fleet) containers(service string) []string {
	f.t.Helper()
	return strings.Fields(f.docker("ps", "-aq", "--filter", "label=com.docker.compose.project="+project, "--filter", "label=com.docker.compose.service="+service, "--filter", "label=com.docker.compose.oneoff=False"))
}

// await waits until done says yes.
func (f *Fleet) await(what string, done func() bool) {
	f.t.Helper()
	for late := time.Now().Add(patience); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(late) {
			f.t.Fatalf("still not after %s: %s", patience, what)
		}
	}
}

// healthy waits until every container of a service says that it is well.
func (f *Fleet) healthy(service string) {
	f.t.Helper()
	f.await(service+" healthy", func() bool {
		ids := f.containers(service)
		states := strings.Fields(f.docker(append([]string{"inspect", "-f", "{{.State.Health.Status}}"}, ids...)...))
		return len(ids) > 0 && !slices.ContainsFunc(states, func(s string) bool { return s != "healthy" })
	})
}

// workers are the live workers of a model, of all models when it is "".
func (f *Fleet) workers(ctx context.Context, model string) []contracts.Heartbeat {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.Door+"/v1/workers", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	var list struct{ Data []contracts.Heartbeat }
	if json.NewDecoder(resp.Body).Decode(&list) != nil {
		return nil
	}
	var out []contracts.Heartbeat
	for _, w := range list.Data {
		if model == "" || w.Model == model {
			out = append(out, w)
		}
	}
	return out
}

// Producer connects as a producer of the tenant "default".
func (f *Fleet) Producer() (*nats.Conn, error) {
	return client.Connect(f.Broker, nats.UserCredentials(f.secret("producer.creds")), nats.RootCAs(f.secret("ca.pem")), client.Inbox("default"))
}

// Keeper connects as the provisioner, who may read every stream.
func (f *Fleet) Keeper() (*nats.Conn, error) {
	return node.Remote{URL: f.Broker, Creds: f.secret("provisioner.creds"), CA: f.secret("ca.pem")}.Connect("e2e")
}

// HTTP is a client that trusts the gateway and shows the operator's key.
func (f *Fleet) HTTP() *http.Client { return f.http }

func (f *Fleet) secret(name string) string { return filepath.Join(f.Secrets, name) }

// NATS are the URLs of the servers.
func (f *Fleet) NATS() string { return f.Broker }

// Doors is the URL of the gateway.
func (f *Fleet) Doors() []string { return []string{f.Door} }

var errNobody = errors.New("nobody is in the middle of a stream")

// busy is the container of a worker that is in the middle of a stream: of the named ones, or of any.
func (f *Fleet) busy(ctx context.Context, model string, among ...string) (string, error) {
	for late := time.Now().Add(20 * time.Second); time.Now().Before(late) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		for _, w := range f.workers(ctx, model) {
			host, _, _ := strings.Cut(w.Worker, "-") // a container's host name is its id
			if len(among) > 0 && !slices.Contains(among, host) {
				continue
			}
			if slices.ContainsFunc(w.Jobs, func(j contracts.RunningJob) bool { return j.Index > 0 }) {
				return host, nil
			}
		}
	}
	return "", fmt.Errorf("%w: model %s", errNobody, model)
}
