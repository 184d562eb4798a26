package siege

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pelton-run/pelton/dispatcher/gateway/sdkcheck"
)

// patience is how long anything may take on a busy machine.
const patience = 2 * time.Minute

// door is the HTTP door under attack.
type door struct{ address, key string }

// generated is schemathesis' own count.
var generated = regexp.MustCompile(`(\d+) generated`)

// schemathesis asks what openapi.json allows and what it does not, and returns how many requests it made.
// It complains about answers that the document does not have.
func schemathesis(ctx context.Context, t *testing.T, d door) (int, error) {
	env, err := sdkcheck.PythonEnv(ctx, "testdata/requirements.txt")
	if err != nil {
		return 0, err
	}
	config, err := filepath.Abs("testdata/schemathesis.toml")
	if err != nil {
		return 0, err
	}
	priority, limit := "0", 3**siege // beside other tests it needs both to get anywhere
	if *ratio > 0 {
		priority, limit = "19", *siege // elsewhere it would take no processor time from the fleet
	}
	for ; ; limit *= 2 { // a busy machine may need all of it to read the document
		cmd := exec.CommandContext(ctx, "nice", "-n", priority, filepath.Join(env, "bin", "schemathesis"), "--no-color", "--config-file", config, "run", "http://"+d.address+"/openapi.json",
			"--header", "Authorization: Bearer "+d.key, "--mode", "all", "--seed", strconv.FormatUint(*seed, 10), "--max-time", strconv.Itoa(int(limit.Seconds())), "--max-examples", strconv.Itoa(max(5, *inputs/100)))
		cmd.Dir = t.TempDir() // it leaves files
		out, err := cmd.CombinedOutput()
		n := 0
		if m := generated.FindSubmatch(out); m != nil {
			n, _ = strconv.Atoi(string(m[1]))
		}
		if err == nil && n == 0 && limit > 5*time.Minute {
			err = errors.New("no requests were made")
		}
		if err != nil {
			return n, fmt.Errorf("schemathesis: %w\n%s", errors.Join(err, ctx.Err()), strings.ReplaceAll(string(out), d.key, "KEY"))
		}
		if n > 0 {
			return n, nil
		}
	}
}

// broken are requests that no client library sends. None of them may be answered with a 5xx, but for 501
// where the protocol wants it, or not at all without the connection's end.
func broken(rng *rand.Rand) string {
	const host = "Host: x\r\n"
	junk := make([]byte, 1+rng.IntN(200))
	for i := range junk {
		junk[i] = byte(rng.IntN(256))
	}
	switch rng.IntN(12) {
	case 0: // more than 64 KiB of headers
		return "GET /livez HTTP/1.1\r\n" + host + "X-Big: " + strings.Repeat("x", 100<<10) + "\r\n\r\n"
	case 1: // thousands of them
		return "GET /livez HTTP/1.1\r\n" + host + strings.Repeat("A: b\r\n", 20_000) + "\r\n"
	case 2:
		return string(junk) + "\r\n\r\n"
	case 3:
		return "POST /v1/jobs HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n"
	case 4: // smuggling
		return "POST /v1/jobs HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"
	case 5:
		return "POST /v1/jobs HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n" + string(junk)
	case 6:
		return "POST /v1/jobs HTTP/1.1\r\n" + host + "Transfer-Encoding: " + "gzip, chunked\r\n\r\n"
	case 7:
		return "GET /" + strings.Repeat("%00", 3000) + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n"
	case 8:
		return "GET /livez HTTP/9.9\r\n" + host + "\r\n"
	case 9:
		return "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + string(junk) + "\r\n\r\n" // TLS
	case 10:
		return "GET /v1/models HTTP/1.1\r\n" + host + "Authorization: Bearer " + string(junk) + "\r\nConnection: close\r\n\r\n"
	}
	return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(junk)
}

// flood sends n broken requests, 32 at a time.
func (d door) flood(rng *rand.Rand, n int) error {
	var g errgroup.Group
	g.SetLimit(32)
	for range n {
		text := broken(rng)
		g.Go(func() error { return d.broken(text) })
	}
	return g.Wait()
}

func (d door) broken(text string) error {
	c, err := net.Dial("tcp", d.address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _ = io.WriteString(c, text) // the server may hang up in the middle
	_ = c.(*net.TCPConn).CloseWrite()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%.60q was neither answered nor cut off within %s", text, patience)
		}
		return nil // cut off
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented && resp.StatusCode != http.StatusHTTPVersionNotSupported {
		return fmt.Errorf("%.60q is answered %s", text, resp.Status)
	}
	return nil
}

// hold opens connections that stay: idle ones, and some whose headers or bodies never end.
func (d door) hold(idle, headers, bodies int) ([]net.Conn, error) {
	conns := make([]net.Conn, idle+headers+bodies)
	var g errgroup.Group
	g.SetLimit(64)
	for i := range conns {
		g.Go(func() (err error) {
			if conns[i], err = net.Dial("tcp", d.address); err != nil {
				return err
			}
			switch {
			case i < headers:
				_, err = io.WriteString(conns[i], "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ")
			case i < headers+bodies:
				_, err = io.WriteString(conns[i], "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+d.key+"\r\nContent-Length: 1000\r\n\r\n{")
			}
			return err
		})
	}
	return conns, g.Wait()
}

func hangUp(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// get asks as an operator.
func (d door) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.address+path, nil)
	if err != nil {
		return "", err
	}
	return d.do(req)
}

func (d door) do(req *http.Request) (string, error) {
	req.Header.Set("Authorization", "Bearer "+d.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// answer asks for a completion.
func (d door) answer(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.address+"/v1/completions", strings.NewReader(`{"model":"`+model+`","prompt":"hello","max_tokens":5}`))
	if err != nil {
		return err
	}
	_, err = d.do(req)
	return err
}

var running = regexp.MustCompile(`(?m)^go_goroutines (\d+)`)

func goroutines(t *testing.T, d door) int {
	t.Helper()
	text, err := d.get(t.Context(), "/metrics")
	m := running.FindStringSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("no count of goroutines: %v", err)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// settled waits until about as many goroutines run as before: nothing of the siege is left.
func settled(t *testing.T, d door, before int) {
	t.Helper()
	const spare = 200 // connections and jobs of the test itself
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		n := goroutines(t, d)
		if n <= before+spare {
			t.Logf("goroutines: %d before, %d after", before, n)
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Errorf("%d goroutines, %d before the siege", n, before)
			return
		}
	}
}
