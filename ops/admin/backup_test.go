package admin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/admin"
)

// TestRoundTrip: streams, buckets, sequences, headers, times and what consumers had delivered are the same
// on another broker; the layout is the fleet's, and no trace of the restore is left.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	from, to, dir := newSite(t).fleet(40), newSite(t), folder(t)
	bucket, err := from.js.CreateKeyValue(from.ctx(), jetstream.KeyValueConfig{Bucket: "notes", History: 3})
	from.must(err)
	for _, v := range []string{"a", "b", "c", "d"} {
		_, err := bucket.Put(from.ctx(), "key", []byte(v))
		from.must(err)
	}
	_, err = from.js.CreateStream(from.ctx(), jetstream.StreamConfig{Name: "MEMORY", Subjects: []string{"memory"}, Storage: jetstream.MemoryStorage, Metadata: map[string]string{"owner": "me"}})
	from.must(err)
	from.publish("memory", []byte("remembered"))
	name := subject.Consumer("m", contracts.P2, contracts.SizeS)
	consumer, err := from.js.Consumer(from.ctx(), topology.StreamJobs, name)
	from.must(err)
	page, err := consumer.Fetch(10)
	from.must(err)
	n := 0
	for m := range page.Messages() { // four are done, six are being worked on
		if n++; n <= 4 {
			from.must(m.DoubleAck(from.ctx()))
		}
	}
	manifest, err := admin.Backup(from.ctx(), from.nc, dir, nil)
	from.must(err)
	done, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{})
	to.must(err)
	if want := []string{"SCHED", "JOBS", "DLQ", "OUT", "KV_notes", "MEMORY"}; !slices.Equal(streamsOf(manifest), want) {
		t.Errorf("copied in the order %v, want %v", streamsOf(manifest), want)
	}
	if want := []string{"MEMORY", "KV_notes", "OUT", "DLQ", "JOBS", "SCHED"}; !slices.Equal(done.Streams, want) || len(done.Kept) > 0 {
		t.Errorf("restored %+v, want the streams %v", done, want)
	}
	for _, stream := range from.streams() {
		want, got := from.messages(stream), to.messages(stream)
		if stream == topology.StreamOut { // the records of the four that are done were not final
			want = slices.DeleteFunc(want, func(k kept) bool { return slices.Contains(done.Removed, k.Subject) })
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("stream %s (-want +got):\n%s", stream, d)
		}
		w, err := from.js.Stream(from.ctx(), stream)
		from.must(err)
		g, err := to.js.Stream(to.ctx(), stream)
		to.must(err)
		if d := cmp.Diff(w.CachedInfo().Config, g.CachedInfo().Config); d != "" {
			t.Errorf("configuration of %s (-want +got):\n%s", stream, d)
		}
	}
	if len(done.Removed) != 4 {
		t.Errorf("removed the records of %v, want those of the four jobs that are in no queue", done.Removed)
	}
	if drift, err := topology.Ensure(to.ctx(), to.js, topology.Config{}, "m"); err != nil || len(drift) > 0 {
		t.Errorf("the layout differs: %v, %v", drift, err)
	}
	consumer, err = to.js.Consumer(to.ctx(), topology.StreamJobs, name)
	to.must(err)
	if i := consumer.CachedInfo(); i.NumAckPending+int(i.NumPending) != 36 || i.AckFloor.Stream != 4 {
		t.Errorf("the consumer has %d waiting, %d delivered, floor %d, want 36 in all above 4", i.NumPending, i.NumAckPending, i.AckFloor.Stream)
	}
	bucket, err = to.js.KeyValue(to.ctx(), "notes")
	to.must(err)
	if h, err := bucket.History(to.ctx(), "key"); err != nil || len(h) != 3 || string(h[2].Value()) != "d" {
		t.Errorf("history of the bucket's key: %v, %v", h, err)
	}
}

func streamsOf(m *admin.Manifest) (list []string) {
	for _, c := range m.Streams {
		list = append(list, c.Stream)
	}
	return list
}

// TestDamage: a backup of which one bit is not as it was, or that is not finished, changes nothing.
func TestDamage(t *testing.T) {
	t.Parallel()
	from, to := newSite(t).fleet(3), newSite(t)
	for name, harm := range map[string]func(dir string) error{
		"JOBS.snapshot": func(dir string) error { return flip(filepath.Join(dir, "JOBS.snapshot")) },
		"manifest.json": func(dir string) error { return flip(filepath.Join(dir, "manifest.json")) },
		"SHA256SUMS":    func(dir string) error { return os.Remove(filepath.Join(dir, "SHA256SUMS")) },
		"OUT.snapshot":  func(dir string) error { return os.Truncate(filepath.Join(dir, "OUT.snapshot"), 100) },
		"DLQ.snapshot":  func(dir string) error { return os.Remove(filepath.Join(dir, "DLQ.snapshot")) },
	} {
		dir := folder(t)
		_, err := admin.Backup(from.ctx(), from.nc, dir, nil)
		from.must(err)
		from.must(harm(dir))
		if _, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s damaged: %v, want an error that names it", name, err)
		}
		if s := to.streams(); len(s) > 0 {
			t.Errorf("%s damaged: streams %v were made", name, s)
		}
	}
	if _, err := admin.Restore(to.ctx(), to.nc, "nowhere", admin.RestoreOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such folder: %v", err)
	}
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o600)
}

