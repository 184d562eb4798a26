package hub

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
)

const (
	jsonType = "application/vnd.pypi.simple.v1+json"
	// maxIndex bounds an index page in bytes; the largest project on PyPI has about 30 MB.
	maxIndex = 64 << 20
	// maxFile bounds a download in bytes.
	maxFile = 64 << 30
)

// file is one file of a package, as the simple repository API
// (https://packaging.python.org/en/latest/specifications/simple-repository-api/) tells it.
type file struct {
	Name   string
	URL    string
	SHA256 string
	Git    string // SHA-1 as git counts it, for files that have no SHA256
	Size   int64  // 0 when the index does not say
	Yanked bool
}

// files lists the files of a package in the index.
func (h *Hub) files(ctx context.Context, pkg string, p Progress) ([]file, error) {
	page, err := url.Parse(strings.TrimRight(h.cfg.Index, "/") + "/" + normalize(pkg) + "/")
	if err != nil || (page.Scheme != "http" && page.Scheme != "https") {
		// The error of url.Parse would show credentials.
		return nil, fmt.Errorf("%w: the package index is set to something that is no http or https address", ErrUnavailable)
	}
	var out []file
	header := http.Header{"Accept": {jsonType + ", application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"}}
	err = h.again(ctx, p, func() (bool, error) {
		return false, h.get(ctx, page.String(), header, func(resp *http.Response, body io.Reader) (err error) {
			out, err = readIndex(resp, body)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("package %s of %s: %w", pkg, page.Redacted(), err)
	}
	return out, nil
}

func readIndex(resp *http.Response, body io.Reader) ([]file, error) {
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w: the index does not have it: choose one that does with PELTON_PYPI_INDEX", ErrUnavailable)
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxIndex+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxIndex {
		return nil, fmt.Errorf("%w: its page is larger than %d bytes", ErrUnavailable, maxIndex)
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var all []file
	if strings.HasSuffix(kind, "json") {
		all, err = parseJSON(raw)
	} else {
		all = parseHTML(string(raw))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its page cannot be read: %w", ErrUnavailable, err)
	}
	// Relative addresses are relative to where the page was in the end.
	return usable(all, resp.Request.URL), nil
}

func parseJSON(raw []byte) ([]file, error) {
	var page struct {
		Files []struct {
			Filename string            `json:"filename"`
			URL      string            `json:"url"`
			Hashes   map[string]string `json:"hashes"`
			Size     int64             `json:"size"`
			Yanked   any               `json:"yanked"` // a boolean, or the reason
		} `json:"files"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return nil, err
	}
	var out []file
	for _, f := range page.Files {
		yanked := f.Yanked != nil && f.Yanked != false
		out = append(out, file{Name: f.Filename, URL: f.URL, SHA256: f.Hashes["sha256"], Size: f.Size, Yanked: yanked})
	}
	return out, nil
}

var anchor = regexp.MustCompile(`(?is)<a\s([^>]*)>\s*([^<]*?)\s*</a>`)
var reference = regexp.MustCompile(`(?is)(?:^|\s)href\s*=\s*["']([^"']*)["']`)

// parseHTML reads the older form of the page, which mirrors still serve: a link for each file, with the
// checksum as the fragment.
func parseHTML(page string) []file {
	var out []file
	for _, a := range anchor.FindAllStringSubmatch(page, -1) {
		href := reference.FindStringSubmatch(a[1])
		if href == nil {
			continue
		}
		address, fragment, _ := strings.Cut(html.UnescapeString(href[1]), "#")
		sum, _ := strings.CutPrefix(fragment, "sha256=")
		out = append(out, file{Name: html.UnescapeString(a[2]), URL: address, SHA256: sum, Yanked: strings.Contains(a[1], "data-yanked")})
	}
	return out
}

// usable keeps the files that can be fetched safely, with absolute addresses.
func usable(all []file, page *url.URL) []file {
	var out []file
	for _, f := range all {
		u, err := page.Parse(f.URL)
		sum, sumErr := hex.DecodeString(f.SHA256)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || sumErr != nil || len(sum) != 32 ||
			f.Size < 0 || f.Size > maxFile || !plainFile(f.Name) {
			continue
		}
		if u.User == nil && u.Host == page.Host {
			u.User = page.User // files behind the same door need the same key
		}
		f.URL, f.SHA256 = u.String(), hex.EncodeToString(sum)
		out = append(out, f)
	}
	return out
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+!-]{0,198}$`)

func plainFile(name string) bool { return fileName.MatchString(name) && path.Base(name) == name }

// normalize is the index's spelling of a package name (PEP 503).
func normalize(pkg string) string {
	return strings.ToLower(regexp.MustCompile(`[-_.]+`).ReplaceAllString(pkg, "-"))
}

// pick takes the file of one exact name.
func pick(files []file, name string) (file, error) {
	for _, f := range files {
		if f.Name == name {
			return f, nil
		}
	}
	return file{}, fmt.Errorf("%w: the index does not have %s with a sha256: choose one that does with PELTON_PYPI_INDEX", ErrUnavailable, name)
}
