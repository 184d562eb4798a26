// Package sdkcheck runs official clients (OpenAI's, and NVIDIA's for Triton) against a gateway: the check programs in
// dispatcher/gateway/testdata/sdk, with the clients that their lock files pin.
//
// It stands beside the walk and is for tests only: the gateway's own, against a fake fleet, and
// integration's, against a real one. The clients are fetched once through pip and npm into the user's
// cache folder; a file lock lets several test processes do that at once. All functions are safe for
// concurrent use and block until the program has ended.
package sdkcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// poll is how often a lock that another process holds is tried again, and how long a program that was
// stopped may take to let go of its output.
const poll = 100 * time.Millisecond

// Python runs a program of dir (…/gateway/testdata/sdk/python) against the gateway at base, an URL without a path,
// and the model of that name: "check", "embeddings" (of a model that embeds) or "infer" (NVIDIA's client of the Open
// Inference Protocol, and integration/testdata/tiny.onnx). It returns what the program printed; the error has it
// too. It needs python3 with venv on the PATH.
func Python(ctx context.Context, dir, program, base, model string) (string, error) {
	env, err := PythonEnv(ctx, filepath.Join(dir, "requirements.txt"))
	if err != nil {
		return "", err
	}
	return run(ctx, "", filepath.Join(env, "bin", "python"), filepath.Join(dir, program+".py"), base, model)
}

// PythonEnv is a virtual environment in the cache with what the requirements file pins; its programs are
// in the folder bin.
func PythonEnv(ctx context.Context, requirements string) (string, error) {
	return prepared(ctx, "python", requirements, func(env, lock string) error {
		if _, err := run(ctx, "", "python3", "-m", "venv", "--clear", env); err != nil {
			return fmt.Errorf("python3 with venv is needed: %w", err)
		}
		_, err := run(ctx, "", filepath.Join(env, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", lock)
		return err
	})
}

// TypeScript type-checks a program of dir (…/gateway/testdata/sdk/typescript), "check" or "embeddings", and runs it
// like [Python]. It needs node 20 or newer and npm on the PATH.
func TypeScript(ctx context.Context, dir, program, base, model string) (_ string, err error) {
	env, err := prepared(ctx, "typescript", filepath.Join(dir, "package-lock.json"), func(env, lock string) error {
		if err := copyFiles(env, lock, filepath.Join(dir, "package.json")); err != nil {
			return err
		}
		if _, err := run(ctx, env, "npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"); err != nil {
			return fmt.Errorf("node and npm are needed: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp("", "pelton-sdkcheck-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := copyFiles(work, filepath.Join(dir, "package.json"), filepath.Join(dir, "tsconfig.json"), filepath.Join(dir, program+".ts")); err != nil {
		return "", err
	}
	if err := os.Symlink(filepath.Join(env, "node_modules"), filepath.Join(work, "node_modules")); err != nil {
		return "", err
	}
	if out, err := run(ctx, work, "node", filepath.Join("node_modules", "typescript", "bin", "tsc"), "-p", "."); err != nil {
		return out, err
	}
	return run(ctx, work, "node", filepath.Join("dist", program+".js"), base, model)
}

// prepared is the cache folder for a lock file, filled by fill unless an earlier call did it whole.
func prepared(ctx context.Context, name, lock string, fill func(env, lock string) error) (string, error) {
	pins, err := os.ReadFile(lock)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(pins)
	env := filepath.Join(cache, "pelton", "test-openai-"+name+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(env, 0o755); err != nil {
		return "", err
	}
	guard := flock.New(env + ".lock")
	if _, err := guard.TryLockContext(ctx, poll); err != nil {
		return "", fmt.Errorf("lock %s: %w", env, err)
	}
	defer func() { _ = guard.Unlock() }()
	done := env + ".ready"
	if _, err := os.Stat(done); err == nil {
		return env, nil
	}
	if err := fill(env, lock); err != nil {
		return "", err
	}
	return env, os.WriteFile(done, nil, 0o644)
}

func copyFiles(to string, files ...string) error {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = poll
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return string(out), nil
}
