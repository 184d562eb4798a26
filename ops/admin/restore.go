package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrRunning is returned when a dispatcher answers on the broker that is to be filled: stop the fleet.
var ErrRunning = errors.New("a dispatcher is running")

// mark is the key in a stream's metadata under which a restore notes, while it runs, whose copy the
// stream is and whether it is whole.
const (
	mark       = "pelton-restore"
	unfinished = " unfinished"
	whole      = " whole" // on the stream whose mark goes last: all streams are there
)

// The broker gives a restore of which it hears nothing up after five seconds; until then its stream's name
// is taken.
const (
	codeNameTaken jetstream.ErrorCode = 10130 // "stream name already in use, cannot restore"
	codeRestore   jetstream.ErrorCode = 10062 // "restore failed: " and another error with its code
	busyTime                          = 20 * time.Second
	busyPause                         = 300 * time.Millisecond
)

// RestoreOptions say what a Restore may do. The zero value changes nothing that is there.
type RestoreOptions struct {
	Replace  bool // streams of the same names are deleted first, with all that is in them
	Running  bool // do not look for dispatchers
	Replicas int  // of every stream; 0 is as it was
	Progress Progress
}

// Restored says what a Restore did.
type Restored struct {
	Streams []string  // that were made, the first first
	Kept    []string  // that an interrupted Restore of the same backup had made
	Removed []string  // subjects of OUT whose job is not in JOBS or SCHED, and whose records were therefore removed
	Expired []Expired // what was too old by now
}

// Restore makes the streams of a backup in the broker that nc leads to: messages with their sequences,
// consumers with what they had delivered. Every checksum is compared before anything is touched. Streams
// that exist are refused with [ErrExists] unless they may be replaced; one Restore that was interrupted
// goes on when it is called again.
//
// Messages are as old as in the backup: what a stream no longer keeps for its age is not there.
//
// Nothing else may work on these streams meanwhile: with dispatchers there it is refused with
// [ErrRunning]. The stream OUT comes before JOBS, so that workers which are there find a job's records
// with the job.
func Restore(ctx context.Context, nc *nats.Conn, dir string, o RestoreOptions) (*Restored, error) {
	m, err := Read(dir)
	if err != nil {
		return nil, err
	}
	if !o.Running {
		if err := nobody(ctx, nc); err != nil {
			return nil, err
		}
	}
	if len(m.Streams) == 0 {
		return nil, fmt.Errorf("backup %s has no streams", dir)
	}
	r := &restore{nc: nc, dir: dir, id: m.ID, options: o, done: &Restored{}}
	last := m.Streams[len(m.Streams)-1].Stream
	config, _, err := describe(ctx, nc, last)
	if err != nil {
		return nil, err
	}
	if labelOf(config) == r.id+whole {
		for _, c := range m.Streams {
			r.done.Kept = append(r.done.Kept, c.Stream)
		}
	} else if err := r.streams(ctx, m.Streams); err != nil {
		return r.done, err
	}
	if r.done.Expired, err = expired(ctx, nc, m.Streams); err != nil {
		return r.done, fmt.Errorf("what is too old: %w", err)
	}
	if err := r.label(ctx, last, r.id+whole); err != nil {
		return r.done, fmt.Errorf("stream %s: %w", last, err)
	}
	for _, c := range m.Streams {
		if err := r.label(ctx, c.Stream, ""); err != nil {
			return r.done, fmt.Errorf("stream %s: %w", c.Stream, err)
		}
	}
	return r.done, nil
}

// nobody fails when a dispatcher answers.
func nobody(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := nc.RequestWithContext(ctx, "$SRV.PING.pelton-dispatcher", nil); err == nil {
		return fmt.Errorf("%w: it would take, end and submit jobs of streams that are half there: stop dispatchers and workers first", ErrRunning)
	}
	return nil
}

// restore is one Restore under way.
type restore struct {
	nc      *nats.Conn
	dir, id string
	options RestoreOptions
	done    *Restored
}

// streams makes those that are not there yet, the last copied first.
func (r *restore) streams(ctx context.Context, all []Copy) error {
	todo := slices.Clone(all)
	slices.Reverse(todo)
	todo, err := r.missing(ctx, todo)
	if err != nil {
		return err
	}
	for _, c := range todo {
		if err := r.stream(ctx, c); err != nil {
			return fmt.Errorf("stream %s: %w", c.Stream, err)
		}
		r.done.Streams = append(r.done.Streams, c.Stream)
	}
	if r.done.Removed, err = removeOrphans(ctx, r.nc); err != nil {
		return fmt.Errorf("records without a job: %w", err)
	}
	return nil
}

