package admin

import (
	"bufio"
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
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/topology"
)

// resumeWithin is how old a backup that was interrupted may be to go on; an older one begins anew, because
// everything that was admitted meanwhile would be missing.
const resumeWithin = time.Hour

// ErrExists is returned when what would be written is there already: choose another folder, or say that
// streams may be replaced.
var ErrExists = errors.New("already there")

// order is how the fleet's streams are copied; see the package comment. Restore goes the other way.
var order = []string{topology.StreamSched, topology.StreamJobs, topology.StreamDead, topology.StreamOut}

// Progress hears how many bytes of how many of a stream are done. It is called from one goroutine.
type Progress func(stream string, done, total int64)

// Backup copies every stream of the account, KV buckets and object stores among them, to the folder dir,
// which must not exist. It appears whole or not at all: until then the copies are in dir.partial, and a
// Backup that was interrupted goes on there. The fleet may run meanwhile. The package comment says what
// exactly a backup holds. The folder has everybody's prompts and answers in it: its mode is 0700.
func Backup(ctx context.Context, nc *nats.Conn, dir string, progress Progress) (*Manifest, error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("folder %s: %w: choose another name for the backup", dir, errors.Join(ErrExists, err))
	}
	b := &backup{nc: nc, dir: filepath.Clean(dir) + ".partial", progress: progress}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(b.dir, ".lock"))
	if ok, err := lock.TryLock(); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("another backup is writing to %s", b.dir), err)
	}
	defer func() { _ = lock.Unlock() }()
	if err := b.run(ctx); err != nil {
		return nil, err
	}
	if err := os.Remove(lock.Path()); err != nil {
		return nil, err
	}
	if err := os.Rename(b.dir, dir); err != nil {
		return nil, err
	}
	return b.manifest, syncDir(filepath.Dir(filepath.Clean(dir)))
}

// backup is one Backup under way.
type backup struct {
	nc       *nats.Conn
	dir      string
	progress Progress
	manifest *Manifest // of what is done so far; on disk after each stream
}

func (b *backup) run(ctx context.Context) error {
	streams, err := names(ctx, b.nc)
	if err != nil {
		return err
	}
	if len(streams) == 0 {
		return errors.New("the broker has no streams of this account: is it the right server, and are the credentials those of the fleet's provisioner?")
	}
	slices.SortFunc(streams, func(x, y string) int { return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x, y)) })
	if err := b.resume(ctx, streams); err != nil {
		return err
	}
	for _, s := range streams[len(b.manifest.Streams):] {
		if err := b.copy(ctx, s); err != nil {
			return fmt.Errorf("stream %s: %w", s, err)
		}
	}
	b.manifest.Finished = time.Now().UTC()
	data, err := b.save()
	if err != nil {
		return err
	}
	return errors.Join(writeFile(filepath.Join(b.dir, sumsFile), sums(b.manifest, data)), syncDir(b.dir))
}

// rank is a stream's place in the order of copies.
func rank(stream string) int {
	if i := slices.Index(order, stream); i >= 0 {
		return i
	}
	return len(order)
}

// resume takes over the copies of an interrupted backup that are whole, up to the first that is not:
// those after it would be older than it. Copies of other streams, as of another fleet, are none of ours.
func (b *backup) resume(ctx context.Context, streams []string) error {
	var old Manifest
	fresh := &Manifest{Layout: layout, ID: uuid.NewString(), Begun: time.Now().UTC(), Broker: b.nc.ConnectedServerVersion()}
	b.manifest = fresh
	if err := readJSON(filepath.Join(b.dir, manifestFile), &old); err != nil || old.Layout != layout || time.Since(old.Begun) > resumeWithin {
		return nil
	}
	for i, c := range old.Streams {
		good := i < len(streams) && c.Stream == streams[i]
		if good {
			created, err := born(ctx, b.nc, c.Stream)
			if err != nil {
				return fmt.Errorf("stream %s: %w", c.Stream, err)
			}
			good = created.Equal(c.Created) && c.check(b.dir) == nil
		}
		if !good {
			old.Streams = old.Streams[:i]
			break
		}
	}
	if len(old.Streams) > 0 {
		b.manifest = &old
	}
	return nil
}

// copy copies one stream.
func (b *backup) copy(ctx context.Context, stream string) (err error) {
	c := Copy{Stream: stream, File: fileOf(stream), Taken: time.Now().UTC()}
	if c.Created, err = born(ctx, b.nc, stream); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, c.File), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, w := sha256.New(), bufio.NewWriterSize(f, 1<<20)
	t, err := snapshot(ctx, b.nc, stream, io.MultiWriter(h, w), func(done, total int64) {
		if b.progress != nil {
			b.progress(stream, done, total)
		}
	})
	if err = errors.Join(err, w.Flush(), f.Sync()); err != nil {
		return err
	}
	n, err := t.counts()
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	c.SHA256, c.Size, c.Config, c.State = hex.EncodeToString(h.Sum(nil)), info.Size(), t.Config, t.State
	c.Messages, c.Consumers = n.Messages, n.Consumers
	b.manifest.Streams = append(b.manifest.Streams, c)
	_, err = b.save()
	return err
}

// save writes the manifest as it is now.
func (b *backup) save() ([]byte, error) {
	data, err := json.MarshalIndent(b.manifest, "", "  ")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(b.dir, manifestFile)
	if err := writeFile(path+".new", data); err != nil {
		return nil, err
	}
	return data, os.Rename(path+".new", path)
}
