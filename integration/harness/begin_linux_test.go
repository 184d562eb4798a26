package harness_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/pelton-run/pelton/integration/harness"
)

const parentVariable = "PELTON_TEST_PARENT"

// TestMain is also the parent that TestBegin kills: its child keeps its output open for as long as it lives.
func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) == "" {
		harness.Main(m)
	}
	child := exec.Command("sleep", "600")
	child.Stdout = os.Stdout
	if err := harness.Begin(child); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("begun")
	_ = child.Wait()
}

// TestBegin: a process that tests started does not outlive them when they are killed.
func TestBegin(t *testing.T) {
	t.Parallel()
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("the parent says %q, %v", line, err)
	}
	_ = parent.Process.Kill()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 { // the end, once the child is gone
		t.Errorf("read %q, %v", rest, err)
	}
	_ = parent.Wait()
}
