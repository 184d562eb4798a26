package cli_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/ops/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pelton": func() {
			go endWith(os.Getppid())
			os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// endWith ends a fleet that a script runs when the tests were killed.
func endWith(parent int) {
	for os.Getppid() == parent {
		wait()
	}
	os.Exit(1)
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
			e.Setenv("PELTON_PYPI_INDEX", "http://127.0.0.1:1") // nothing is fetched here
			e.Setenv("GOPROXY", "off")
			for _, k := range []string{"HTTP_ADDRESS", "NATS_ADDRESS"} {
				e.Setenv(k, contractstest.Address(t))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": ready, "live": live, "exits": exits, "bury": bury, "known": known,
		},
	})
}

// ready waits until the HTTP door at args[0] says that it is ready; args[1] is its certificate authority
// when it speaks TLS.
func ready(ts *testscript.TestScript, _ bool, args []string) { says(ts, "/readyz", args) }

// live waits until the HTTP door answers.
func live(ts *testscript.TestScript, _ bool, args []string) { says(ts, "/livez", args) }

// known waits until the HTTP door at args[0] knows the job args[1] of the tenant default.
func known(ts *testscript.TestScript, _ bool, args []string) {
	says(ts, "/v1/jobs/"+args[1], args[:1])
}

func says(ts *testscript.TestScript, path string, args []string) {
	for range 600 {
		if resp, err := get(ts, path, args); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		wait()
	}
	ts.Fatalf("%s does not say %s", args[0], path)
}

func get(ts *testscript.TestScript, path string, args []string) (*http.Response, error) {
	if len(args) == 1 {
		return http.Get("http://" + args[0] + path)
	}
	ca, err := os.ReadFile(ts.MkAbs(args[1]))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	return c.Get(args[0] + path)
}

// exits runs args[1:] and checks the exit code, which is one of args[0], with bars between.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if code, ok := err.(interface{ ExitCode() int }); ok {
		got = itoa(code.ExitCode())
	}
	if !slices.Contains(strings.Split(args[0], "|"), got) {
		ts.Fatalf("%v: exit code %s, wanted %s", args[1:], got, args[0])
	}
}
