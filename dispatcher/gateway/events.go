package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
	"github.com/pelton-run/pelton/dispatcher/gateway/sse"
)

// events serves GET /v1/jobs/{id}/events: the job's chunks as events whose id is the chunk's index, with
// several choices the [position]. It resumes above Last-Event-ID (or ?after=) and closes after the final
// event; when a finished job has nothing more it answers 204, which tells browsers to stop reconnecting.
func (g *gateway) events(w http.ResponseWriter, r *http.Request) error {
	tenant, id, err := g.jobAsked(r)
	if err != nil {
		return err
	}
	after, err := resumeAfter(r)
	if err != nil {
		return err
	}
	status, err := g.cfg.Jobs.Status(r.Context(), tenant, id)
	if err != nil {
		return err
	}
	nameJob(w, id)
	out := g.newStream(w)
	if r.Method == http.MethodHead { // nobody reads
		out.open()
		return nil
	}
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	job := &contracts.Job{ID: id, Tenant: tenant}
	run := &run{g: g, ctx: ctx, stop: stop, jobs: []*contracts.Job{job}, keep: true, open: []bool{true}, left: 1, records: make(chan record, 64)}
	run.follows.Go(func() { run.follow(0, g.cfg.Jobs.Stream(ctx, tenant, id, -1)) }) // all of it: the id counts every choice
	served := false                                                                  // else the reader left, however that showed first
	defer func() {
		if !served {
			run.leave(tenant, id)
		}
	}()
	var at position
	if !status.State.Final() && out.flush() != nil {
		return nil
	}
	silence := time.NewTicker(g.cfg.KeepAlive)
	defer silence.Stop()
	for run.left > 0 {
		select {
		case rec := <-run.records:
			c, err := run.take(rec)
			if err != nil && r.Context().Err() != nil {
				return nil
			}
			if err != nil {
				served = true
				return endEvents(out, err)
			}
			seen := at.reach(c, &after)
			if seen && c.Final() && !out.started {
				served = true
				return g.noContent(w)
			}
			if !seen && sendChunk(out, run, at.String(), c) != nil {
				return nil
			}
		case <-silence.C:
			if out.alive() != nil {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
	served = true
	return nil
}

// reach moves p to chunk c and tells whether a reader that got to after has it already; claims are not for
// readers.
func (p *position) reach(c *contracts.Chunk, after *position) (seen bool) {
	switch {
	case c.IsClaim():
		return true
	case c.Final() && !p.single():
		p.ended = true
		return after.ended
	case c.Final():
		p.set(0, c.Index)
		return after.has(0, c.Index)
	}
	p.set(c.Choice, c.Index)
	return after.has(c.Choice, c.Index)
}

// sendChunk sends one chunk as the event id.
func sendChunk(out *stream, run *run, id string, c *contracts.Chunk) error {
	own := *c // others may read the same chunk
	own.Logprobs = openai.Finite(c.Logprobs)
	if err := out.event(sse.Event{ID: id, Data: openai.Marshal(own)}); err != nil {
		return err
	}
	if len(run.records) == 0 || c.Final() {
		return out.flush()
	}
	return nil
}

// endEvents ends a stream that broke: with an error event once it has begun, else with a status.
func endEvents(out *stream, err error) error {
	if !out.started {
		return err
	}
	_ = out.end("error", err)
	return nil
}

func (g *gateway) noContent(w http.ResponseWriter) error {
	g.allowWrite(w)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
