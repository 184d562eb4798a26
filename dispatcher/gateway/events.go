package gateway

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
	"github.com/pelton-run/pelton/dispatcher/gateway/sse"
)

var running = []contracts.State{contracts.StateScheduled, contracts.StateHeld, contracts.StateQueued, contracts.StateRunning}

// events serves GET /v1/jobs/{id}/events: the job's chunks as events whose id is the chunk's index. It
// resumes above Last-Event-ID (or ?after=) and closes after the final event; when a finished job has
// nothing more it answers 204, which tells browsers to stop reconnecting.
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
	w.Header().Set(jobHeader, id)
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	job := &contracts.Job{ID: id, Tenant: tenant}
	run := &run{g: g, ctx: ctx, stop: stop, jobs: []*contracts.Job{job}, keep: true, open: []bool{true}, left: 1, records: make(chan record, 64)}
	go run.follow(0, g.cfg.Jobs.Stream(ctx, tenant, id, after))
	out := g.newStream(w)
	if slices.Contains(running, status.State) && out.flush() != nil {
		return nil
	}
	silence := time.NewTicker(g.cfg.KeepAlive)
	defer silence.Stop()
	for run.left > 0 {
		select {
		case rec := <-run.records:
			c, err := run.take(rec)
			if err != nil {
				return endEvents(out, err)
			}
			if c.Final() && !out.started && c.Usage.CompletionTokens <= after { // the reader has seen it
				return g.noContent(w)
			}
			if sendChunk(out, run, c) != nil {
				g.leave(r.Context(), tenant, id)
				return nil
			}
		case <-silence.C:
			if out.alive() != nil {
				g.leave(r.Context(), tenant, id)
				return nil
			}
		case <-ctx.Done():
			g.leave(r.Context(), tenant, id)
			return nil
		}
	}
	return nil
}

// sendChunk sends one chunk; claims are not for readers.
func sendChunk(out *stream, run *run, c *contracts.Chunk) error {
	if c.IsClaim() {
		return nil
	}
	own := *c // others may read the same chunk
	own.Logprobs = openai.Finite(c.Logprobs)
	if err := out.event(sse.Event{ID: strconv.Itoa(c.Index), Data: openai.Marshal(own)}); err != nil {
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

// resumeAfter is the index above which a reader wants to go on, -1 for all.
func resumeAfter(r *http.Request) (int, error) {
	name, text := "Last-Event-ID", r.Header.Get("Last-Event-ID")
	if text == "" {
		name, text = "after", r.URL.Query().Get("after")
	}
	if text == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < -1 || n > contracts.MaxMaxTokens {
		e := contracts.Errorf(contracts.CodeInvalidArgument, "%s %q is not an index: send the id of the last event that arrived", name, brief(text))
		e.Param = name
		return 0, e
	}
	return n, nil
}
