package loadgen

import (
	"context"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
)

// NATS is a Pelton fleet reached over its broker.
type NATS struct {
	Client    func(tenant string) *client.Client // of a tenant; "" is the default one
	Model     string
	Text      bool // text jobs instead of chats
	IgnoreEOS bool
}

// Send implements [Target].
func (n *NATS) Send(ctx context.Context, r Request, prompt string, got func()) Answer {
	j := &contracts.Job{
		Model: n.Model, Kind: contracts.KindChat, Class: r.Class, CancelOnLeave: true,
		Params: contracts.Params{MaxTokens: &r.Output, Temperature: new(0.0), IgnoreEOS: n.IgnoreEOS},
	}
	if n.Text {
		j.Kind, j.Prompt = contracts.KindText, prompt
	} else {
		j.Messages = []contracts.Message{{Role: "user", Content: prompt}}
	}
	if r.Deadline > 0 {
		j.Deadline = time.Now().Add(r.Deadline).UnixMilli()
	}
	s, err := n.Client(r.Tenant).Run(ctx, j)
	if err != nil {
		return FailureOf(err)
	}
	var a Answer
	for c, err := range s.Chunks() {
		if err != nil {
			return FailureOf(err)
		}
		if c.Text != "" {
			got()
		}
		if !c.Final() {
			continue
		}
		if err := c.Err(); err != nil {
			a = FailureOf(err)
		} else {
			a.Outcome = Completed
		}
		a.InputTokens, a.OutputTokens = c.Usage.PromptTokens, c.Usage.CompletionTokens
	}
	return a
}

// FailureOf is the answer that an error of the wire stands for.
func FailureOf(err error) Answer {
	return Answer{Outcome: outcomeOf(contracts.CodeOf(err).Info().HTTP), Message: err.Error()}
}
