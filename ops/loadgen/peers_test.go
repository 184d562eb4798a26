package loadgen_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The table of make bench-peers judges Pelton by the medians of the rounds, against the best peer of
// each figure, and says what was missed.
func TestPeersTable(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("python3", "testdata/peers/report.py", "testdata/peers/example.json").CombinedOutput()
	if err != nil {
		t.Fatalf("report.py: %v\n%s", err, out)
	}
	for _, want := range []string{
		"| one | 2.00x | ≥ 1.1x | met | B | 0.75x | ≤ 0.7x | **missed** | A |",
		"| one | Pelton, fp32 export | 4.00x | ≥ 3x | met | 0.30x | ≤ 0.33x | met |",
		"| one | Pelton, naive graph with its own attention and cache | 2.00x | ≥ 3x |  | 0.30x | ≤ 0.33x |  |",
		"| one | Pelton | 200 (180–260) | 30 (30–31) |",
		"| decode at batch 1, bare engine | 100 tok/s × 150 MB = 15.0 GB/s | 20.0 GB/s read | 75 % | ≥ 80 % | **missed** |",
		"| prefill of 512, products of 64 rows | 900 tok/s | 1000 tok/s (MatMulInteger) | 90 % | ≥ 70 % | met |",
		"35 % **!**, 1 failed |",
		"- vllm is left out: no room",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the table lacks %q:\n%s", want, out)
		}
	}
}
