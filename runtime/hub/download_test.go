package hub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/hub"
)

// cut answers with the first n bytes of what would be the answer, and breaks the connection.
func (x *index) cut(w http.ResponseWriter, r *http.Request, n int) {
	x.serve(&cutter{ResponseWriter: w, left: n}, r, filepath.Base(r.URL.Path))
	panic(http.ErrAbortHandler)
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err == nil && n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		err = errors.New("cut")
	}
	return n, err
}

func TestDownloadResumesAfterBreaks(t *testing.T) {
	t.Parallel()
	for name, etag := range map[string]string{"with a tag": `"v1"`, "with a weak tag": `W/"v1"`, "without a tag": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.etag = etag
			s.file = func(w http.ResponseWriter, r *http.Request, n int) bool {
				if n <= 3 {
					s.cut(w, r, 700_000)
				}
				return false
			}
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
				t.Fatal(err)
			}
			_, got := s.requests()
			want := []string{"", "bytes=700000-", "bytes=1400000-", "bytes=2100000-"}
			if !slices.Equal(got, want) {
				t.Errorf("ranges asked for: %q, want %q", got, want)
			}
		})
	}
}

// TestDownloadCountsFailuresInARow has more breaks than retries, but each try brings over a MiB.
func TestDownloadCountsFailuresInARow(t *testing.T) {
	t.Parallel()
	s := newSetup(t, func(c *hub.Config) { c.Retries = 1 })
	s.file = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n <= 2 {
			s.cut(w, r, 1<<20+1)
		}
		return false
	}
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Errorf("Ensure: %v", err)
	}
}

func TestDownloadGivesUpAndGoesOnLater(t *testing.T) {
	t.Parallel()
	s := newSetup(t, func(c *hub.Config) { c.Retries = 2 })
	s.file = func(w http.ResponseWriter, r *http.Request, _ int) bool { s.cut(w, r, 1000); return true }
	_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
	if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "run again later") {
		t.Errorf("Ensure = %v, want ErrUnavailable that says what to do", err)
	}
	if _, ranges := s.requests(); len(ranges) != 3 {
		t.Errorf("%d tries, want 3", len(ranges))
	}
	s.file = nil
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Fatal(err)
	}
	if _, ranges := s.requests(); ranges[3] != "bytes=3000-" {
		t.Errorf("the next run asked for %q, want bytes=3000-", ranges[3])
	}
}

func TestDownloadRangesRefused(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(s *setup, w http.ResponseWriter, r *http.Request){
		"whole file instead": func(s *setup, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(s.files[whl]) },
		"other range": func(s *setup, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", len(s.files[whl])-1, len(s.files[whl])))
			w.WriteHeader(http.StatusPartialContent)
		},
		"range of a larger file": func(s *setup, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 1000-%d/%d", 1<<40-1, 1<<40))
			w.WriteHeader(http.StatusPartialContent)
		},
		"nonsense range": func(_ *setup, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes */x-y")
			w.WriteHeader(http.StatusPartialContent)
		},
		"416": func(_ *setup, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.putPart(t, s.files[whl][:1000], "")
			s.file = func(w http.ResponseWriter, r *http.Request, n int) bool {
				if n == 1 {
					refuse(s, w, r)
				}
				return n == 1
			}
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
				t.Errorf("Ensure: %v", err)
			}
			if _, ranges := s.requests(); ranges[0] != "bytes=1000-" || ranges[len(ranges)-1] == "bytes=1000-" && len(ranges) > 1 {
				t.Errorf("ranges asked for: %q", ranges)
			}
		})
	}
}

// TestDownloadLessThanAsked has a server that gives a range in pieces, as HTTP allows.
func TestDownloadLessThanAsked(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.putPart(t, s.files[whl][:1000], "")
	s.file = func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n == 1 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 1000-1999/%d", len(s.files[whl])))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(s.files[whl][1000:2000])
		}
		return n == 1
	}
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Errorf("Ensure: %v", err)
	}
	if _, got := s.requests(); !slices.Equal(got, []string{"bytes=1000-", "bytes=2000-"}) {
		t.Errorf("ranges asked for: %q", got)
	}
}

