package memory

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrSize is what every error of [ParseSize] wraps: the text is not a size.
var ErrSize = errors.New("not a size")

// units by lower-case suffix. K, M, G and T alone are decimal, as in Kubernetes quantities; KiB, MiB
// and so on (or Ki, Mi) are binary.
var units = map[string]int64{
	"": 1, "b": 1,
	"k": 1e3, "kb": 1e3, "ki": 1 << 10, "kib": 1 << 10,
	"m": 1e6, "mb": 1e6, "mi": 1 << 20, "mib": 1 << 20,
	"g": 1e9, "gb": 1e9, "gi": 1 << 30, "gib": 1 << 30,
	"t": 1e12, "tb": 1e12, "ti": 1 << 40, "tib": 1 << 40,
}

// ParseSize reads a number of bytes such as "800MiB", "1.5 GiB", "2GB" or "1048576". Case does not
// matter. Fractions of a byte are cut off; zero and negative sizes are refused.
func ParseSize(text string) (int64, error) {
	s := strings.ToLower(strings.TrimSpace(text))
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(s)
	}
	number, suffix := s[:end], strings.TrimSpace(s[end:])
	unit, ok := units[suffix]
	if !ok || number == "" || len(s) > 40 {
		return 0, fmt.Errorf("%w: %.40q: write it like 800MiB, 1.5GiB or a number of bytes", ErrSize, text)
	}
	n, err := scale(number, unit)
	if err != nil {
		return 0, fmt.Errorf("%w: %.40q: %s", ErrSize, text, err)
	}
	if n <= 0 {
		return 0, fmt.Errorf("%w: %.40q: it must be at least one byte", ErrSize, text)
	}
	return n, nil
}

// scale multiplies exactly where the number is whole; only fractions go through floating point.
func scale(number string, unit int64) (int64, error) {
	if whole, err := strconv.ParseInt(number, 10, 64); err == nil {
		if whole > math.MaxInt64/unit {
			return 0, errors.New("too large")
		}
		return whole * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errors.New("no number before the unit")
	}
	if f *= float64(unit); f >= math.MaxInt64 {
		return 0, errors.New("too large")
	}
	return int64(f), nil
}

// FormatSize writes a number of bytes for people: "800 MiB", "1.5 GiB", "17 B". ParseSize reads it
// back to within a twentieth, and exactly where the size is a whole number of its unit below 1024.
func FormatSize(n int64) string {
	if n < 0 {
		return "-" + FormatSize(-max(n, -math.MaxInt64))
	}
	names := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	unit, i := int64(1), 0
	for i < len(names)-1 && n >= unit<<10 {
		unit, i = unit<<10, i+1
	}
	if n%unit == 0 || n/unit >= 100 {
		// Rounding up to the next unit reads oddly ("1024 KiB") but stays right.
		return fmt.Sprintf("%d %s", n/unit+round(n%unit, unit), names[i])
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(unit)), ".0") + " " + names[i]
}

func round(rest, unit int64) int64 {
	if rest*2 >= unit && unit > 1 {
		return 1
	}
	return 0
}
