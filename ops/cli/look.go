package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// release is the version that a build of images or packages sets (-ldflags -X).
var release string

// version is the release, the module's version, or the commit it was built from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: example("pelton version -o json"),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]any{"version": version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "protocol": contracts.Version}
			t := table{head: []string{"KEY", "VALUE"}, value: v}
			for _, k := range []string{"version", "go", "os", "arch", "protocol"} {
				t.rows = append(t.rows, []string{k, fmt.Sprint(v[k])})
			}
			return a.print(t)
		},
	}
	outputFlags(c)
	return c
}

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Look at the configuration", Args: cobra.NoArgs, RunE: needSubcommand}
	show := &cobra.Command{
		Use: "show COMMAND...", Short: "Show the values that a command would run with, and where each comes from", Args: cobra.MinimumNArgs(1),
		Example: example("pelton config show up", "PELTON_MEMORY=1GiB pelton config show worker -o json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil || target == cmd.Root() || len(rest) > 0 {
				return usageError{fmt.Errorf("no command %q: pelton help lists them", args)}
			}
			if config := cmd.Flags().Lookup("config"); config.Changed {
				_ = target.Root().PersistentFlags().Set("config", config.Value.String())
			}
			target.InheritedFlags() // merges the persistent flags
			s, err := loadSettings(target.Flags(), a.keys, os.LookupEnv)
			if err != nil {
				return usageError{err}
			}
			return a.print(settingsTable(s))
		},
	}
	outputFlags(show)
	c.AddCommand(show)
	return c
}

func settingsTable(s *settings) table {
	type value struct {
		Key    string `json:"key"`
		Value  string `json:"value"`
		Source string `json:"source"`
	}
	var values []value
	t := table{head: []string{"KEY", "VALUE", "SOURCE"}}
	for _, name := range s.names() {
		if name == "help" {
			continue
		}
		v := value{name, redacted(s.text(name)), s.source[name]}
		values = append(values, v)
		t.rows = append(t.rows, []string{v.Key, dash(v.Value), v.Source})
	}
	t.value = values
	return t
}

// check is one line of `pelton doctor`.
type check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what to do when it is not ok
}

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run a fleet", Args: cobra.NoArgs, Example: example("pelton doctor"),
		Long: "doctor looks at the library, the model, memory, disk and ports, and says what to do about what is missing.\nIt changes nothing. Exit code 8 means that something is missing.",
		RunE: func(*cobra.Command, []string) error {
			checks := a.diagnose()
			t := table{head: []string{"CHECK", "STATE", "FOUND", "TO DO"}, value: checks}
			bad := false
			for _, k := range checks {
				state := "ok"
				if !k.OK {
					state, bad = "missing", true
				}
				t.rows = append(t.rows, []string{k.Name, state, k.Found, dash(k.Do)})
			}
			if err := a.print(t); err != nil {
				return err
			}
			if bad {
				return coded{errQuiet, exitCheck}
			}
			return nil
		},
	}
	storeFlag(c)
	c.Flags().String("ort-lib", "", "`path` of the ONNX Runtime library")
	c.Flags().String("data", dataFolder(), "`folder` of the broker's streams")
	outputFlags(c)
	return c
}

func (a *app) diagnose() []check {
	checks := []check{{Name: "cores", OK: true, Found: fmt.Sprintf("%d (%s/%s)", runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH)}}
	limit, from, err := memory.Limit()
	k := check{Name: "memory", OK: err == nil && limit >= 400<<20, Found: size(limit) + " (" + from + ")"}
	if !k.OK {
		k.Do = "a worker of the default model needs about 400 MiB"
	}
	checks = append(checks, k)

	checks = append(checks, checkLibrary(a.settings.text("ort-lib")))

	e, _ := hub.Lookup(hub.Default)
	dir, _, err := a.store().Find(e.Name, e.Variant)
	k = check{Name: "default model", OK: err == nil, Found: dir}
	if err != nil {
		k.Found, k.Do = "not converted yet", "pelton model pull "+e.Name
		if !errors.Is(err, model.ErrNotFound) {
			k.Found = err.Error()
		}
	}
	checks = append(checks, k)

	for _, folder := range []string{a.settings.text("models"), a.settings.text("data")} {
		checks = append(checks, checkFolder(folder))
	}
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:4222"} {
		l, err := net.Listen("tcp", address)
		k = check{Name: "port", OK: err == nil, Found: address + " is free"}
		if err != nil {
			k.Found, k.Do = address+" is taken", "choose another with --http or --nats (a running fleet is fine)"
		} else {
			_ = l.Close()
		}
		checks = append(checks, k)
	}
	return checks
}

// checkLibrary tells whether the library that is given, or else the one that is found, can be loaded.
func checkLibrary(given string) check {
	k := check{Name: "ONNX Runtime"}
	lib, err := hub.FindLibrary(given)
	if err != nil && given == "" {
		k.Found, k.Do = "not found", "pelton run fetches it; or set PELTON_ORT_LIB"
		return k
	}
	k.Found = cmp.Or(lib, given)
	if err == nil {
		err = onnx.Load(lib)
	}
	if k.OK = err == nil; !k.OK {
		k.Do = err.Error()
	}
	return k
}

// leastSpace is how much of a disk should be free: a broker that cannot write accepts no job.
const leastSpace = 256 << 20

// checkFolder tells whether a folder, or the one in which it will be made, can be written to.
func checkFolder(folder string) check {
	there := existing(folder)
	k := check{Name: "folder", OK: true, Found: folder}
	err := writable(there)
	free, known := hub.FreeSpace(there)
	switch {
	case err != nil && !errors.Is(err, syscall.ENOSPC):
		k.OK, k.Do = false, "make it writable, or choose another"
	case known:
		k.OK, k.Found = free >= leastSpace, folder+", "+size(free)+" free"
		if !k.OK {
			k.Do = "make room, at least " + size(leastSpace)
		}
	}
	return k
}

// existing is dir, or the nearest folder above it that is there.
func existing(dir string) string {
	for {
		parent := filepath.Dir(dir)
		if _, err := os.Stat(dir); err == nil || parent == dir {
			return dir
		}
		dir = parent
	}
}

func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".pelton-*")
	if err != nil {
		return err
	}
	_ = f.Close()
	return os.Remove(f.Name())
}
