package path

import (
	_ "embed"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelton-run/pelton/ops/loadgen"
)

// corpus is real text to cut prompts from: what is written in this repository, without line ends, quotes
// and backslashes, repeated up to at least least bytes.
func corpus(root string, least int) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" && filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, c := range text {
			switch {
			case c == '\n' || c == '\t':
				b.WriteByte(' ')
			case c >= ' ' && c <= '~' && c != '"' && c != '\\':
				b.WriteByte(c)
			}
		}
		return err
	})
	if b.Len() == 0 {
		return "", fmt.Errorf("no text below %s: %w", root, err)
	}
	for b.Len() < least {
		b.WriteString(b.String())
	}
	return b.String(), err
}

//go:embed testdata/m-large.csv
var mLarge string

// lengths is a distribution of token counts by its percentiles.
type lengths [][2]float64

// servegen is how long the prompts ("input") or answers ("output") of ServeGen's category m-large are.
func servegen(quantity string) (l lengths) {
	for row := range strings.Lines(mLarge) {
		f := strings.Split(strings.TrimSpace(row), ",")
		if f[0] != quantity {
			continue
		}
		at, err := strconv.ParseFloat(f[1], 64)
		n, err2 := strconv.ParseFloat(f[2], 64)
		if err != nil || err2 != nil {
			panic("testdata/m-large.csv: " + row)
		}
		l = append(l, [2]float64{at, n})
	}
	return l
}

// draw is a length between two percentiles, each as likely as it is wide.
func (l lengths) draw(rng *rand.Rand) int {
	x := 100 * rng.Float64()
	for i := 1; i < len(l); i++ {
		if a, b := l[i-1], l[i]; x <= b[0] {
			return max(1, int(a[1]+(x-a[0])/(b[0]-a[0])*(b[1]-a[1])))
		}
	}
	return int(l[len(l)-1][1])
}

// mean of what draw gives.
func (l lengths) mean() (sum float64) {
	for i := 1; i < len(l); i++ {
		a, b := l[i-1], l[i]
		sum += (b[0] - a[0]) / 100 * (a[1] + b[1]) / 2
	}
	return sum
}

// fill gives every request of a plan its lengths.
func fill(rng *rand.Rand, p loadgen.Plan, input, output lengths) loadgen.Plan {
	for i := range p {
		p[i].Input, p[i].Output, p[i].Seed = input.draw(rng), output.draw(rng), rng.Uint64()
	}
	return p
}
