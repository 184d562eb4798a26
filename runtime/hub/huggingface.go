package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"unicode"

	"github.com/pelton-run/pelton/runtime/hub/repo"
)

// The hub's API: https://huggingface.co/docs/hub/api, and huggingface_hub's file_download.py for the
// headers.

const (
	publicHub   = "https://huggingface.co"
	maxListing  = 16 << 20 // bytes of one answer of the API
	maxPages    = 50
	maxEntries  = 20000
	maxTokenLen = 1024
)

// ErrAccess is returned, wrapped, when the hub does not show a repository to us: it does not exist, or a
// token with the right to read it is missing. The text says what to do.
var ErrAccess = errors.New("no access")

// account is a hub and who we are there.
type account struct {
	endpoint *url.URL
	token    string // sent to the endpoint's host only, never printed
}

// readAccount reads HF_ENDPOINT, HF_TOKEN and HF_TOKEN_FILE.
func readAccount(env func(string) string) (account, error) {
	address := cmp.Or(env("HF_ENDPOINT"), publicHub)
	u, err := url.Parse(strings.TrimRight(address, "/"))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return account{}, errors.New("HF_ENDPOINT is no http or https address without credentials")
	}
	a := account{endpoint: u, token: strings.TrimSpace(env("HF_TOKEN"))}
	if path := env("HF_TOKEN_FILE"); a.token == "" && path != "" {
		f, err := os.Open(path)
		if err != nil {
			return account{}, fmt.Errorf("HF_TOKEN_FILE: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxTokenLen+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return account{}, fmt.Errorf("HF_TOKEN_FILE: %w", err)
		}
		a.token = strings.TrimSpace(string(b))
	}
	if len(a.token) > maxTokenLen || strings.ContainsFunc(a.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return account{}, errors.New("the token in HF_TOKEN or HF_TOKEN_FILE is not one line of letters, digits and signs")
	}
	if ip := net.ParseIP(u.Hostname()); a.token != "" && u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return account{}, errors.New("HF_ENDPOINT is not encrypted: use https, or unset HF_TOKEN")
	}
	return a, nil
}

func (a account) header() http.Header {
	h := http.Header{}
	if a.token != "" {
		h.Set("Authorization", "Bearer "+a.token)
	}
	return h
}

// address joins path elements that are not yet escaped to the endpoint.
func (a account) address(elements ...string) string {
	var b strings.Builder
	b.WriteString(a.endpoint.String())
	for _, e := range elements {
		for part := range strings.SplitSeq(e, "/") {
			b.WriteString("/" + url.PathEscape(part))
		}
	}
	return b.String()
}

// branch escapes a revision as one path element: branches may hold slashes.
func branch(revision string) string { return url.PathEscape(revision) }

// snapshot is a repository at one commit.
type snapshot struct {
	commit  string
	license string
	files   []repo.File
}

var commitHash = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// visit is a repository on a hub, as we may see it.
type visit struct {
	hub      *Hub
	account  account
	ref      repo.Ref
	progress Progress
}

// look asks for the repository's commit and its files.
func (v visit) look(ctx context.Context) (snapshot, error) {
	a, r := v.account, v.ref
	var info struct {
		SHA  string `json:"sha"`
		Card struct {
			License any `json:"license"`
		} `json:"cardData"`
	}
	if _, err := v.ask(ctx, a.address("api/models", r.ID)+"/revision/"+branch(r.Revision), &info); err != nil {
		return snapshot{}, err
	}
	if !commitHash.MatchString(info.SHA) {
		return snapshot{}, fmt.Errorf("%w: the hub names no commit for %s", ErrUnavailable, r)
	}
	s := snapshot{commit: info.SHA}
	if text, ok := info.Card.License.(string); ok && len(text) < 100 && !strings.ContainsFunc(text, unicode.IsControl) {
		s.license = text
	}
	next := a.address("api/models", r.ID) + "/tree/" + info.SHA + "?recursive=true"
	for range maxPages {
		var page []treeEntry
		header, err := v.ask(ctx, next, &page)
		if err != nil {
			return s, err
		}
		for _, e := range page {
			if f, ok := e.file(); ok {
				s.files = append(s.files, f)
			}
		}
		if len(s.files) > maxEntries {
			return s, fmt.Errorf("%s has more than %d files", r, maxEntries)
		}
		if next, err = a.nextPage(header); err != nil || next == "" {
			return s, err
		}
	}
	return s, fmt.Errorf("%s has more than %d pages of files", r, maxPages)
}

