package admin

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
)

// Expired is a restored stream with fewer messages than its copy, which are as old as in the backup: those
// older than the stream keeps are gone.
type Expired struct {
	Stream   string
	Messages uint64 // that it has
	Copied   uint64 // that it had when it was copied
	MaxAge   time.Duration
}

// expired are the streams whose copies begin with messages that are too old by now, and that have fewer.
func expired(ctx context.Context, nc *nats.Conn, all []Copy) (list []Expired, err error) {
	for _, c := range all {
		var config struct {
			MaxAge time.Duration `json:"max_age"`
		}
		var state struct {
			First time.Time `json:"first_ts"`
		}
		if err := json.Unmarshal(c.Config, &config); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(c.State, &state); err != nil {
			return nil, err
		}
		if c.Messages == 0 || config.MaxAge == 0 || time.Since(state.First) < config.MaxAge {
			continue
		}
		var now taken
		if err := ask(ctx, nc, "STREAM.INFO."+c.Stream, nil, &now); err != nil {
			return nil, err
		}
		n, err := now.counts()
		if err != nil {
			return nil, err
		}
		if n.Messages < c.Messages {
			list = append(list, Expired{Stream: c.Stream, Messages: n.Messages, Copied: c.Messages, MaxAge: config.MaxAge})
		}
	}
	return list, nil
}