// TestDownloadFileChanged continues a part of what the server no longer has.
func TestDownloadFileChanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tag     string
		content func(whole []byte) []byte
		want    []string
	}{
		"the tag tells":      {`"v0"`, func(w []byte) []byte { return make([]byte, 1000) }, []string{"bytes=1000-"}},
		"the checksum tells": {"", func(w []byte) []byte { return make([]byte, 1000) }, []string{"bytes=1000-", ""}},
		"complete but wrong": {"", func(w []byte) []byte { return make([]byte, len(w)) }, []string{""}},
		"too long":           {"", func(w []byte) []byte { return make([]byte, len(w)+1) }, []string{""}},
		"complete and right": {"", func(w []byte) []byte { return w }, nil},
		"tag is nonsense":    {"\"a\r\nX: y\"", func(w []byte) []byte { return w[:1000] }, []string{"bytes=1000-"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.putPart(t, c.content(s.files[whl]), c.tag)
			for _, ending := range []string{".part", ".part.tag"} { // of an older release of the package
				write(t, filepath.Join(s.downloads, whl+".0123456789ab"+ending), []byte("x"))
			}
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
				t.Fatal(err)
			}
			if _, got := s.requests(); !slices.Equal(got, c.want) {
				t.Errorf("ranges asked for: %q, want %q", got, c.want)
			}
			if got := entries(t, s.downloads); len(got) != 1 {
				t.Errorf("downloads hold %v, want only the model", got)
			}
		})
	}
}

func TestDownloadCorrupted(t *testing.T) {
	t.Parallel()
	for name, corrupt := range map[string]func(s *setup, w http.ResponseWriter){
		"one bit": func(s *setup, w http.ResponseWriter) {
			b := slices.Clone(s.files[whl])
			b[len(b)/2] ^= 1
			_, _ = w.Write(b)
		},
		"too short": func(s *setup, w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(s.files[whl][:1000])
		},
		"too long": func(s *setup, w http.ResponseWriter) { // without a length
			w.(http.Flusher).Flush()
			_, _ = w.Write(append(slices.Clone(s.files[whl]), 'x'))
		},
		"another file": func(_ *setup, w http.ResponseWriter) { _, _ = w.Write([]byte("<html>log in first</html>")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.file = func(w http.ResponseWriter, _ *http.Request, _ int) bool { corrupt(s, w); return true }
			_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
			if !errors.Is(err, hub.ErrChecksum) || !strings.Contains(err.Error(), whl) {
				t.Errorf("Ensure = %v, want ErrChecksum that names the file", err)
			}
			s.file = nil
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
				t.Errorf("once the server is right again: %v", err)
			}
		})
	}
}

// TestWheelIsNotTheCatalogs has an index whose file is consistent but not what the program knows.
func TestWheelIsNotTheCatalogs(t *testing.T) {
	t.Parallel()
	other := gguf()
	other[9] ^= 1
	for name, members := range map[string]map[string][]byte{
		"other bytes": {member: other}, "other size": {member: other[:100]}, "no member": {"x": other}, "no zip": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.files[whl] = []byte("no zip")
			if members != nil {
				s.files[whl] = wheel(t, members)
			}
			_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
			if err == nil || (members != nil && !errors.Is(err, hub.ErrChecksum)) {
				t.Errorf("Ensure = %v, want ErrChecksum", err)
			}
			if got := entries(t, s.store.Root); len(got) != 0 {
				t.Errorf("the store holds %v, want nothing", got)
			}
		})
	}
}

func TestDownloadStalls(t *testing.T) {
	t.Parallel()
	s := newSetup(t, func(c *hub.Config) { c.Stall, c.Retries = 2*time.Second, 1 })
	s.file = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 2 {
			return false
		}
		s.serve(&staller{cutter{ResponseWriter: w, left: 5000}, r.Context()}, r, whl)
		return true
	}
	_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
	if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "stalled") {
		t.Errorf("Ensure = %v, want ErrUnavailable that says it stalled", err)
	}
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Fatal(err)
	}
	if _, ranges := s.requests(); !slices.Equal(ranges, []string{"", "bytes=5000-", "bytes=10000-"}) {
		t.Errorf("ranges asked for: %q, want each to go on", ranges)
	}
}

// staller sends its bytes and then nothing until the client leaves.
type staller struct {
	cutter
	ctx context.Context
}

func (s *staller) Write(p []byte) (int, error) {
	n, err := s.cutter.Write(p)
	if err != nil {
		<-s.ctx.Done()
	}
	return n, err
}

