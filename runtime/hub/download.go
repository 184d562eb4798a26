package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// muchProgress is how many bytes a broken transfer must have brought to count as one that works.
const muchProgress = 1 << 20

// fetch downloads one file of a package into dir and returns its path; label is what it is for.
func (h *Hub) fetch(ctx context.Context, pkg, label, dir string, p Progress, choose func([]file) (file, error)) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", explain(err, dir)
	}
	p.report("looking up "+label, 0, 0)
	all, err := h.files(ctx, pkg, p)
	if err != nil {
		return "", err
	}
	f, err := choose(all)
	if err != nil {
		return "", fmt.Errorf("package %s: %w", pkg, err)
	}
	d := newDownload(h, f, dir, label, p)
	if err := d.run(ctx); err != nil {
		return "", fmt.Errorf("%s: %w", f.Name, explain(err, dir))
	}
	return d.path, nil
}

// download is one file on its way to disk. What has arrived lies in part, whose name holds the
// checksum: a part of another file is never continued. Beside it lies the entity tag of the server.
type download struct {
	hub      *Hub
	file     file
	path     string
	part     string
	stage    string
	progress Progress
	header   http.Header                     // sent with each request; nil for none
	refused  func(resp *http.Response) error // what a refusal means; nil for an index's
	check    func(part io.ReaderAt) error    // says early that the file is of no use; io.EOF or io.ErrUnexpectedEOF: not yet
}

func newDownload(h *Hub, f file, dir, label string, p Progress) *download {
	return &download{
		hub: h, file: f, path: filepath.Join(dir, f.Name), stage: "fetching " + label, progress: p, refused: statusError,
		part: filepath.Join(dir, f.Name+"."+(f.SHA256 + f.Git)[:12]+".part"),
	}
}

func (d *download) run(ctx context.Context) error {
	if ok, err := intactFile(ctx, d.path, d.file); ok || err != nil {
		return err
	}
	d.removeOldParts()
	for {
		resumed, best := d.size() > 0, d.size()
		err := d.hub.again(ctx, d.progress, func() (bool, error) {
			err := d.attempt(ctx)
			// Only what is more than ever before counts, or a server that always starts over would be
			// asked for ever.
			progress := d.size()-best >= muchProgress
			best = max(best, d.size())
			return progress, err
		})
		if err != nil {
			return err
		}
		ok, err := intactFile(ctx, d.part, d.file)
		if err != nil {
			return err
		}
		if ok {
			d.forgetTag()
			return os.Rename(d.part, d.path)
		}
		d.forgetTag()
		if !resumed {
			return fmt.Errorf("%w: the file differs from what the index announces (checksum %s) and was deleted: the server or a proxy altered it, run again or choose another index", ErrChecksum, d.file.SHA256+d.file.Git)
		}
		// The old part may have been to blame: once more, from the start.
		d.progress.report("the part fetched earlier was damaged, starting over", 0, 0)
	}
}

// removeOldParts deletes what is left of other versions of the file.
func (d *download) removeOldParts() {
	entries, _ := os.ReadDir(filepath.Dir(d.path))
	for _, e := range entries {
		n := e.Name()
		if strings.HasPrefix(n, d.file.Name+".") && (strings.HasSuffix(n, ".part") || strings.HasSuffix(n, ".part.tag")) && !strings.HasPrefix(n, filepath.Base(d.part)) {
			_ = os.Remove(filepath.Join(filepath.Dir(d.path), n))
		}
	}
}

func (d *download) size() int64 {
	info, err := os.Stat(d.part)
	if err != nil {
		return 0
	}
	return info.Size()
}

// attempt is one request; when it returns nil the part is as long as the file should be.
func (d *download) attempt(ctx context.Context) (err error) {
	out, err := os.OpenFile(d.part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	offset, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if d.file.Size > 0 && offset > d.file.Size {
		if offset, err = 0, restart(out); err != nil {
			return err
		}
	}
	if d.file.Size > 0 && offset == d.file.Size {
		return nil
	}
	// A body that was compressed on the way could not be continued at a byte.
	header := http.Header{"Accept-Encoding": {"identity"}}
	maps.Copy(header, d.header)
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		if tag := d.tag(); tag != "" {
			header.Set("If-Range", tag)
		}
	}
	return d.hub.get(ctx, d.file.URL, header, func(resp *http.Response, body io.Reader) error {
		total, err := d.accept(resp, out, offset)
		if err != nil {
			return err
		}
		return d.receive(out, body, total)
	})
}

