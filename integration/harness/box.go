package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Box is a control group with a hard limit on memory, as containers have one: what its processes take
// beyond it, the kernel kills. It is made in the file system of control groups, version 1 or 2, without
// a service manager.
type Box struct {
	Limit int64 // bytes
	dir   string
	v2    bool
}

// NewBox makes a box that goes with the test. The error says why this machine does not let us: without
// the rights of root, or in a container whose control groups are read-only.
func NewBox(t testing.TB, limit int64) (*Box, error) {
	t.Helper()
	b := &Box{Limit: limit, dir: "/sys/fs/cgroup/memory", v2: false}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		b.dir, b.v2 = "/sys/fs/cgroup", true
	}
	dir, err := os.MkdirTemp(b.dir, "pelton-test-")
	if err != nil {
		return nil, fmt.Errorf("no control group can be made here: %w", err)
	}
	b.dir = dir
	t.Cleanup(func() {
		for range 100 { // until the kernel has noticed that the last process is gone
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("control group %s is left behind", dir)
	})
	name := map[bool]string{false: "memory.limit_in_bytes", true: "memory.max"}[b.v2]
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.FormatInt(limit, 10)), 0o600); err != nil {
		return nil, fmt.Errorf("no limit on memory can be set here: %w", err)
	}
	if _, err := b.Kills(); err != nil {
		return nil, fmt.Errorf("this kernel does not count whom it kills: %w", err)
	}
	return b, nil
}

// Command is a command that enters the box before it becomes the program; a nil box is no limit.
func (b *Box) Command(program string, args ...string) *exec.Cmd {
	if b == nil {
		return exec.Command(program, args...)
	}
	enter := fmt.Sprintf(`echo $$ > %s && exec "$0" "$@"`, filepath.Join(b.dir, "cgroup.procs"))
	return exec.Command("/bin/sh", append([]string{"-c", enter, program}, args...)...)
}

// Peak is the most memory that its processes had, page cache included, in bytes.
func (b *Box) Peak() int64 {
	n, _ := b.number(map[bool]string{false: "memory.max_usage_in_bytes", true: "memory.peak"}[b.v2], "")
	return n
}

// Kills is how many processes the kernel killed because the box was full.
func (b *Box) Kills() (int64, error) {
	return b.number(map[bool]string{false: "memory.oom_control", true: "memory.events"}[b.v2], "oom_kill")
}

// number reads a number from a file: its only one, or that of the line with the key.
func (b *Box) number(file, key string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(b.dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 1 && key == "" || len(f) == 2 && f[0] == key {
			return strconv.ParseInt(f[len(f)-1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, key)
}
