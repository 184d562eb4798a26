package turn

import (
	"context"
	"encoding/json"
	"time"

	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/dispatcher/backlog"
)

// ShareEvery is how often a dispatcher tells the others what it has waiting.
const ShareEvery = 200 * time.Millisecond

// shares tells the other dispatchers what waits here, while something does, until ctx ends.
func (t *Turns) shares(ctx context.Context) {
	said := false
	for range tick.After(ctx, ShareEvery) {
		share := t.cfg.Backlog.Share()
		if !share.Some() && !said {
			continue
		}
		said = share.Some()
		data, err := json.Marshal(share)
		if err == nil {
			err = t.cfg.Say(data)
		}
		if err != nil {
			t.cfg.Logger.Debug("backlog not shared", "error", err)
		}
	}
}

// Hear takes what another dispatcher has waiting.
func (t *Turns) Hear(name string, data []byte) {
	var share backlog.Share
	if json.Unmarshal(data, &share) == nil {
		t.cfg.Backlog.Peer(name, share, time.Now())
	}
}
