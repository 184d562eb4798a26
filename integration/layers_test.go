package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// policy says who may import what. Each line is "importer: allowed, allowed, …"; a path ending in
// /... stands for the folder and all below it. For one of our packages the first line that matches
// the importer decides; everything of ours that it imports must be allowed there.
const policy = `
contracts/...:          contracts/...
runtime/...:            runtime/...
worker/...:             worker/..., contracts/..., runtime/engine, runtime/grammar, runtime/sampler, runtime/tokenizer, runtime/memory, runtime/model
dispatcher/...:         dispatcher/..., contracts/..., runtime/grammar, runtime/tokenizer
ops/cmd/...:            ops/cli
ops/...:                ops/..., contracts/..., dispatcher/..., worker/..., runtime/...
integration/...:        contracts/..., dispatcher/..., worker/..., runtime/..., ops/..., integration/...
`

// fences says who may import outside modules that belong in one place: "module prefix: importers".
// Tests may import everything.
const fences = `
github.com/nats-io/nats-server:       ops/node, contracts/contractstest, integration/...
github.com/nats-io/nats.go:           contracts/topology, contracts/client, contracts/stored, contracts/contractstest, dispatcher, dispatcher/fleet, dispatcher/relay, worker, worker/intake, worker/lease, worker/emit, worker/resume, ops/admin, ops/node, ops/cli, integration/...
github.com/yalue/onnxruntime_go:      runtime/onnx/...
github.com/prometheus:                ops/metrics
github.com/spf13:                     ops/cli
github.com/vmihailenco/msgpack:       contracts
github.com/nikolalohinski/gonja:      runtime/tokenizer/...
google.golang.org/protobuf:           runtime/convert, runtime/adopt, ops/scaler
google.golang.org/grpc:               ops/scaler
net/http:                             dispatcher/gateway/..., ops/..., runtime/hub, integration/...
C:                                    runtime/onnx/...
pgregory.net/rapid:                   runtime/enginetest
testing:                              runtime/enginetest, contracts/contractstest, integration/...
`

const module = "github.com/pelton-run/pelton/"

type pkg struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
}

func TestLayers(t *testing.T) {
	pkgs := goList(t)
	for _, p := range pkgs {
		path := strings.TrimPrefix(p.ImportPath, module)
		if len(p.CgoFiles) > 0 {
			p.Imports = append(p.Imports, "C")
		}
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module); ok {
				checkOurs(t, path, ours)
			} else {
				checkFence(t, path, imp)
			}
		}
	}
	checkUnused(t, pkgs)
}

func checkOurs(t *testing.T, importer, imported string) {
	for _, r := range rules(policy) {
		if !matches(r.name, importer) {
			continue
		}
		for _, allowed := range r.allowed {
			if matches(allowed, imported) {
				return
			}
		}
		t.Errorf("%s must not import %s (allowed: %s)", importer, imported, strings.Join(r.allowed, ", "))
		return
	}
	t.Errorf("no line of the policy covers %s", importer)
}

func checkFence(t *testing.T, importer, imported string) {
	for _, r := range rules(fences) {
		if imported != r.name && !strings.HasPrefix(imported, r.name+"/") {
			continue
		}
		for _, allowed := range r.allowed {
			if matches(allowed, importer) {
				return
			}
		}
		t.Errorf("%s must not import %s: it belongs in %s", importer, imported, strings.Join(r.allowed, ", "))
	}
}

// checkUnused reports lines that cover nothing any more.
func checkUnused(t *testing.T, pkgs []pkg) {
	for _, r := range rules(policy) {
		used := false
		for _, p := range pkgs {
			used = used || matches(r.name, strings.TrimPrefix(p.ImportPath, module))
		}
		if !used {
			t.Errorf("policy line %q covers no package: remove it", r.name)
		}
	}
	for _, r := range rules(fences) {
		used := r.name == "C" // files with cgo are not seen when cgo is off
		for _, p := range pkgs {
			for _, imp := range append(p.Imports, cgoImport(p)...) {
				used = used || imp == r.name || strings.HasPrefix(imp, r.name+"/")
			}
		}
		if !used {
			t.Errorf("fence %q guards an import that nobody has: remove it", r.name)
		}
	}
}

func cgoImport(p pkg) []string {
	if len(p.CgoFiles) > 0 {
		return []string{"C"}
	}
	return nil
}

type rule struct {
	name    string
	allowed []string
}

func rules(text string) []rule {
	var out []rule
	for line := range strings.Lines(strings.TrimSpace(text)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		r := rule{name: name}
		for a := range strings.SplitSeq(rest, ",") {
			r.allowed = append(r.allowed, strings.TrimSpace(a))
		}
		out = append(out, r)
	}
	return out
}

func matches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	return pattern == path
}

func goList(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,CgoFiles", module+"...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// TestBuildsWithoutCgo guards the promise that everything but the ONNX engine is one static binary.
func TestBuildsWithoutCgo(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "build", "-o", t.TempDir(), module+"...")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("CGO_ENABLED=0 go build ./...: %v\n%s", err, out)
	}
}
