package hub_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/hub"
)

func TestIndexForms(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*setup){
		"HTML":    func(s *setup) { s.html = true },
		"no size": func(s *setup) { s.listed = func(f *listedFile) { f.Size = 0 } },
		"upper digits": func(s *setup) {
			s.listed = func(f *listedFile) { f.Hashes["sha256"] = strings.ToUpper(f.Hashes["sha256"]) }
		},
		"absolute address": func(s *setup) {
			s.listed = func(f *listedFile) { f.URL = s.URL + "/files/" + f.Filename + "#sha256=x" }
		},
		"yanked, but asked for by name": func(s *setup) { s.listed = func(f *listedFile) { f.Yanked = "bad build" } },
		"redirected": func(s *setup) {
			s.page = func(w http.ResponseWriter, r *http.Request, n int) bool {
				if n == 1 {
					http.Redirect(w, r, "/mirror/llm-tiny/", http.StatusFound)
				}
				return n == 1
			}
		},
		"in trouble at first": func(s *setup) {
			s.page = func(w http.ResponseWriter, _ *http.Request, n int) bool {
				if n <= 2 {
					w.WriteHeader(http.StatusBadGateway)
				}
				return n <= 2
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			change(s)
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
				t.Errorf("Ensure: %v", err)
			}
		})
	}
}

func TestIndexRefused(t *testing.T) {
	t.Parallel()
	answer := func(kind, text string) func(*setup) {
		return func(s *setup) {
			s.page = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.Header().Set("Content-Type", kind)
				fmt.Fprint(w, text)
				return true
			}
		}
	}
	listed := func(change func(*listedFile)) func(*setup) { return func(s *setup) { s.listed = change } }
	for name, c := range map[string]struct {
		change func(*setup)
		say    string
	}{
		"not there": {func(s *setup) {
			s.page = func(w http.ResponseWriter, r *http.Request, _ int) bool { http.NotFound(w, r); return true }
		}, "does not have it"},
		"cut JSON":        {answer("application/vnd.pypi.simple.v1+json", `{"files":[{"filename":"x`), "cannot be read"},
		"wrong types":     {answer("application/json", `{"files":[{"filename":7}]}`), "cannot be read"},
		"nothing":         {answer("application/json", `{}`), "does not have " + whl},
		"login page":      {answer("text/html", `<html><a href="/login">log in</a><a name=x>y</a></html>`), "does not have " + whl},
		"no checksum":     {listed(func(f *listedFile) { f.Hashes = map[string]string{"md5": "d41d8cd98f00b204e9800998ecf8427e"} }), "does not have " + whl},
		"short checksum":  {listed(func(f *listedFile) { f.Hashes["sha256"] = "abcd" }), "does not have " + whl},
		"file address":    {listed(func(f *listedFile) { f.URL = "file:///etc/passwd" }), "does not have " + whl},
		"negative size":   {listed(func(f *listedFile) { f.Size = -1 }), "does not have " + whl},
		"absurd size":     {listed(func(f *listedFile) { f.Size = 1 << 60 }), "does not have " + whl},
		"path as name":    {listed(func(f *listedFile) { f.Filename = "../../" + whl }), "does not have " + whl},
		"announces other": {listed(func(f *listedFile) { f.Size = 17 }), "checksum mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			c.change(s)
			_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
			if err == nil || !strings.Contains(err.Error(), c.say) || !(errors.Is(err, hub.ErrUnavailable) || errors.Is(err, hub.ErrChecksum)) {
				t.Errorf("Ensure = %v, want ErrUnavailable or ErrChecksum that says %q", err, c.say)
			}
			if got := entries(t, s.store.Root); len(got) != 0 {
				t.Errorf("the store holds %v, want nothing", got)
			}
		})
	}
}

// TestIndexUnreachable has addresses behind which there is no index; none of them may show a password.
func TestIndexUnreachable(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, address := range []string{
		strings.Replace(gone.URL, "http://", "http://me:secret@", 1), "ftp://me:secret@example.org/simple", "://me:secret@", "nowhere", "http://me:secret@[::1",
	} {
		s := newSetup(t, func(c *hub.Config) { c.Index, c.Retries = address, -1 })
		_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
		if !errors.Is(err, hub.ErrUnavailable) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Ensure with index %s = %v, want ErrUnavailable without the password", address, err)
		}
	}
}

func TestIndexCredentials(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	locked := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if user, password, _ := r.BasicAuth(); user == "me" && password == "secret" {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	s.page, s.file = locked, locked
	_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
	if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("Ensure without credentials = %v, want ErrUnavailable that names them", err)
	}
	u, _ := url.Parse(s.cfg.Index)
	u.User = url.UserPassword("me", "secret")
	s.cfg.Index = u.String()
	if _, _, err := s.with(s.cfg).Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Errorf("Ensure with credentials: %v", err)
	}
}

// TestIndexFromSettings checks where the address of the index comes from.
func TestIndexFromSettings(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	good, bad := s.URL+"/simple", "http://127.0.0.1:1/"
	home, conf := t.TempDir(), filepath.Join(t.TempDir(), "pip.conf")
	write(t, conf, []byte("# mine\n[install]\nindex-url = "+bad+"\n[global]\ntimeout = 60\nindex-url = "+good+"\n"))
	for name, env := range map[string]map[string]string{
		"own variable": {"PELTON_PYPI_INDEX": good, "PIP_INDEX_URL": bad},
		"pip variable": {"PIP_INDEX_URL": good + "/", "PIP_CONFIG_FILE": conf},
		"pip file":     {"PIP_CONFIG_FILE": conf, "HOME": home},
	} {
		s.cfg.Index, s.cfg.Environ = "", func(key string) string { return env[key] }
		store := s.store
		store.Root += name
		if _, _, err := s.with(s.cfg).Ensure(t.Context(), store, "tiny", "", nil); err != nil {
			t.Errorf("%s: Ensure with %v: %v", name, env, err)
		}
	}
}

// TestRedirectStaysEncrypted has an index that sends its callers from https to http.
func TestRedirectStaysEncrypted(t *testing.T) {
	t.Parallel()
	plain := newSetup(t)
	secure := httptest.NewUnstartedServer(http.RedirectHandler(plain.URL+"/simple/llm-tiny/", http.StatusFound))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the refused certificate
	secure.StartTLS()
	t.Cleanup(secure.Close)
	cfg := plain.cfg
	cfg.Index, cfg.Retries = secure.URL, -1
	_, _, err := plain.with(cfg).Ensure(t.Context(), plain.store, "tiny", "", nil)
	if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Errorf("Ensure with a certificate of nobody = %v, want ErrUnavailable that names SSL_CERT_FILE", err)
	}
	cfg.Client = secure.Client()
	cfg.Client.CheckRedirect = hub.CheckRedirect
	_, _, err = plain.with(cfg).Ensure(t.Context(), plain.store, "tiny", "", nil)
	if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "redirected from https") {
		t.Errorf("Ensure = %v, want ErrUnavailable that tells of the redirect", err)
	}
}
