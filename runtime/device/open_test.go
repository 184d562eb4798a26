package device

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAutoFallsBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "libonnxruntime_providers_cuda.so"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	errBroken := errors.New("broken")
	gpus := []GPU{{Name: "g", Free: 100}}
	for name, c := range map[string]struct {
		device string
		bytes  int64
		works  string // the device on which the model opens
		want   string
		err    string
	}{
		"auto, a gpu that works":     {"auto", 100, "cuda:0", "cuda:0", ""},
		"auto, a gpu that does not":  {"auto", 100, "cpu", "cpu", ""},
		"auto, a gpu that is full":   {"auto", 101, "cpu", "cpu", ""},
		"auto, nothing works":        {"auto", 100, "", "", "broken"},
		"said, and it does not":      {"cuda:0", 100, "cpu", "", "broken"},
		"said, and it is full":       {"tensorrt:0", 101 << 20, "tensorrt:0", "", "smaller variant"},
		"said, and it is not there":  {"cuda:1", 100, "cuda:1", "", "CUDA_VISIBLE_DEVICES"},
		"said, and nobody counts it": {"rocm:7", 101, "rocm:7", "rocm:7", ""},
		"cpu":                        {"cpu", 101, "cpu", "cpu", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := Parse(c.device)
			if err != nil {
				t.Fatal(err)
			}
			got, err := openOn(d, filepath.Join(dir, "libonnxruntime.so"), c.bytes, gpus, slog.New(slog.DiscardHandler), func(d Device) (string, error) {
				if s := d.String(); s == c.works {
					return s, nil
				}
				return "", errBroken
			})
			if got != c.want || (c.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("opened on %q, %v; want %q, %q", got, err, c.want, c.err)
			}
		})
	}
}
