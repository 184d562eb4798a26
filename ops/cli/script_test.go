package cli_test

import (
	"net/http"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pelton-run/pelton/ops/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pelton": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs one script a behavior, each in folders and with an environment of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for _, k := range []string{"HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
				e.Setenv(k, e.WorkDir+"/"+k)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": ready, "exits": exits,
		},
	})
}

// ready waits until the HTTP door at args[0] says that it is ready.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	for range 600 {
		resp, err := http.Get("http://" + args[0] + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		wait()
	}
	ts.Fatalf("%s is not ready", args[0])
}

// exits runs args[1:] and checks the exit code args[0].
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if code, ok := err.(interface{ ExitCode() int }); ok {
		got = itoa(code.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("%v: exit code %s, wanted %s", args[1:], got, args[0])
	}
}
