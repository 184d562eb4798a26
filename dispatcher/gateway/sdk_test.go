package gateway_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/dispatcher/gateway/sdkcheck"
)

// TestOfficialClients runs OpenAI's own clients against the gateway; integration runs the same programs
// against a fleet with a real model.
func TestOfficialClients(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]func(ctx context.Context, dir, program, base, model string) (string, error){"python": sdkcheck.Python, "typescript": sdkcheck.TypeScript} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t, func(_ *gateway.Config, f *fakeFleet) { f.pace = 2 * time.Millisecond })
			dir, err := filepath.Abs(filepath.Join("testdata", "sdk", name))
			if err != nil {
				t.Fatal(err)
			}
			out, err := check(t.Context(), dir, "check", d.url, fakeModel)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(out)
		})
	}
}
