package model

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Errors of this package; test with errors.Is.
var (
	// ErrNotFound: there is no such model, variant or folder. Pull the model.
	ErrNotFound = errors.New("model not found")
	// ErrDamaged: the folder is there but its manifest or its files are not as they should be. Pull the
	// model again; that replaces the folder.
	ErrDamaged = errors.New("model folder is damaged")
)

// maxManifest bounds a manifest's file in bytes.
const maxManifest = 1 << 20

// Load reads the manifest of a model folder and checks every field and the size of every file, not
// their checksums ([Verify] does). The error wraps [ErrNotFound] or [ErrDamaged].
func Load(dir string) (Manifest, error) {
	path := filepath.Join(dir, ManifestFile)
	raw, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, fmt.Errorf("%w: %s has no %s", ErrNotFound, dir, ManifestFile)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	m, err := parse(raw)
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	for _, f := range m.Files {
		info, err := os.Stat(filepath.Join(dir, f.Name))
		switch {
		case err != nil:
			return Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		case !info.Mode().IsRegular():
			return Manifest{}, fmt.Errorf("%w: %s is no file", ErrDamaged, filepath.Join(dir, f.Name))
		case info.Size() != f.Size:
			return Manifest{}, fmt.Errorf("%w: %s has %d bytes, not %d", ErrDamaged, filepath.Join(dir, f.Name), info.Size(), f.Size)
		}
	}
	return m, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(raw) > maxManifest {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxManifest)
	}
	return raw, err
}

func parse(raw []byte) (Manifest, error) {
	var m Manifest
	// Unknown keys are ignored, so that an older program reads what a newer one wrote in this format.
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, err
	}
	return m, m.Validate()
}

// Verify reads every file of the folder and compares its checksum, about a second for each GB that is
// in the page cache. The error wraps [ErrDamaged], or is the context's.
func Verify(ctx context.Context, dir string, m Manifest) error {
	for _, want := range m.Files {
		got, err := Sum(ctx, filepath.Join(dir, want.Name))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if got != want {
			return fmt.Errorf("%w: %s has sha256 %s and %d bytes, not %s and %d", ErrDamaged,
				filepath.Join(dir, want.Name), got.SHA256, got.Size, want.SHA256, want.Size)
		}
	}
	return nil
}

// Sum reads a file and describes it: its base name, size and checksum.
func Sum(ctx context.Context, path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, contextReader{ctx, f}, make([]byte, 1<<20))
	if err != nil {
		return File{}, err
	}
	return File{Name: filepath.Base(path), Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// contextReader ends a long read when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// Write puts the manifest into its folder: durable, and either the old one or the new one even when
// the machine stops halfway. The manifest is checked first; a Format of 0 is set to [Format]. The
// other files must be written before.
func Write(dir string, m Manifest) error {
	m.Format = cmp.Or(m.Format, Format)
	if err := m.Validate(); err != nil {
		return fmt.Errorf("manifest of %s: %w", dir, err)
	}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", dir, err)
	}
	return replace(filepath.Join(dir, ManifestFile), append(raw, '\n'))
}

// replace writes a file beside its place and renames it over.
func replace(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".manifest-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, bytes.NewReader(content))
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes renames in a folder durable. Systems that cannot open folders need no such call.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}

// wordFiles have to do with text only.
var wordFiles = []string{TokenizerFile, TokenizerConfigFile, ChatTemplateFile}

// Fingerprint names what the logits of a model depend on: 16 hexadecimal digits made of the checksums
// of its weights and graph. Two folders with equal fingerprints compute the same.
func Fingerprint(m Manifest) string {
	h := sha256.New()
	for _, f := range m.Files {
		if m.Graph != nil && !slices.Contains(wordFiles, f.Name) {
			fmt.Fprintf(h, "%s %s\n", f.Name, f.SHA256)
		}
	}
	for _, name := range []string{GraphFile, WeightsFile} {
		for _, f := range m.Files {
			if m.Graph == nil && f.Name == name {
				fmt.Fprintf(h, "%s %s\n", f.Name, f.SHA256)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
