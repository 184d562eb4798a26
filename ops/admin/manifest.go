package admin

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names in a backup's folder.
const (
	manifestFile = "manifest.json"
	sumsFile     = "SHA256SUMS" // for sha256sum -c
)

// layout is the version of the folder's layout.
const layout = 1

// Manifest says what a backup holds. A backup is a folder of manifest.json, one file for each stream, as
// the broker wrote it, and SHA256SUMS over all of them.
type Manifest struct {
	Layout   int       `json:"layout"` // of the folder: 1
	ID       string    `json:"id"`     // of this backup
	Begun    time.Time `json:"begun"`  // jobs that were admitted before are in it
	Finished time.Time `json:"finished"`
	Broker   string    `json:"broker"` // version of the server that wrote it
	Streams  []Copy    `json:"streams"`
}

// Copy is one stream of a backup.
type Copy struct {
	Stream    string          `json:"stream"`
	Created   time.Time       `json:"created"` // of the stream, which tells it from another of its name
	File      string          `json:"file"`
	SHA256    string          `json:"sha256"`
	Size      int64           `json:"size"` // bytes of the file
	Taken     time.Time       `json:"taken"`
	Messages  uint64          `json:"messages"` // at most: those acknowledged meanwhile are not in the file
	Consumers int             `json:"consumers"`
	Config    json.RawMessage `json:"config"`
	State     json.RawMessage `json:"state"`
}

// Read is the backup in dir. Every file is read and compared with its checksum; what is missing,
// damaged or of a later version is an error that names it.
func Read(dir string) (*Manifest, error) {
	if err := checkSums(dir); err != nil {
		return nil, fmt.Errorf("backup %s: %w", dir, err)
	}
	m := new(Manifest)
	if err := readJSON(filepath.Join(dir, manifestFile), m); err != nil {
		return nil, fmt.Errorf("backup %s: %w", dir, err)
	}
	if m.Layout != layout {
		return nil, fmt.Errorf("backup %s has layout %d, this version reads %d: use the version that wrote it", dir, m.Layout, layout)
	}
	for _, c := range m.Streams {
		if err := c.check(dir); err != nil {
			return nil, fmt.Errorf("backup %s: %w", dir, err)
		}
	}
	return m, nil
}

// check compares the file of c with what c says.
func (c Copy) check(dir string) error {
	if c.File != fileOf(c.Stream) || strings.ContainsAny(c.Stream, `/\`) || c.Stream == "" {
		return fmt.Errorf("%q is no file of stream %q", c.File, c.Stream)
	}
	sum, size, err := sumOf(filepath.Join(dir, c.File))
	if err != nil {
		return err
	}
	if sum != c.SHA256 || size != c.Size {
		return fmt.Errorf("%s is damaged: %d bytes with checksum %s, want %d with %s", c.File, size, sum, c.Size, c.SHA256)
	}
	return nil
}

func fileOf(stream string) string { return stream + ".snapshot" }

// sums is the text of SHA256SUMS.
func sums(m *Manifest, manifest []byte) []byte {
	var b bytes.Buffer
	sum := sha256.Sum256(manifest)
	fmt.Fprintf(&b, "%x  %s\n", sum, manifestFile)
	for _, c := range m.Streams {
		fmt.Fprintf(&b, "%s  %s\n", c.SHA256, c.File)
	}
	return b.Bytes()
}

// checkSums checks the manifest against SHA256SUMS; the files are checked against the manifest.
func checkSums(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it has no %s: it is not a finished backup: %w", sumsFile, err)
	}
	if err != nil {
		return err
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		if want, name, ok := strings.Cut(s.Text(), "  "); ok && name == manifestFile {
			got, _, err := sumOf(filepath.Join(dir, manifestFile))
			if err == nil && got != want {
				err = fmt.Errorf("%s is damaged: checksum %s, want %s", manifestFile, got, want)
			}
			return err
		}
	}
	return fmt.Errorf("%s does not list %s", sumsFile, manifestFile)
}

func sumOf(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// writeFile writes a file that only its owner reads, and returns when it is on disk.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir makes names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
