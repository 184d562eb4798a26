// Package apikey is who may use the HTTP door: keys that tenants and operators carry in their
// Authorization header.
//
// It stands before dispatcher/gateway, step 3 of the walk, and tells it the tenant of a request. A file
// keeps the keys' hashes, never the keys. It is read again when it changes, so keys are added and
// withdrawn while the door is open. A [Ring] is safe for concurrent use; the functions that change a
// file are for one process at a time.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Entry is one key as the file keeps it.
type Entry struct {
	ID       string    `json:"id"` // public part of the key
	Tenant   string    `json:"tenant"`
	Operator bool      `json:"operator,omitempty"` // may use every path, for any tenant
	Hash     string    `json:"hash"`               // SHA-256 of the whole key, in hex
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"`
}

// prefix makes keys easy to find where they should not be.
const prefix = "pelton_"

// fits tells whether key is the one of e, in a time that says nothing about where they differ. A key has
// 256 random bits, so that one round of SHA-256 is all the protection that its hash needs.
func (e Entry) fits(key string, now time.Time) bool {
	sum := sha256.Sum256([]byte(key))
	same := subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(e.Hash)) == 1
	return same && (e.Expires.IsZero() || now.Before(e.Expires))
}

// Add makes a key and puts it into the file, which it creates. Only the caller ever sees the key. With
// life 0 it does not expire. A tenant may have several keys: add the new one, change over, remove the
// old one.
func Add(path, tenant string, operator bool, life time.Duration) (key string, e Entry, err error) {
	entries, err := List(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", e, err
	}
	var random [36]byte // 4 for the id, 32 for the secret
	if _, err := rand.Read(random[:]); err != nil {
		return "", e, err
	}
	e = Entry{ID: hex.EncodeToString(random[:4]), Tenant: tenant, Operator: operator, Created: time.Now().UTC().Truncate(time.Second)}
	if life > 0 {
		e.Expires = e.Created.Add(life)
	}
	key = prefix + e.ID + "_" + hex.EncodeToString(random[4:])
	sum := sha256.Sum256([]byte(key))
	e.Hash = hex.EncodeToString(sum[:])
	return key, e, write(path, append(entries, e))
}

// Remove withdraws the key with this id.
func Remove(path, id string) error {
	entries, err := List(path)
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return e.ID == id })
	if len(rest) == len(entries) {
		return fmt.Errorf("no key %q in %s: %w", id, path, fs.ErrNotExist)
	}
	return write(path, rest)
}

// List is the keys in the file.
func List(path string) ([]Entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Keys []Entry `json:"keys"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("keys in %s: %w", path, err)
	}
	return file.Keys, nil
}

// write replaces the file, whole or not at all.
func write(path string, entries []Entry) error {
	data, err := json.MarshalIndent(map[string]any{"keys": entries}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// idOf is the public part of a key, "" when it has not the form of one.
func idOf(key string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(key, prefix), "_")
	return id
}
