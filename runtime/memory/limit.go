package memory

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// ErrUnknownLimit is returned by [Limit] where the operating system does not say what is free. The
// caller asks the user for a number.
var ErrUnknownLimit = errors.New("free memory of this machine is unknown")

// Limit probes how many bytes this process may hold resident in total, what it holds already
// included, without pushing others out: the least of the machine's available memory and of what each
// control group (v2 or v1) around the process still allows. The text names the source that decided.
// It reads a handful of files and may be called from any goroutine.
func Limit() (bytes int64, from string, err error) {
	return machineLimit(Resident())
}

// linuxLimit does it for a file tree that looks like Linux's root and a process of resident bytes.
func linuxLimit(root fs.FS, resident int64) (int64, string, error) {
	available, ok := meminfo(root, "MemAvailable")
	if !ok {
		return 0, "", fmt.Errorf("%w: /proc/meminfo has no MemAvailable", ErrUnknownLimit)
	}
	limit, from := available+resident, "available memory"
	for _, g := range groups(root) {
		if room, ok := g.room(root, resident); ok && room < limit {
			limit, from = room, g.name
		}
	}
	return max(limit, 0), from, nil
}

// group is one control group that bounds the process.
type group struct {
	name     string // for people
	dir      string // below the root
	limits   []string
	usage    string
	inactive string // key in memory.stat: page cache that the kernel gives up first
}

// room is what the process may hold under the group's limit: the limit less what the others in the
// group hold and cannot give up.
func (g group) room(root fs.FS, resident int64) (int64, bool) {
	limit := int64(math.MaxInt64)
	for _, name := range g.limits {
		if n, ok := number(root, path.Join(g.dir, name)); ok {
			limit = min(limit, n)
		}
	}
	// Version 1 writes "no limit" as a number close to the largest.
	if limit > math.MaxInt64/2 {
		return 0, false
	}
	usage, ok := number(root, path.Join(g.dir, g.usage))
	if !ok {
		return limit, true
	}
	cache, _ := field(root, path.Join(g.dir, "memory.stat"), g.inactive)
	others := max(usage-cache-resident, 0)
	return max(limit-others, 0), true
}

// groups lists the process's control groups from its own up to the root, both versions.
func groups(root fs.FS) []group {
	text, err := readSmall(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	var out []group
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		g := group{name: "cgroup v2", dir: "sys/fs/cgroup", limits: []string{"memory.max", "memory.high"}, usage: "memory.current", inactive: "inactive_file"}
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			g = group{name: "cgroup v1", dir: "sys/fs/cgroup/memory", limits: []string{"memory.limit_in_bytes"}, usage: "memory.usage_in_bytes", inactive: "total_inactive_file"}
		}
		top := g.dir
		// In a container the path may be the host's, of which only the last part is mounted; folders
		// that are not there simply have no limit.
		for p := path.Clean("/" + parts[2]); ; p = path.Dir(p) {
			g.dir = path.Join(top, p)
			out = append(out, g)
			if p == "/" {
				break
			}
		}
	}
	return out
}

// meminfo is a line of /proc/meminfo in bytes.
func meminfo(root fs.FS, key string) (int64, bool) {
	kib, ok := field(root, "proc/meminfo", key+":")
	return kib * 1024, ok && kib <= math.MaxInt64/1024
}

// field is the number behind key in a file of "key number …" lines.
func field(root fs.FS, name, key string) (int64, bool) {
	text, err := readSmall(root, name)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

// number is the content of a file that holds one number; "max" is no number.
func number(root fs.FS, name string) (int64, bool) {
	text, err := readSmall(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n, err == nil && n >= 0
}

// readSmall reads a file of the kernel, whose size is not known beforehand.
func readSmall(root fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(root, name)
	return string(b), err
}

// linuxResident is the resident size that /proc/self/statm tells, 0 when it does not.
func linuxResident(root fs.FS) int64 {
	text, err := readSmall(root, "proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(text)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil || pages < 0 {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
