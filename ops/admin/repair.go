package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	// moveTime is how long the broker may take to give a lost server's copies to others, and elect leaders.
	moveTime  = 2 * time.Minute
	movePause = 200 * time.Millisecond
	// electTime is longer than the broker takes to elect a leader where a majority is left, 4 to 9 s.
	electTime = 20 * time.Second
)

// Errors of the broker that say what to do.
const (
	codePeerRemap  jetstream.ErrorCode = 10075 // no server to take the copy
	codeNotAMember jetstream.ErrorCode = 10044
)

// RepairOptions say what a Repair does beside making what is missing.
type RepairOptions struct {
	Layout topology.Config // Replicas 0 is as the streams have
	Models []string        // beside those whose consumers are there
	// Lost is the name of a server of the broker that will not come back: its copies go to others.
	Lost string
	// Cluster is a connection of the keeper, in the servers' own account; nil leaves the lost server in the
	// cluster's own group, where it counts for the majority.
	Cluster *nats.Conn
	// Recreate names streams without a leader that are deleted, with all that was in them, and made anew.
	Recreate []string
}

// Repair takes a lost server out, recreates streams that cannot come back, and makes what is missing or
// differs from the fleet's layout. It returns what it changed, also with an error. What it does it can
// do again. A server that is alive is not taken out.
func Repair(ctx context.Context, nc *nats.Conn, o RepairOptions) (done []topology.Drift, err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	s, err := survey(ctx, nc, js, o.Models)
	if err != nil {
		return nil, err
	}
	if o.Lost != "" {
		if done, err = remove(ctx, nc, s, o); err != nil {
			return done, fmt.Errorf("server %s: %w", o.Lost, err)
		}
	}
	for _, name := range o.Recreate {
		if err := discard(ctx, nc, js, s, name); err != nil {
			return done, fmt.Errorf("stream %s: %w", name, err)
		}
		done = append(done, topology.Drift{Object: "stream " + name, Change: "deleted"})
	}
	made, err := ensure(ctx, js, s.layout(o.Layout), s.Models)
	return append(done, made...), err
}

// discard deletes a stream that has no leader, after as long as an election may take.
func discard(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, s *Status, name string) error {
	if !slices.ContainsFunc(s.Streams, func(s Stream) bool { return s.Name == name }) {
		return errors.New("there is none")
	}
	for late := time.Now().Add(electTime); ; {
		if now, _ := look(ctx, js, name); now.Leader != "" {
			return errors.New("it has a leader, so nothing is lost: it is not deleted")
		}
		if time.Now().After(late) {
			return call(ctx, nc, "STREAM.DELETE."+name, nil, nil)
		}
		select {
		case <-time.After(movePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ensure makes what is missing, and tries again what the cluster did not answer.
func ensure(ctx context.Context, js jetstream.JetStream, c topology.Config, models []string) (made []topology.Drift, err error) {
	for late := time.Now().Add(moveTime); ; {
		soon, cancel := context.WithTimeout(ctx, answerTime)
		some, err := topology.Ensure(soon, js, c, models...)
		cancel()
		made = append(made, some...)
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || time.Now().After(late) {
			return made, err
		}
	}
}

// remove takes a lost server out of every stream, and out of the cluster.
func remove(ctx context.Context, nc *nats.Conn, s *Status, o RepairOptions) (done []topology.Drift, err error) {
	var streams []string
	for _, stream := range s.Streams {
		if stream.Leader == o.Lost {
			return nil, fmt.Errorf("it leads the stream %s, so it is alive: stop it first", stream.Name)
		}
		for _, p := range stream.Peers {
			if p.Name != o.Lost {
				continue
			}
			if !p.Offline {
				return nil, fmt.Errorf("the leader of the stream %s hears it: stop it first", stream.Name)
			}
			streams = append(streams, stream.Name)
		}
	}
	for _, name := range streams {
		if err := call(ctx, nc, "STREAM.PEER.REMOVE."+name, map[string]string{"peer": o.Lost}, nil); err != nil {
			return done, fmt.Errorf("copy of the stream %s: %w", name, explained(err))
		}
		done = append(done, topology.Drift{Object: "stream " + name, Change: "copy of " + o.Lost + " moved"})
	}
	if err := moved(ctx, nc, streams, o.Lost); err != nil {
		return done, err
	}
	if o.Cluster == nil {
		return done, nil
	}
	err = call(ctx, o.Cluster, "SERVER.REMOVE", map[string]string{"peer": o.Lost}, nil)
	if e, is := errors.AsType[*jetstream.APIError](err); is && e.ErrorCode == codeNotAMember {
		return done, nil // it was taken out before
	}
	if err != nil {
		return done, err
	}
	return append(done, topology.Drift{Object: "server " + o.Lost, Change: "removed"}), nil
}

// moved waits until the streams have a leader and no copy on the lost server. That the new copies are
// complete takes as long as their bytes do; Look tells.
func moved(ctx context.Context, nc *nats.Conn, streams []string, lost string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, moveTime, fmt.Errorf("its copies are not with others after %v: run it again", moveTime))
	defer cancel()
	for _, name := range streams {
		for there := true; there; {
			s, _ := look(ctx, js, name)
			there = s.Leader == "" || slices.ContainsFunc(s.Peers, func(p Peer) bool { return p.Name == lost })
			if !there {
				break
			}
			select {
			case <-time.After(movePause):
			case <-ctx.Done():
				return fmt.Errorf("stream %s: %w", name, context.Cause(ctx))
			}
		}
	}
	return nil
}

// explained adds what to do to an error of the broker.
func explained(err error) error {
	if e, is := errors.AsType[*jetstream.APIError](err); is && e.ErrorCode == codePeerRemap {
		return fmt.Errorf("%w: no other server can take the copy: add one to the cluster first", err)
	}
	return err
}
