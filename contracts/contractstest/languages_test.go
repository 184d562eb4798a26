package contractstest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
)

// languages prepares the other languages; the first time, their packages are downloaded.
func languages(t *testing.T, each func(t *testing.T, l contractstest.Language)) {
	t.Parallel()
	for name, prepare := range map[string]func(contractstest.T) contractstest.Language{"python": contractstest.Python, "typescript": contractstest.TypeScript} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, prepare(t))
		})
	}
}

// TestVectorsElsewhere: other languages read the golden vectors, and what they write is read here.
func TestVectorsElsewhere(t *testing.T) {
	languages(t, func(t *testing.T, l contractstest.Language) {
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		vectors, err := filepath.Abs(vectorDir)
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if msg, err := l.Check(ctx, vectors, out).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", l.Name, err, msg)
		}
		for _, v := range contractstest.Vectors() {
			data, err := os.ReadFile(filepath.Join(out, v.Name+".msgpack"))
			if err != nil {
				t.Fatal(err)
			}
			got := v.New()
			if err := contracts.Decode(data, got); err != nil {
				t.Errorf("%s as %s writes it: %v", v.Name, l.Name, err)
			} else if diff := cmp.Diff(v.Value, got); diff != "" {
				t.Errorf("%s as %s writes it (-want +got)\n%s", v.Name, l.Name, diff)
			}
		}
	})
}

// TestProducersElsewhere: the example producers submit a job and print its streamed answer.
func TestProducersElsewhere(t *testing.T) {
	languages(t, func(t *testing.T, l contractstest.Language) {
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		b := contractstest.StartBroker(t, nil)
		fleet := contractstest.FakeFleet(t, b.Conn(), contractstest.Models("m"))
		var stdout, stderr bytes.Buffer
		cmd := l.Producer(ctx, b.URL(), "m", "why is the sky 水?")
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s%s", l.Name, err, &stdout, &stderr)
		}
		if got, want := stdout.String(), "You said: why is the sky 水?\n"; got != want {
			t.Errorf("%s printed %q, want %q\n%s", l.Name, got, want, &stderr)
		}
		if len(fleet.Jobs()) != 1 {
			t.Errorf("%d jobs, want 1", len(fleet.Jobs()))
		}
		out, err := l.Producer(ctx, b.URL(), "other", "hi").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "model_not_found") {
			t.Errorf("%s with an unknown model: %v, %q, want exit status 1 and model_not_found", l.Name, err, out)
		}
	})
}
