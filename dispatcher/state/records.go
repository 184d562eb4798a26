package state

import (
	"context"
	"errors"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

// Records is the sum of what a job's stream holds.
type Records struct {
	Last   *relay.Message // nil when there is none
	Final  *contracts.Chunk
	Claim  *contracts.Claim // the last one
	Fence  uint64
	Tokens [contracts.MaxChoices]int // of each choice
	Sum    stream.Checksum           // of the pieces
}

// SoFar reads a job's records from the stream OUT.
func SoFar(ctx context.Context, out *relay.Log, tenant, job string) (Records, error) {
	var r Records
	var bad error
	err := out.Read(ctx, subject.Out(tenant, job), 1, func(m *relay.Message) bool {
		c, err := Decode(m)
		if err != nil {
			bad = err
			return false
		}
		r.Last, r.Fence = m, max(r.Fence, c.Fence)
		if c.Claim != nil {
			r.Claim = c.Claim
		}
		if c.Final() {
			r.Final = c
			return false
		}
		r.Sum.Add(c)
		if c.Choice >= 0 && c.Choice < len(r.Tokens) {
			r.Tokens[c.Choice] = max(r.Tokens[c.Choice], c.Index+len(c.Tokens))
		}
		return true
	})
	return r, errors.Join(err, bad)
}
