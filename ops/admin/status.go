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
	// strayLooks is how often jobs must be seen without a consumer to be believed in.
	strayLooks = 5
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

	stray uint64 // jobs that no consumer has, if nothing happened between the questions
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
// its streams, and models beside those named are taken from the consumers that are there.
func Look(ctx context.Context, nc *nats.Conn, c topology.Config, models ...string) (*Status, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	s, err := survey(ctx, nc, js, models)
	if err != nil || s.leaderless() { // then the layout cannot be asked for
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if s.Drift, err = topology.Check(ctx, js, s.layout(c), s.Models...); err != nil {
		return s, fmt.Errorf("layout: %w", err)
	}
	return s, nil
}

// survey asks for all streams.
func survey(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, models []string) (*Status, error) {
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
			s.Streams[i], found[i] = lookTwice(ctx, js, name)
			return nil
		})
	}
	_ = all.Wait()
	if i := slices.Index(list, topology.StreamJobs); i >= 0 {
		s.Models = append(s.Models, found[i]...)
	}
	slices.Sort(s.Models)
	s.Models = slices.Compact(s.Models)
	return s, nil
}

// layout is c with as many replicas as the fleet's streams have, the most that any of them that answers
// has, unless it says how many.
func (s *Status) layout(c topology.Config) topology.Config {
	if c.Replicas > 0 {
		return c
	}
	for _, stream := range s.Streams {
		if slices.Contains(order, stream.Name) {
			c.Replicas = max(c.Replicas, stream.Replicas)
		}
	}
	return c
}

func (s *Status) leaderless() bool {
	return slices.ContainsFunc(s.Streams, func(s Stream) bool { return s.Leader == "" })
}

// lookTwice is look, again while there seem to be stray jobs: those that end between the question for the
// stream and that for its consumers look so too.
func lookTwice(ctx context.Context, js jetstream.JetStream, name string) (s Stream, models []string) {
	for range strayLooks {
		if s, models = look(ctx, js, name); s.stray == 0 {
			return s, models
		}
	}
	s.Problems = append(s.Problems, fmt.Sprintf("%d jobs that no consumer delivers: the consumers of a model are missing", s.stray))
	return s, models
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
	s.Replicas, s.Messages, s.Bytes, s.Consumers, s.Leader = i.Config.Replicas, i.State.Msgs, i.State.Bytes, i.State.Consumers, "-"
	if i.Cluster != nil {
		s.Leader, s.Peers = i.Cluster.Leader, peers(i.Cluster)
	}
	s.Problems = append(s.Problems, troubles(i.Cluster, s.Replicas)...)
	models = s.consumers(ctx, stream, say)
	if reach := s.Waiting + uint64(s.Working); name == topology.StreamJobs && s.Messages > reach {
		s.stray = s.Messages - reach
	}
	return s, models
}

// consumers counts what the stream's consumers have to do, and returns the models that they are named for.
func (s *Stream) consumers(ctx context.Context, stream jetstream.Stream, say func(string, ...any)) (models []string) {
	list := stream.ListConsumers(ctx)
	for c := range list.Info() {
		s.Waiting += c.NumPending
		s.Working += c.NumAckPending
		for _, t := range troubles(c.Cluster, max(c.Config.Replicas, 1)) {
			say("consumer %s: %s", c.Name, t)
		}
		if model, _, _, err := subject.ParseConsumer(c.Name); err == nil {
			models = append(models, model)
		}
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		say("consumers: %v", err)
	}
	return models
}

func peers(c *jetstream.ClusterInfo) (list []Peer) {
	for _, p := range c.Replicas {
		list = append(list, Peer{Name: p.Name, Current: p.Current, Offline: p.Offline, Lag: p.Lag, Silent: p.Active.Round(time.Millisecond).String()})
	}
	return list
}

// troubles says which copies are not as they should be; those of a single server always are.
func troubles(c *jetstream.ClusterInfo, replicas int) (list []string) {
	if c == nil {
		return nil
	}
	if c.Leader == "" {
		list = append(list, "no leader")
	}
	for _, p := range peers(c) {
		switch {
		case p.Offline:
			list = append(list, fmt.Sprintf("%s is offline, silent for %s", p.Name, p.Silent))
		case !p.Current:
			list = append(list, fmt.Sprintf("%s is %d operations behind", p.Name, p.Lag))
		}
	}
	if n := len(c.Replicas) + 1; n < replicas {
		list = append(list, fmt.Sprintf("%d of %d copies", n, replicas))
	}
	return list
}
