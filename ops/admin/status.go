package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	// lookTime is how long one stream may take to answer; one without a leader never does.
	lookTime = 5 * time.Second
	// looks is how many streams are asked at once.
	looks = 16
)

// Status is what a broker's streams are like.
type Status struct {
	Streams []Stream         `json:"streams"`
	Drift   []topology.Drift `json:"drift"` // from the fleet's layout
	Models  []string         `json:"models"`
}

// Stream is one of them.
type Stream struct {
	Name      string   `json:"name"`
	Leader    string   `json:"leader"` // "" is none; that of a single server is its name or id
	Replicas  int      `json:"replicas"`
	Peers     []Peer   `json:"peers,omitempty"` // those that follow the leader
	Messages  uint64   `json:"messages"`
	Bytes     uint64   `json:"bytes"`
	Consumers int      `json:"consumers"`
	Waiting   uint64   `json:"waiting"`  // messages that its consumers have not delivered yet
	Working   int      `json:"working"`  // that are delivered and not acknowledged
	Problems  []string `json:"problems"` // empty when all is well
}

// Peer is a server that keeps a copy of a stream.
type Peer struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline"`
	Lag     uint64 `json:"lag"`              // operations behind the leader
	Silent  string `json:"silent,omitempty"` // for how long
}

// Well tells whether nothing is to be repaired.
func (s *Status) Well() bool {
	return len(s.Drift) == 0 && !slices.ContainsFunc(s.Streams, func(s Stream) bool { return len(s.Problems) > 0 })
}

// Look asks for all streams and compares them with the layout of a fleet: c with Replicas 0 has as many as
// the stream JOBS, and models beside those named are taken from the consumers that are there.
func Look(ctx context.Context, nc *nats.Conn, c topology.Config, models ...string) (*Status, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	list, err := names(ctx, nc)
	if err != nil {
		return nil, err
	}
	slices.Sort(list)
	s := &Status{Streams: make([]Stream, len(list)), Models: slices.Clone(models)}
	var all errgroup.Group
	all.SetLimit(looks)
	found := make([][]string, len(list))
	for i, name := range list {
		all.Go(func() error {
			s.Streams[i], found[i] = look(ctx, js, name)
			return nil
		})
	}
	_ = all.Wait()
	for i, name := range list {
		if name == topology.StreamJobs {
			s.Models = append(s.Models, found[i]...)
			if c.Replicas == 0 {
				c.Replicas = s.Streams[i].Replicas
			}
		}
	}
	slices.Sort(s.Models)
	s.Models = slices.Compact(s.Models)
	if s.leaderless() {
		return s, nil // the layout cannot be asked for
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s.Drift, err = topology.Check(ctx, js, c, s.Models...)
	return s, err
}

func (s *Status) leaderless() bool {
	return slices.ContainsFunc(s.Streams, func(s Stream) bool { return s.Leader == "" })
}

// look asks for one stream. models are those that its consumers are named for.
func look(ctx context.Context, js jetstream.JetStream, name string) (s Stream, models []string) {
	s = Stream{Name: name, Problems: []string{}}
	say := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		say("no leader answers: %v", err)
		return s, nil
	}
	i := stream.CachedInfo()
	s.Replicas, s.Messages, s.Bytes, s.Consumers = i.Config.Replicas, i.State.Msgs, i.State.Bytes, i.State.Consumers
	s.Leader = "-"
	if i.Cluster != nil {
		s.Leader = i.Cluster.Leader
		for _, p := range i.Cluster.Replicas {
			s.Peers = append(s.Peers, Peer{Name: p.Name, Current: p.Current, Offline: p.Offline, Lag: p.Lag, Silent: p.Active.Round(time.Millisecond).String()})
		}
		s.peers(say)
	}
	consumers := stream.ListConsumers(ctx)
	for c := range consumers.Info() {
		s.Waiting += c.NumPending
		s.Working += c.NumAckPending
		if model, _, _, err := subject.ParseConsumer(c.Name); err == nil {
			models = append(models, model)
		}
	}
	if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		say("consumers: %v", err)
	}
	if reach := s.Waiting + uint64(s.Working); i.Config.Retention == jetstream.WorkQueuePolicy && name == topology.StreamJobs && s.Messages > reach {
		say("%d jobs that no consumer delivers: a model's consumers are missing, or they are being acknowledged just now", s.Messages-reach)
	}
	return s, models
}

// peers says which copies are not as they should be.
func (s *Stream) peers(say func(string, ...any)) {
	if s.Leader == "" {
		say("no leader")
	}
	for _, p := range s.Peers {
		switch {
		case p.Offline:
			say("%s is offline, silent for %s", p.Name, p.Silent)
		case !p.Current:
			say("%s is %d operations behind", p.Name, p.Lag)
		}
	}
	if n := len(s.Peers) + 1; n < s.Replicas {
		say("%d of %d copies", n, s.Replicas)
	}
}
