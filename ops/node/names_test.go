package node_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/node"
)

// TestNames: a page of another site whose name was made to point at this machine is of the same origin to its
// browser; a door that asks for no keys must not answer it.
func TestNames(t *testing.T) {
	t.Parallel()
	served, err := node.ServeSim("sim", "sim:instant")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := node.Start(ctx, node.Config{
		Data: t.TempDir(), Dispatcher: true, Workers: 1, HTTP: "127.0.0.1:0", Models: []node.Served{served},
		Security: node.Security{Names: []string{"Box.example"}}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(context.WithoutCancel(ctx)) })
	for host, want := range map[string]int{
		"evil.example:8080": 403, "evil.example": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403, "notlocalhost": 403,
		"127.0.0.1:8080": 200, "localhost:8080": 200, "LOCALHOST": 200, "[::1]:8080": 200, "[::1]": 200, "pelton.localhost:8080": 200, "box.EXAMPLE:1": 200,
	} {
		for _, path := range []string{"/v1/jobs", "/v1/workers", "/livez", "/console/"} {
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+n.HTTP()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			req.Header.Set("Sec-Fetch-Site", "same-origin")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("Host %s, %s: %d, want %d", host, path, resp.StatusCode, want)
			}
		}
	}
	for _, path := range []string{"/v1/workers", "/v1/queues", "/v1/load"} {
		for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405} {
			req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want || resp.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s %s: %d with %v, want %d and the id of the request", method, path, resp.StatusCode, resp.Header, want)
			}
		}
	}
	resp, err := http.Get("http://" + n.HTTP() + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var doc struct{ Paths map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/workers", "/v1/queues", "/v1/load"} {
		if doc.Paths[path] == nil {
			t.Errorf("openapi.json lacks %s", path)
		}
	}
}
