package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts/topology"
)

var record = flag.String("record", "", "`file` to which TestOlder writes what the streams of a fleet of this version hold in the middle of its work")

// olderSeed is the one that the recordings were made with.
const olderSeed = 5

// kept are the headers that a message has of its own; the broker or the moment gave it the others.
var kept = []string{"Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", "Nats-Schedule", "Nats-Schedule-Target", "Nats-Schedule-TTL"}

// message is one message of a stream as it was stored.
type message struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data"`
}

// TestOlder gives this version's fleet what fleets of older versions left in the streams: jobs that run,
// are queued, are held and wait for their time. Every job ends once, with the answer that it was about to
// get. The recordings are in testdata, named for the commit whose fleet wrote them with -record.
func TestOlder(t *testing.T) {
	if *record != "" {
		recordFleet(t, *record)
		return
	}
	recordings, err := filepath.Glob(filepath.Join("testdata", "older-*.jsonl"))
	if err != nil || len(recordings) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, name := range recordings {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			finishOlder(t, name)
		})
	}
}

// olderOrders are the kinds of jobs of a recording.
func olderOrders() Plan { return Plan{Seed: olderSeed, Orders: Orders(olderSeed, 4, 60, Model)} }

func finishOlder(t *testing.T, name string) {
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	kinds := map[string]string{}
	fleet := NewInProcess(t, Floor{Workers: 2, Slots: 4, Step: time.Millisecond, AckWait: 2 * time.Second, Before: func(nc *nats.Conn) {
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := topology.Ensure(t.Context(), js, topology.Config{}, Model); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var m message
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatal(err)
			}
			if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}); err != nil {
				t.Fatalf("%s: %v", m.Subject, err)
			}
			job := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
			kinds[job], _, _ = strings.Cut(job, "_")
		}
		if lines.Err() != nil {
			t.Fatal(lines.Err())
		}
	}})
	r := begin(t.Context(), t, fleet, olderOrders())
	maps.Copy(r.history.Kinds, kinds)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for id, kind := range kinds {
		all.Go(func() {
			rd := &reader{nats: fleet.NATS(), doors: fleet.Doors(), rng: rand.New(rand.NewPCG(olderSeed, 3)), job: id, many: r.plan.Orders[kind].Params.N != nil, got: &Received{}, last: -1}
			got := rd.read(ctx, nil, 1)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.history.Received[id] = append(r.history.Received[id], got)
		})
	}
	all.Wait()
	r.collect(ctx)
	report(t, r.history)
}

// recordFleet writes down what the streams hold while jobs of one fleet are in every state.
func recordFleet(t *testing.T, name string) {
	fleet := NewInProcess(t, Floor{Workers: 1, Slots: 3, Step: 60 * time.Millisecond})
	r := begin(t.Context(), t, fleet, olderOrders())
	before := r.held(t, topology.StreamOut)
	for i := range 40 {
		r.order(t, fmt.Sprintf("%s_%02d", r.kinds[i%len(r.kinds)], i), i, time.Duration(i/38)*time.Minute) // long ago when it is read again
	}
	fleet.await("pieces of running jobs, jobs that are held", func() bool {
		return fleet.streaming("") > 1 && r.held(t, topology.StreamOut) > before+12 && r.held(t, topology.StreamSched) > 4
	})
	var lines []string
	for _, stream := range []string{topology.StreamSched, topology.StreamJobs, topology.StreamOut} {
		n := len(lines)
		r.raw(t, stream, func(m message) {
			if strings.Contains(m.Subject, "calm-") {
				return
			}
			line, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line))
		})
		t.Logf("%s: %d messages", stream, len(lines)-n)
	}
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// held counts the messages of a stream.
func (r *run) held(t *testing.T, stream string) uint64 {
	t.Helper()
	s, err := r.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// raw gives every message of a stream to take as it is stored.
func (r *run) raw(t *testing.T, stream string, take func(message)) {
	t.Helper()
	s, err := r.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		if m, err := s.GetMsg(t.Context(), seq); err == nil {
			maps.DeleteFunc(m.Header, func(key string, _ []string) bool { return !slices.Contains(kept, key) })
			take(message{m.Subject, m.Header, m.Data})
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Fatal(err)
		}
	}
}
