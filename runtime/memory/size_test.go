package memory_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/memory"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1, "800MiB": 800 << 20, "800 mib": 800 << 20, " 1.5GiB ": 3 << 29, "2GB": 2e9, "2g": 2e9, "4Gi": 4 << 30,
		"0.5KiB": 512, "9223372036854775807": math.MaxInt64, "1048576B": 1 << 20, ".5k": 500,
	} {
		if got, err := memory.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "0", "-1", "0.1", "MiB", "1.2.3MiB", ".", "12 parsecs", "1e9", "0x10", "NaN", "Inf", "8EiB", "9223372036854775808",
		"9999999999TiB", "8388608TiB", strings.Repeat("1", 5000), "1\x00", "١MiB",
	} {
		got, err := memory.ParseSize(text)
		if !errors.Is(err, memory.ErrSize) {
			t.Errorf("ParseSize(%.50q) = %d, %v; want ErrSize", text, got, err)
			continue
		}
		if len(err.Error()) > 300 {
			t.Errorf("ParseSize(%.50q): error of %d characters: %.100s", text, len(err.Error()), err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 17: "17 B", 1023: "1023 B", 1024: "1 KiB", 46080: "45 KiB", 3 << 29: "1.5 GiB", 800 << 20: "800 MiB",
		153757952: "147 MiB", -2048: "-2 KiB", 1 << 50: "1024 TiB", math.MinInt64: "-8388608 TiB",
	} {
		if got := memory.FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestSizesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1<<52).Draw(t, "n")
		text := memory.FormatSize(n)
		got, err := memory.ParseSize(text)
		if err != nil || math.Abs(float64(got-n)) > float64(n)/20 {
			t.Fatalf("ParseSize(FormatSize(%d) = %q) = %d, %v; want it within 5 %%", n, text, got, err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"800MiB", "1.5 GiB", "", "-1", "9e99"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := memory.ParseSize(s); (err == nil) != (n > 0) {
			t.Errorf("ParseSize(%q) = %d, %v; want a positive size or an error", s, n, err)
		}
	})
}