// TestRefused: what is there is not overwritten unless that is asked for.
func TestRefused(t *testing.T) {
	t.Parallel()
	from, to, dir := newSite(t).fleet(3), newSite(t).fleet(1), folder(t)
	_, err := admin.Backup(from.ctx(), from.nc, dir, nil)
	from.must(err)
	if _, err := admin.Backup(from.ctx(), from.nc, dir, nil); !errors.Is(err, admin.ErrExists) {
		t.Errorf("backup over another one: %v, want %v", err, admin.ErrExists)
	}
	before := to.messages(topology.StreamJobs)
	if _, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{}); !errors.Is(err, admin.ErrExists) || !strings.Contains(err.Error(), "OUT, DLQ, JOBS, SCHED") {
		t.Errorf("restore over streams: %v, want %v that names all", err, admin.ErrExists)
	}
	if d := cmp.Diff(before, to.messages(topology.StreamJobs)); d != "" {
		t.Errorf("a refused restore changed JOBS:\n%s", d)
	}
	_, err = admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{Replace: true})
	to.must(err)
	if d := cmp.Diff(from.messages(topology.StreamJobs), to.messages(topology.StreamJobs)); d != "" {
		t.Errorf("JOBS after it was replaced (-want +got):\n%s", d)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder with everybody's prompts has mode %v, %v", info.Mode(), err)
	}
	empty := newSite(t)
	if _, err := admin.Backup(empty.ctx(), empty.nc, folder(t), nil); err == nil {
		t.Error("a backup of nothing: no error")
	}
}

