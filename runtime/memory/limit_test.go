package memory

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"testing"
	"testing/fstest"
)

const mib = 1 << 20

// tree is a machine with 8000 MiB available and the files given.
func tree(files map[string]string) fs.FS {
	m := fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal: 16384000 kB\nMemFree: 1 kB\nMemAvailable: 8192000 kB\n")}}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestLinuxLimit(t *testing.T) {
	t.Parallel()
	num := func(n int64) string { return strconv.FormatInt(n, 10) + "\n" }
	const v2, v1 = "sys/fs/cgroup/", "sys/fs/cgroup/memory/"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64 // MiB, of a process with 100 MiB resident
		from  string
	}{
		"no cgroup": {nil, 8100, "available memory"},
		"v2 without limit": {map[string]string{
			"proc/self/cgroup": "0::/\n", v2 + "memory.max": "max\n",
		}, 8100, "available memory"},
		"v2 own limit": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", v2 + "a/b/memory.max": num(1000 * mib),
			v2 + "a/b/memory.current": num(400 * mib), v2 + "a/b/memory.stat": "anon 5\ninactive_file " + num(50*mib),
		}, 750, "cgroup v2"},
		"v2 parent is tighter": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", v2 + "a/b/memory.max": num(1000 * mib), v2 + "a/memory.max": num(600 * mib),
		}, 600, "cgroup v2"},
		"v2 high": {map[string]string{
			"proc/self/cgroup": "0::/a\n", v2 + "a/memory.max": num(1000 * mib), v2 + "a/memory.high": num(900 * mib),
		}, 900, "cgroup v2"},
		"v2 in a container, path not mounted": {map[string]string{
			"proc/self/cgroup": "0::/../../host/pod\n", v2 + "memory.max": num(512 * mib),
		}, 512, "cgroup v2"},
		"v2 full of others": {map[string]string{
			"proc/self/cgroup": "0::/a\n", v2 + "a/memory.max": num(500 * mib), v2 + "a/memory.current": num(700 * mib),
		}, 0, "cgroup v2"},
		"v1": {map[string]string{
			"proc/self/cgroup":                      "12:cpu,cpuacct:/x\n5:memory:/docker/abc\n1:name=systemd:/x\n",
			v1 + "memory.limit_in_bytes":            num(9223372036854771712),
			v1 + "docker/abc/memory.limit_in_bytes": num(700 * mib), v1 + "docker/abc/memory.usage_in_bytes": num(150 * mib),
			v1 + "docker/abc/memory.stat": "cache 0\ntotal_inactive_file " + num(10*mib),
		}, 660, "cgroup v1"},
		"damaged files": {map[string]string{
			"proc/self/cgroup": "nonsense\n0\n::\n0::/a\n", v2 + "a/memory.max": "-7\n", v2 + "a/memory.high": "\x00\xff",
		}, 8100, "available memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, from, err := linuxLimit(tree(c.files), 100*mib)
			if err != nil || got != c.want*mib || from != c.from {
				t.Errorf("limit = %d MiB from %q, %v; want %d MiB from %q; files %v", got/mib, from, err, c.want, c.from, c.files)
			}
		})
	}
}

func TestLinuxLimitUnknown(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "MemAvailable:\n", "MemAvailable: x kB\n", "MemAvailable: 9223372036854775807 kB\n"} {
		fsys := fstest.MapFS{"proc/meminfo": {Data: []byte(text)}}
		if got, _, err := linuxLimit(fsys, 0); !errors.Is(err, ErrUnknownLimit) {
			t.Errorf("limit = %d, %v with meminfo %q; want ErrUnknownLimit", got, err, text)
		}
	}
}

func TestLinuxResident(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"1000 25 3 4 5 6 7\n": 25 * int64(os.Getpagesize()), "": 0, "7": 0, "1 -2": 0, "1 x": 0} {
		if got := linuxResident(fstest.MapFS{"proc/self/statm": {Data: []byte(text)}}); got != want {
			t.Errorf("resident = %d with statm %q, want %d", got, text, want)
		}
	}
}

func TestThisMachine(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("no probe on " + runtime.GOOS)
	}
	if got := Resident(); got < 1*mib || got > 1<<40 {
		t.Errorf("Resident() = %d, want the size of a test binary", got)
	}
	if got, from, err := Limit(); err != nil || got < 64*mib || from == "" {
		t.Errorf("Limit() = %d, %q, %v; want what this machine has", got, from, err)
	}
}