// treeEntry is a file or folder in a listing.
type treeEntry struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	OID  string `json:"oid"`
	LFS  *struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	} `json:"lfs"`
}

// file is an entry that can be fetched and checked. One without bytes is none: nothing would say how much of an
// endless answer to take.
func (e treeEntry) file() (repo.File, bool) {
	f := repo.File{Path: e.Path, Size: e.Size, Git: e.OID}
	if e.LFS != nil {
		f.Size, f.SHA256, f.Git = e.LFS.Size, strings.TrimPrefix(e.LFS.OID, "sha256:"), ""
	}
	sum := f.SHA256 + f.Git
	good := commitHash.MatchString(sum) && (len(sum) == 64) == (f.SHA256 != "")
	return f, e.Type == "file" && good && f.Size > 0 && f.Size <= maxFile && repo.Local(e.Path)
}

// nextPage reads the header Link; a page on another host is refused, for the token must not go there.
func (a account) nextPage(h http.Header) (string, error) {
	for _, link := range strings.Split(h.Get("Link"), ",") {
		target, rel, ok := strings.Cut(link, ";")
		if !ok || !strings.Contains(rel, `rel="next"`) {
			continue
		}
		u, err := a.endpoint.Parse(strings.Trim(strings.TrimSpace(target), "<>"))
		if err != nil || u.Host != a.endpoint.Host || u.Scheme != a.endpoint.Scheme {
			return "", fmt.Errorf("%w: the hub's next page lies elsewhere", ErrUnavailable)
		}
		return u.String(), nil
	}
	return "", nil
}

// ask gets one answer of the API.
func (v visit) ask(ctx context.Context, address string, to any) (header http.Header, err error) {
	err = v.hub.again(ctx, v.progress, func() (bool, error) {
		return false, v.hub.get(ctx, address, v.account.header(), func(resp *http.Response, body io.Reader) error {
			if resp.StatusCode != http.StatusOK {
				return accessError(resp, v.account, v.ref)
			}
			raw, err := io.ReadAll(io.LimitReader(body, maxListing+1))
			if err != nil {
				return err
			}
			if len(raw) > maxListing {
				return fmt.Errorf("%w: the hub's answer is larger than %d bytes", ErrUnavailable, maxListing)
			}
			header = resp.Header
			if err := json.Unmarshal(raw, to); err != nil {
				return fmt.Errorf("%w: the hub's answer makes no sense: %w", ErrUnavailable, err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.ref, err)
	}
	return header, nil
}

// accessError says what a refusal of the hub means and what to do about it.
func accessError(resp *http.Response, a account, r repo.Ref) error {
	code := resp.Header.Get("X-Error-Code")
	page := a.address(r.ID)
	switch {
	case code == "RevisionNotFound":
		return fmt.Errorf("%w: it has no revision %q: see %s/tree/main", ErrAccess, r.Revision, page)
	case code == "EntryNotFound":
		return fmt.Errorf("%w: the file is not there any more: run again", ErrUnavailable)
	case code == "GatedRepo" && a.token == "":
		return fmt.Errorf("%w: the model is gated: accept its conditions on %s, make a token with the right to read and put it into HF_TOKEN or HF_TOKEN_FILE", ErrAccess, page)
	case code == "GatedRepo", resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: the account of the token may not read it: accept the model's conditions on %s, or use another token", ErrAccess, page)
	case resp.StatusCode == http.StatusUnauthorized && a.token == "":
		return fmt.Errorf("%w: there is no such public model: check the name; if it is private or gated, put a token with the right to read into HF_TOKEN or HF_TOKEN_FILE", ErrAccess)
	case resp.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: the hub does not take the token, or there is no such model: check HF_TOKEN and the name", ErrAccess)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: there is no such model on %s: check the name", ErrAccess, a.endpoint.Host)
	}
	return statusError(resp)
}
