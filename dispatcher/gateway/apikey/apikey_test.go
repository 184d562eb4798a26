package apikey_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
)

// setup is a file with one key of tenant ann, and the ring that reads it.
func setup(t *testing.T) (path, key string, ring *apikey.Ring) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "api-keys.json")
	key = add(t, path, "ann", false, 0)
	ring, err := apikey.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, key, ring
}

func add(t *testing.T, path, tenant string, operator bool, life time.Duration) string {
	t.Helper()
	key, _, err := apikey.Add(path, tenant, operator, life)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ask sends one request through the guard; the handler behind it says whose request it is.
func ask(ring *apikey.Ring, path, authorization string) (int, string, http.Header) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	ring.Guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, err := ring.Tenant(r)
		if err != nil {
			tenant = "nobody"
		}
		_, _ = w.Write([]byte(tenant))
	})).ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

func TestGuard(t *testing.T) {
	t.Parallel()
	path, ann, ring := setup(t)
	operator := add(t, path, "ops", true, 0)
	expired := add(t, path, "ann", false, time.Nanosecond)
	for _, c := range []struct {
		path, authorization string
		status              int
		tenant              string
	}{
		{"/livez", "", 200, "nobody"}, {"/readyz", "", 200, "nobody"}, {"/v2/health/live", "", 200, "nobody"}, {"/v2/health/ready", "", 200, "nobody"}, {"/version", "", 200, "nobody"}, {"/console/", "", 200, "nobody"}, {"/console/page.js", "", 200, "nobody"}, {"/console/../metrics", "", 401, ""}, {"/console/%2e%2e/metrics", "", 401, ""}, {"/consoles", "", 401, ""},
		{"/v1/models", "", 401, ""}, {"/v1/jobs", "", 401, ""}, {"/v1/workers", "", 401, ""}, {"/metrics", "", 401, ""}, {"/", "", 401, ""}, {"/livezz", "", 401, ""}, {"/livez/../metrics", "", 401, ""}, {"/livez/x", "", 401, ""},
		{"/v1/jobs", "Bearer " + ann, 200, "ann"}, {"/v1/jobs", "bearer  " + ann, 200, "ann"}, {"/v1/jobs/j/events", "Bearer " + ann, 200, "ann"}, {"/v1/dlq/j", "Bearer " + ann, 200, "ann"}, {"/v1/chat/completions", "Bearer " + ann, 200, "ann"},
		{"/v1/jobs?tenant=bob", "Bearer " + ann, 200, "ann"},
		{"/v1/workers", "Bearer " + ann, 403, ""}, {"/v1/queues", "Bearer " + ann, 403, ""}, {"/metrics", "Bearer " + ann, 403, ""}, {"/v1/jobsearch", "Bearer " + ann, 403, ""}, {"/debug/pprof/", "Bearer " + ann, 403, ""}, {"/v1/jobs/../workers", "Bearer " + ann, 403, ""}, {"/v1/jobs/%2e%2e/workers", "Bearer " + ann, 403, ""},
		{"/v1/workers", "Bearer " + operator, 200, "ops"}, {"/v1/jobs?tenant=ann", "Bearer " + operator, 200, "ann"}, {"/metrics", "Bearer " + operator, 200, "ops"},
		{"/v1/jobs", "Bearer " + expired, 401, ""}, {"/v1/jobs", "Basic " + ann, 401, ""}, {"/v1/jobs", ann, 401, ""}, {"/v1/jobs", "Bearer", 401, ""}, {"/v1/jobs", "Bearer ", 401, ""},
		{"/v1/jobs", "Bearer " + ann + "x", 401, ""}, {"/v1/jobs", "Bearer " + ann[:len(ann)-1], 401, ""}, {"/v1/jobs", "Bearer x" + ann, 401, ""}, {"/v1/jobs", "Bearer " + strings.TrimPrefix(ann, "pelton_"), 401, ""},
		{"/v1/jobs", "Bearer pelton_" + strings.Repeat("0", 8) + "_", 401, ""}, {"/v1/jobs", "Bearer \x00\xff", 401, ""},
	} {
		status, body, header := ask(ring, c.path, c.authorization)
		if status != c.status || (status == 200 && body != c.tenant) {
			t.Errorf("GET %s with %q: %d %s, want %d %s", c.path, c.authorization, status, body, c.status, c.tenant)
		}
		if status == 200 {
			continue
		}
		var e struct {
			Error struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error.Message == "" || e.Error.Code == "" || (header.Get("WWW-Authenticate") != "") != (status == 401) {
			t.Errorf("GET %s with %q is refused with %s and %v", c.path, c.authorization, body, header)
		}
		if header.Get("X-Request-Id") == "" || header.Get("X-Should-Retry") == "" {
			t.Errorf("GET %s is refused with %v: nobody can tell which request it was", c.path, header)
		}
		if key := strings.TrimPrefix(c.authorization, "Bearer "); len(key) > 8 && strings.Contains(body, key) {
			t.Errorf("the refusal quotes the key: %s", body)
		}
	}
}

// TestRotation: keys come and go while the door is open; a file that cannot be read lets nobody in.
func TestRotation(t *testing.T) {
	t.Parallel()
	path, old, ring := setup(t)
	fresh := add(t, path, "ann", false, 0)
	want := func(key string, status int) {
		t.Helper()
		if got, body, _ := ask(ring, "/v1/jobs", "Bearer "+key); got != status {
			t.Errorf("got %d %s, want %d", got, body, status)
		}
	}
	want(old, 200)
	want(fresh, 200)
	entries, err := apikey.List(path)
	if err != nil || len(entries) != 2 || entries[0].Tenant != "ann" || !strings.Contains(old, entries[0].ID) {
		t.Fatalf("the file lists %+v, %v", entries, err)
	}
	if err := apikey.Remove(path, entries[0].ID); err != nil {
		t.Fatal(err)
	}
	want(old, 401)
	want(fresh, 200)
	if err := apikey.Remove(path, entries[0].ID); err == nil {
		t.Error("removing a key twice: no error")
	}
	if err := os.WriteFile(path+".new", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	want(fresh, 503)
	if _, _, err := apikey.Add(path, "bob", false, 0); err == nil {
		t.Error("adding to a damaged file: no error, the keys in it are lost")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want(fresh, 503)
	if _, err := apikey.Open(path); err == nil {
		t.Error("opening a file that is not there: no error")
	}
}

// TestAtRest: the file has no key in it, and nobody else may read it.
func TestAtRest(t *testing.T) {
	t.Parallel()
	path, key, _ := setup(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secret := key[strings.LastIndexByte(key, '_')+1:]
	if len(secret) != 64 || strings.Contains(string(data), secret[:12]) {
		t.Errorf("key %q, file %s", key, data)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	other := add(t, path, "ann", false, 0)
	if other == key {
		t.Error("the same key twice")
	}
}

// TestProtocol: a refusal on a path of the Open Inference Protocol has that protocol's shape.
func TestProtocol(t *testing.T) {
	t.Parallel()
	_, _, ring := setup(t)
	status, body, _ := ask(ring, "/v2/models/m/infer", "")
	var e struct{ Error string }
	if err := json.Unmarshal([]byte(body), &e); err != nil || status != 401 || e.Error == "" {
		t.Errorf("got %d %s, %v, want 401 and the error in one member", status, body, err)
	}
}
