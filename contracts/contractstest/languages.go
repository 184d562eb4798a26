package contractstest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"
)

// prepareTime bounds the making of an environment, downloads included.
const prepareTime = 5 * time.Minute

// Language runs the programs in contracts/examples and contracts/testdata of another language, in an
// environment with pinned packages that is made once in the user's cache folder.
type Language struct {
	Name     string
	producer []string
	check    []string
}

// Producer is the command that submits a chat to the fleet behind url and prints the streamed answer.
// It exits with 1, and the code on stderr, when the job is refused or fails.
func (l Language) Producer(ctx context.Context, url, model, prompt string) *exec.Cmd {
	return command(ctx, l.producer, url, model, prompt)
}

// Check is the command that compares the golden vectors in a folder with their JSON twins and writes
// what the language makes of each to the folder out.
func (l Language) Check(ctx context.Context, vectors, out string) *exec.Cmd {
	return command(ctx, l.check, vectors, out)
}

func command(ctx context.Context, program []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program[0], append(program[1:len(program):len(program)], args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Python is Python 3 with nats-py and msgpack. It fails the test when python3 is missing.
func Python(t T) Language {
	t.Helper()
	root := contractsDir(t)
	requirements := filepath.Join(root, "testdata", "python", "requirements.txt")
	dir := prepare(t, "python3", []string{requirements}, func(dir string, run func(name string, args ...string)) {
		run("python3", "-m", "venv", filepath.Join(dir, "venv"))
		run(filepath.Join(dir, "venv", "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", requirements)
	})
	python := filepath.Join(dir, "venv", "bin", "python")
	return Language{
		Name:     "python",
		producer: []string{python, filepath.Join(root, "examples", "producer.py")},
		check:    []string{python, filepath.Join(root, "testdata", "python", "check.py")},
	}
}

// TypeScript is TypeScript on Node.js with @nats-io/transport-node and @msgpack/msgpack. It fails the
// test when node is missing or the programs have type errors.
func TypeScript(t T) Language {
	t.Helper()
	root := contractsDir(t)
	var files []string
	for _, name := range []string{"package.json", "package-lock.json", "tsconfig.json", "check.ts"} {
		files = append(files, filepath.Join(root, "testdata", "typescript", name))
	}
	files = append(files, filepath.Join(root, "examples", "producer.ts"))
	dir := prepare(t, "node", files, func(dir string, run func(name string, args ...string)) {
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o600)
			}
			if err != nil {
				t.Fatalf("copy %s: %v", f, err)
			}
		}
		run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		run("node", filepath.Join("node_modules", "typescript", "bin", "tsc"), "-p", ".")
	})
	return Language{
		Name:     "typescript",
		producer: []string{"node", filepath.Join(dir, "built", "producer.js")},
		check:    []string{"node", filepath.Join(dir, "built", "check.js")},
	}
}

// prepare makes a folder for a language's environment, named for the content of files and the version
// of the program, unless an earlier run made it. Two processes may prepare at once.
func prepare(t T, program string, files []string, build func(dir string, run func(name string, args ...string))) string {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), prepareTime)
	defer stop()
	version, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		t.Fatalf("%s --version: %v: install %s, this test runs it", program, err, program)
	}
	sum := sha256.New()
	sum.Write(version)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatalf("%v", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(f), len(data), data)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("no cache folder: %v: set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(cache, "pelton", "test-"+program+"-"+hex.EncodeToString(sum.Sum(nil))[:12])
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	lock := flock.New(dir + ".lock")
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		t.Fatalf("wait for %s: %v: another test prepares it", lock.Path(), err)
	}
	defer func() { _ = lock.Unlock() }()
	ready := filepath.Join(dir, ".ready")
	if _, err := os.Stat(ready); err == nil {
		return dir
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatalf("%v", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	build(dir, func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: it needs the package registry or a mirror\n%s", cmd, err, out)
		}
	})
	if err := os.WriteFile(ready, version, 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	return dir
}

// contractsDir is the folder contracts/ of the source that this package was built from.
func contractsDir(t T) string {
	_, file, _, ok := runtime.Caller(0)
	if dir := filepath.Dir(filepath.Dir(file)); ok && filepath.IsAbs(dir) {
		return dir
	}
	t.Fatalf("the folder contracts/ is not known in a build with -trimpath: build without")
	return ""
}
