package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// rowsPerJob is the most inputs of a request to /v1/embeddings that go into one job; more become several
// jobs, which different workers can take.
const rowsPerJob = 256

// embeddings serves POST /v1/embeddings.
func (g *gateway) embeddings(w http.ResponseWriter, r *http.Request) error {
	timed(w)
	tenant, err := g.tenant(r)
	if err != nil {
		return err
	}
	data, err := g.read(w, r)
	if err != nil {
		return err
	}
	req, err := openai.ParseEmbeddings(data)
	if err != nil {
		return inputParam(err, 0)
	}
	model, err := g.served(req.Job.Model)
	if err != nil {
		return err
	}
	if req.Dimensions > 0 && model.Dimensions > 0 && req.Dimensions != model.Dimensions {
		return contracts.Invalid("dimensions", "dimensions is %d, the vectors of model %s have %d and cannot be shortened: leave it out", req.Dimensions, model.Name, model.Dimensions)
	}
	most := rowsPerJob
	if model.JobRows > 0 {
		most = min(most, model.JobRows)
	}
	jobs := req.Jobs(most)
	if err := g.stamp(w, r, tenant, jobs); err != nil {
		return err
	}
	given(w)
	finals, err := g.collect(r, jobs)
	if err != nil {
		return inputParam(err, most)
	}
	reply := openai.EmbeddingReply{Object: "list", Model: req.Job.Model}
	for _, c := range finals {
		if err := reply.Add(c, req.Base64); err != nil {
			return requestParam(err)
		}
	}
	nameJob(w, jobIDs(jobs))
	return g.writeJSON(w, http.StatusOK, reply)
}

// inputParam names the inputs of a job that holds most of them as the request does.
func inputParam(err error, most int) error {
	own := *contracts.AsError(err)
	name, rest, indexed := strings.Cut(own.Param, "[")
	if name != "input" && name != "rows" {
		return requestParam(err)
	}
	own.Param = "input"
	if i, e := strconv.Atoi(strings.TrimSuffix(rest, "]")); indexed && e == nil {
		if p, ok := errors.AsType[*partError](err); ok {
			i += p.part * most
		}
		own.Param = fmt.Sprintf("input[%d]", i)
		own.Message = strings.Replace(own.Message, name+"["+rest, own.Param, 1)
	}
	return badRequest(&own)
}

// collect runs jobs that answer in their final record and returns these, in the order of the jobs. A job
// that fails ends the others.
func (g *gateway) collect(r *http.Request, jobs []*contracts.Job) ([]*contracts.Chunk, error) {
	run, err := g.begin(r.Context(), jobs, r.Header.Get("Idempotency-Key") != "")
	if err != nil {
		return nil, err
	}
	defer run.close()
	finals := make([]*contracts.Chunk, len(jobs))
	for run.left > 0 {
		i, c, err := run.next()
		if err != nil {
			return nil, err
		}
		if !c.Final() {
			continue
		}
		if err := c.Err(); err != nil {
			return nil, &partError{i, run.own(err)}
		}
		finals[i] = c
	}
	if slices.Contains(finals, nil) {
		return nil, contracts.Errorf(contracts.CodeInternal, "a job ended without an answer")
	}
	return finals, nil
}