// TestStallBeforeTheAnswer has a server that takes the request and says nothing.
func TestStallBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	s := newSetup(t, func(c *hub.Config) { c.Stall, c.Retries = 50*time.Millisecond, -1 })
	s.page = func(_ http.ResponseWriter, r *http.Request, _ int) bool { <-r.Context().Done(); return true }
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "stalled") {
		t.Errorf("Ensure = %v, want ErrUnavailable that says it stalled", err)
	}
}

// TestDrip: a server that sends a byte now and then holds neither a look-up nor a download, and what a download got is
// gone on with.
func TestDrip(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"look-up", "download"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, func(c *hub.Config) { c.Stall, c.Retries = 500*time.Millisecond, -1 })
			drip := func(w http.ResponseWriter, r *http.Request, n int) bool {
				if n > 1 {
					return false
				}
				w.Header().Set("Content-Type", "text/html")
				every := time.NewTicker(20 * time.Millisecond)
				defer every.Stop()
				for i := 0; r.Context().Err() == nil; i++ {
					_, _ = w.Write(s.files[whl][i : i+1])
					_ = http.NewResponseController(w).Flush()
					select {
					case <-every.C:
					case <-r.Context().Done():
					}
				}
				return true
			}
			if what == "look-up" {
				s.page = drip
			} else {
				s.file = drip
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, _, err := s.Ensure(ctx, s.store, "tiny", "", nil); !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), "less than 1 KiB/s") {
				t.Fatalf("Ensure = %v, want ErrUnavailable that says how slow it was", err)
			}
			if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
				t.Fatal(err)
			}
			if _, ranges := s.requests(); what == "download" && (len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=")) {
				t.Errorf("ranges asked for: %q, want the second to go on", ranges)
			}
		})
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for status, c := range map[int]struct {
		tries int
		say   string
	}{
		400: {1, "400"}, 401: {1, "credentials"}, 403: {1, "credentials"}, 404: {1, "404"}, 410: {1, "410"},
		408: {3, "408"}, 429: {3, "429"}, 500: {3, "500"}, 503: {3, "503"}, 302: {1, "302"},
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, func(c *hub.Config) { c.Retries = 2 })
			s.file = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(status)
				return true
			}
			_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
			if !errors.Is(err, hub.ErrUnavailable) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("Ensure with status %d = %v, want ErrUnavailable that says %q", status, err, c.say)
			}
			if _, ranges := s.requests(); len(ranges) != c.tries {
				t.Errorf("%d tries with status %d, want %d", len(ranges), status, c.tries)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.file = func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		return n == 1
	}
	var said string
	_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", func(e hub.Event) {
		if strings.HasPrefix(e.Stage, "trying again") {
			said = e.Stage
		}
	})
	if err != nil || !strings.Contains(said, "in 1s") || !strings.Contains(said, "429") {
		t.Errorf("Ensure = %v, it said %q; want a second's wait and its reason", err, said)
	}
}

func TestCanceledDownloadKeepsItsPart(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	cause := errors.New("the user pressed a key")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.file = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n == 1 {
			s.serve(&staller{cutter{ResponseWriter: w, left: 5000}, r.Context()}, r, whl)
		}
		return n == 1
	}
	_, _, err := s.Ensure(ctx, s.store, "tiny", "", func(e hub.Event) {
		if e.Done >= 5000 {
			cancel(cause)
		}
	})
	if !errors.Is(err, cause) || errors.Is(err, hub.ErrUnavailable) {
		t.Errorf("Ensure = %v, want only %v", err, cause)
	}
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Fatal(err)
	}
	if _, ranges := s.requests(); ranges[1] != "bytes=5000-" {
		t.Errorf("the next run asked for %q, want bytes=5000-", ranges[1])
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /dev/full")
	}
	s := newSetup(t)
	if err := os.MkdirAll(s.downloads, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", s.part()); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
	if !errors.Is(err, hub.ErrDiskFull) || !strings.Contains(err.Error(), s.downloads) {
		t.Errorf("Ensure = %v, want ErrDiskFull that names the folder", err)
	}
	if _, ranges := s.requests(); len(ranges) != 1 {
		t.Errorf("%d tries on a full disk, want 1", len(ranges))
	}
}

func TestFolderIsAFile(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	write(t, s.downloads, []byte("in the way"))
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err == nil || !strings.Contains(err.Error(), "downloads") {
		t.Errorf("Ensure = %v, want an error that names the folder", err)
	}
}