// accept decides what to make of the answer's head, and leaves out at the place where the body goes.
// It returns the size of the whole file, 0 when unknown.
func (d *download) accept(resp *http.Response, out *os.File, offset int64) (total int64, err error) {
	switch resp.StatusCode {
	case http.StatusOK: // the whole file: no range was asked for, or none is given
		if offset > 0 {
			if err := restart(out); err != nil {
				return 0, err
			}
		}
		total = max(resp.ContentLength, 0)
	case http.StatusPartialContent:
		start, size, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || start != offset || (d.file.Size > 0 && size != d.file.Size) {
			return 0, d.startOver(out, fmt.Errorf("%s answers with bytes %q, wanted were those from %d", redact(d.file.URL), resp.Header.Get("Content-Range"), offset))
		}
		total = size
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, d.startOver(out, fmt.Errorf("%s has no bytes from %d on", redact(d.file.URL), offset))
	default:
		return 0, d.refused(resp)
	}
	if d.file.Size > 0 && total > 0 && total != d.file.Size {
		return 0, fmt.Errorf("%w: %s has %d bytes, the index announces %d", ErrChecksum, redact(d.file.URL), total, d.file.Size)
	}
	d.remember(resp.Header.Get("ETag"))
	return max(total, d.file.Size), nil
}

// startOver forgets the part and asks for a fresh try.
func (d *download) startOver(out *os.File, cause error) error {
	d.forgetTag()
	if err := restart(out); err != nil {
		return err
	}
	return transient{error: cause}
}

func restart(out *os.File) error {
	_, seekErr := out.Seek(0, io.SeekStart)
	return errors.Join(seekErr, out.Truncate(0))
}

// receive appends the body to the part.
func (d *download) receive(out *os.File, body io.Reader, total int64) error {
	done, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	limit := cmp.Or(total, maxFile)
	buf, look := make([]byte, 256<<10), int64(0)
	d.progress.report(d.stage, done, total)
	for {
		n, readErr := body.Read(buf)
		if done+int64(n) > limit {
			return fmt.Errorf("%w: %s sends more than the %d bytes announced", ErrChecksum, redact(d.file.URL), limit)
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		done += int64(n)
		d.progress.report(d.stage, done, total)
		if d.check != nil && done >= look && done < total { // a whole file has a checksum
			look = 2 * done
			switch err := d.check(out); {
			case err == nil:
				d.check = nil
			case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
				return errors.Join(err, restart(out)) // or else what a damaged part holds would be refused for ever
			}
		}
		switch {
		case errors.Is(readErr, io.EOF) && total > 0 && done < total:
			return transient{error: fmt.Errorf("the connection ended after %d of %d bytes", done, total)}
		case errors.Is(readErr, io.EOF):
			return out.Sync()
		case readErr != nil:
			return readErr
		}
	}
}

// contentRange reads "bytes FIRST-LAST/SIZE"; a server may give less than was asked for.
func contentRange(text string) (start, size int64, ok bool) {
	text, isBytes := strings.CutPrefix(text, "bytes ")
	span, whole, _ := strings.Cut(text, "/")
	first, last, _ := strings.Cut(span, "-")
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	size, err3 := strconv.ParseInt(whole, 10, 64)
	if !isBytes || errors.Join(err1, err2, err3) != nil || start < 0 || end >= size || start > end {
		return 0, 0, false
	}
	return start, size, true
}

// tag is the entity tag that the part belongs to, "" when none is known. Without one a changed file is
// noticed by its size or, at the latest, by its checksum.
func (d *download) tag() string {
	raw, err := os.ReadFile(d.part + ".tag")
	if err != nil || len(raw) > 1024 || strings.ContainsAny(string(raw), "\r\n") {
		return ""
	}
	return string(raw)
}

func (d *download) remember(tag string) {
	// Weak tags (W/…) do not promise equal bytes.
	if !strings.HasPrefix(tag, `"`) || len(tag) > 1024 {
		d.forgetTag()
		return
	}
	// Losing it costs nothing but the check that it allows.
	_ = os.WriteFile(d.part+".tag", []byte(tag), 0o644)
}

func (d *download) forgetTag() { _ = os.Remove(d.part + ".tag") }

// redact is an address without its password, for messages.
func redact(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "the file's address"
	}
	return u.Redacted()
}