// missing are the copies that are not there yet. Streams that are somebody else's are refused all at once.
func (r *restore) missing(ctx context.Context, all []Copy) (todo []Copy, err error) {
	var taken []string
	for _, c := range all {
		config, there, err := describe(ctx, r.nc, c.Stream)
		if err != nil {
			return nil, err
		}
		switch label := labelOf(config); {
		case there && label == r.id:
			r.done.Kept = append(r.done.Kept, c.Stream)
			continue
		case there && label != r.id+unfinished && !r.options.Replace:
			taken = append(taken, c.Stream)
		}
		todo = append(todo, c)
	}
	if len(taken) > 0 {
		return nil, fmt.Errorf("streams %s: %w: restore into an empty account, or say that they may be replaced: what is in them is lost then", strings.Join(taken, ", "), ErrExists)
	}
	return todo, nil
}

// stream makes one stream, in the place of what has its name. The broker may still be busy with it when an
// earlier Restore was interrupted a moment ago.
func (r *restore) stream(ctx context.Context, c Copy) error {
	for late := time.Now().Add(busyTime); ; {
		err := r.fill(ctx, c)
		if !nameTaken(err) || time.Now().After(late) {
			return err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nameTaken tells whether the broker says that the stream's name is in use, before the copy was sent or
// after.
func nameTaken(err error) bool {
	e, is := errors.AsType[*jetstream.APIError](err)
	return is && (e.ErrorCode == codeNameTaken ||
		e.ErrorCode == codeRestore && strings.Contains(e.Description, fmt.Sprintf("(%d)", codeNameTaken)))
}

// clear deletes the stream that has the name, if that is allowed.
func (r *restore) clear(ctx context.Context, stream string) error {
	config, there, err := describe(ctx, r.nc, stream)
	if err != nil || !there {
		return err
	}
	if !r.options.Replace && labelOf(config) != r.id+unfinished {
		return fmt.Errorf("somebody made it meanwhile: %w", ErrExists)
	}
	if err := call(ctx, r.nc, "STREAM.DELETE."+stream, nil, nil); err != nil {
		return fmt.Errorf("delete it first: %w", err)
	}
	return nil
}

// fill makes one stream.
func (r *restore) fill(ctx context.Context, c Copy) (err error) {
	if err := r.clear(ctx, c.Stream); err != nil {
		return err
	}
	config, err := edit(c.Config, func(config map[string]any) {
		setLabel(config, r.id+unfinished)
		if r.options.Replicas > 0 {
			config["num_replicas"] = r.options.Replicas
		}
	})
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(r.dir, c.File))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = refill(ctx, r.nc, c.Stream, config, c.State, f, func(done int64) {
		if r.options.Progress != nil {
			r.options.Progress(c.Stream, done, c.Size)
		}
	})
	if err != nil {
		return err
	}
	return r.label(ctx, c.Stream, r.id)
}

// label changes the mark of a stream; "" removes it.
func (r *restore) label(ctx context.Context, stream, label string) error {
	config, there, err := describe(ctx, r.nc, stream)
	if err != nil || !there {
		return errors.Join(err, errUnless(there))
	}
	if config, err = edit(config, func(config map[string]any) { setLabel(config, label) }); err != nil {
		return err
	}
	return call(ctx, r.nc, "STREAM.UPDATE."+stream, config, nil)
}

func errUnless(there bool) error {
	if there {
		return nil
	}
	return errors.New("it is gone again: somebody else deletes streams")
}

// edit changes a configuration of which this version need not know every field.
func edit(config json.RawMessage, change func(map[string]any)) (json.RawMessage, error) {
	fields := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(config))
	d.UseNumber() // durations in nanoseconds are more than a float holds
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	change(fields)
	return json.Marshal(fields)
}

func setLabel(config map[string]any, label string) {
	metadata, ok := config["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
	}
	if metadata[mark] = label; label == "" {
		delete(metadata, mark)
	}
	config["metadata"] = metadata
}

func labelOf(config json.RawMessage) string {
	var c struct {
		Metadata map[string]string `json:"metadata"`
	}
	if json.Unmarshal(config, &c) != nil {
		return ""
	}
	return c.Metadata[mark]
}