// TestInterruptedElsewhere: what an interrupted backup of another fleet left in the folder is not taken for this one's.
func TestInterruptedElsewhere(t *testing.T) {
	t.Parallel()
	other, s, dir := newSite(t).fleet(3), newSite(t).fleet(5), folder(t)
	ctx, stop := context.WithCancel(other.ctx())
	defer stop()
	_, err := admin.Backup(ctx, other.nc, dir, func(stream string, _, _ int64) {
		if stream == topology.StreamOut {
			stop()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	m, err := admin.Backup(s.ctx(), s.nc, dir, nil)
	s.must(err)
	for _, c := range m.Streams {
		if c.Stream != topology.StreamSched && c.Messages != 5 {
			t.Errorf("the copy of %s has %d messages, want the 5 of this fleet", c.Stream, c.Messages)
		}
	}
}

// TestInterruptedBackup: it appears whole or not at all, and goes on where it was.
func TestInterruptedBackup(t *testing.T) {
	t.Parallel()
	s, dir := newSite(t).fleet(20), folder(t)
	ctx, stop := context.WithCancel(s.ctx())
	defer stop()
	_, err := admin.Backup(ctx, s.nc, dir, func(stream string, _, _ int64) {
		if stream == topology.StreamDead {
			stop()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the folder of an interrupted backup is there: %v", err)
	}
	between := time.Now()
	var again []string
	m, err := admin.Backup(s.ctx(), s.nc, dir, func(stream string, _, _ int64) { again = append(again, stream) })
	s.must(err)
	if again = slices.Compact(again); !slices.Equal(again, []string{"DLQ", "OUT"}) {
		t.Errorf("copied %v after the interruption, want DLQ and OUT", again)
	}
	if !m.Begun.Before(between) || !m.Streams[1].Taken.Before(between) || m.Streams[2].Taken.Before(between) {
		t.Errorf("interrupted at %s, manifest %+v", between, m)
	}
	// A copy that is damaged meanwhile is made again, and with it all that follow.
	dir = folder(t)
	ctx, stop = context.WithCancel(s.ctx())
	defer stop()
	_, err = admin.Backup(ctx, s.nc, dir, func(stream string, _, _ int64) {
		if stream == topology.StreamOut {
			stop()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	s.must(flip(filepath.Join(dir+".partial", "JOBS.snapshot")))
	again = nil
	_, err = admin.Backup(s.ctx(), s.nc, dir, func(stream string, _, _ int64) { again = append(again, stream) })
	s.must(err)
	if again = slices.Compact(again); !slices.Equal(again, []string{"JOBS", "DLQ", "OUT"}) {
		t.Errorf("copied %v after the damage, want JOBS, DLQ and OUT", again)
	}
	_, err = admin.Read(dir)
	s.must(err)
}

// TestInterruptedRestore: it goes on where it was, and what it had half made is made again.
func TestInterruptedRestore(t *testing.T) {
	t.Parallel()
	from, to, dir := newSite(t).fleet(400), newSite(t), folder(t)
	_, err := admin.Backup(from.ctx(), from.nc, dir, nil)
	from.must(err)
	ctx, stop := context.WithCancel(to.ctx())
	defer stop()
	_, err = admin.Restore(ctx, to.nc, dir, admin.RestoreOptions{Progress: func(stream string, _, _ int64) {
		if stream == topology.StreamJobs {
			stop()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	done, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{})
	to.must(err)
	if !slices.Equal(done.Kept, []string{"OUT", "DLQ"}) || !slices.Equal(done.Streams, []string{"JOBS", "SCHED"}) {
		t.Errorf("after the interruption: %+v", done)
	}
	for _, stream := range from.streams() {
		if d := cmp.Diff(from.messages(stream), to.messages(stream)); d != "" {
			t.Errorf("stream %s (-want +got):\n%s", stream, d)
		}
	}
	if _, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{}); !errors.Is(err, admin.ErrExists) {
		t.Errorf("the same backup over a fleet that works again: %v, want %v", err, admin.ErrExists)
	}
}

// TestInterruptedAtTheEnd: a restore that is interrupted while it takes its marks off goes on.
func TestInterruptedAtTheEnd(t *testing.T) {
	t.Parallel()
	from, to, dir := newSite(t).fleet(3), newSite(t), folder(t)
	_, err := admin.Backup(from.ctx(), from.nc, dir, nil)
	from.must(err)
	for err == nil { // until the interruption is in time
		ctx, stop := context.WithCancel(to.ctx())
		// The broker tells of each change of a stream; the second one of SCHED takes its mark off.
		var n atomic.Int32
		sub, e := to.nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.UPDATED."+topology.StreamSched, func(*nats.Msg) {
			if n.Add(1) == 2 {
				stop()
			}
		})
		to.must(e)
		_, err = admin.Restore(ctx, to.nc, dir, admin.RestoreOptions{Replace: true})
		to.must(sub.Unsubscribe())
		stop()
	}
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	done, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{})
	to.must(err)
	if len(done.Kept) != 4 || len(done.Streams) > 0 {
		t.Errorf("after the interruption: %+v, want all four kept", done)
	}
	if _, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{}); !errors.Is(err, admin.ErrExists) {
		t.Errorf("once more: %v, want %v: no mark is left", err, admin.ErrExists)
	}
}

// TestOldBackup: messages are as old as in the backup, and a restore says which streams keep fewer for that.
func TestOldBackup(t *testing.T) {
	t.Parallel()
	from, to, dir := newSite(t), newSite(t), folder(t)
	age := 10 * time.Second
	for _, c := range (topology.Config{JobsMaxAge: age}).Streams() {
		c.Duplicates = 100 * time.Millisecond
		_, err := from.js.CreateStream(from.ctx(), c)
		from.must(err)
	}
	from.publish(subject.Job{Model: "m", Class: contracts.P2, Size: contracts.SizeS, Tenant: "t", Job: "1"}.String(), []byte("x"))
	from.record("done", true)
	m, err := admin.Backup(from.ctx(), from.nc, dir, nil)
	from.must(err)
	if m.Streams[1].Messages != 1 {
		t.Fatalf("the copy of JOBS has %d messages after less than %v", m.Streams[1].Messages, age)
	}
	for ctx := from.ctx(); len(from.messages(topology.StreamJobs)) > 0; time.Sleep(20 * time.Millisecond) {
		from.must(ctx.Err())
	}
	done, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{})
	to.must(err)
	if want := []admin.Expired{{Stream: topology.StreamJobs, Messages: 0, Copied: 1, MaxAge: age}}; !slices.Equal(done.Expired, want) {
		t.Errorf("expired %+v, want %+v", done.Expired, want)
	}
}

// TestOrphans: records of jobs that the backup does not have are removed, those of others are not.
func TestOrphans(t *testing.T) {
	t.Parallel()
	from, to, dir := newSite(t).fleet(2), newSite(t), folder(t)
	from.record("late", false)
	from.record("done", false)
	from.record("done", true)
	from.record("scheduled", false)
	from.publish(subject.Due("t", "scheduled"), []byte("x"))
	_, err := admin.Backup(from.ctx(), from.nc, dir, nil)
	from.must(err)
	done, err := admin.Restore(to.ctx(), to.nc, dir, admin.RestoreOptions{})
	to.must(err)
	if !slices.Equal(done.Removed, []string{"out.t.late"}) {
		t.Errorf("removed %v, want out.t.late", done.Removed)
	}
	var subjects []string
	for _, m := range to.messages(topology.StreamOut) {
		subjects = append(subjects, m.Subject)
	}
	if want := []string{"out.t.0", "out.t.1", "out.t.done", "out.t.done", "out.t.scheduled"}; !slices.Equal(subjects, want) {
		t.Errorf("OUT has %v, want %v", subjects, want)
	}
}
