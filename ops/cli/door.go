package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/ops/node"
)

// maxReply bounds what is read of one JSON answer.
const maxReply = 64 << 20

// call does one request against the HTTP door and decodes the answer into out.
func (a *app) call(ctx context.Context, method, path string, body, out any) error {
	resp, err := a.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: the answer is not JSON: is a Pelton dispatcher at --server? %w", method, path, err)
	}
	return nil
}

// open does one request and returns the answer when it is a good one; the caller closes its body.
func (a *app) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	base := strings.TrimSuffix(a.settings.text("server"), "/")
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, payload)
	if err != nil {
		return nil, usageError{fmt.Errorf("--server %s: %w", base, err)}
	}
	req.Header.Set("Content-Type", "application/json")
	key, err := apiKey()
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	asker, err := a.httpClient()
	if err != nil {
		return nil, err
	}
	resp, err := asker.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, coded{fmt.Errorf("no fleet at %s: %w: start one with `pelton up`, or say where it is with --server", base, err), exitUnavailable}
	}
	if resp.StatusCode >= 400 {
		defer func() { _ = resp.Body.Close() }()
		return nil, refusal(resp)
	}
	return resp, nil
}

// refusal is the error in an answer of the HTTP door.
func refusal(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return refused(b, resp.Status)
}

// refused is the error in an error object; status is what to say when there is none.
func refused(b []byte, status string) error {
	var e struct {
		Error struct {
			Message string  `json:"message"`
			Param   *string `json:"param"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(b, &e) != nil || e.Error.Message == "" {
		if text := strings.TrimSpace(string(b)); len(text) < 200 && !strings.Contains(text, "<") { // no page
			status = strings.TrimSuffix(status+": "+text, ": ")
		}
		return fmt.Errorf("the server answered %s: it is no Pelton dispatcher, or what stands before one; see --server", status)
	}
	out := &contracts.Error{Message: e.Error.Message, Code: contracts.CodeInternal}
	if e.Error.Code != nil {
		out.Code = contracts.Code(*e.Error.Code)
	}
	if e.Error.Param != nil {
		out.Param = *e.Error.Param
	}
	return out
}

func fetchList[T any](ctx context.Context, a *app, path string) ([]T, error) {
	var list struct {
		Data []T `json:"data"`
	}
	err := a.call(ctx, http.MethodGet, path, nil, &list)
	if list.Data == nil {
		list.Data = []T{}
	}
	return list.Data, err
}

// remoteFleet is the fleet behind an http:// or nats:// URL.
func (a *app) remoteFleet(ctx context.Context, server string) (askFunc, func(), error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--server: %w", err)}
	}
	switch u.Scheme {
	case "http", "https":
		return a.askHTTP, func() {}, nil
	case "nats", "tls":
		nc, err := connect(ctx, node.Remote{URL: server}, "pelton run")
		if err != nil {
			return nil, nil, err
		}
		return askNATS(client.New(nc, "default")), nc.Close, nil
	}
	return nil, nil, usageError{fmt.Errorf("--server %s: the URL must begin with http://, https://, nats:// or tls://", server)}
}

// askHTTP submits by POST /v1/jobs and follows the job's events.
func (a *app) askHTTP(ctx context.Context, j *contracts.Job) (iter.Seq2[*contracts.Chunk, error], error) {
	if j.Model == "" {
		models, err := fetchList[struct {
			ID string `json:"id"`
		}](ctx, a, "/v1/models")
		if err != nil {
			return nil, err
		}
		if len(models) == 0 {
			return nil, contracts.Errorf(contracts.CodeUnavailable, "no worker has joined the fleet yet: retry soon")
		}
		j.Model = models[0].ID
	}
	var answer contracts.Answer
	if err := a.call(ctx, http.MethodPost, "/v1/jobs", j, &answer); err != nil {
		return nil, err
	}
	return a.events(ctx, answer.Job)
}

// events follows GET /v1/jobs/{id}/events.
func (a *app) events(ctx context.Context, job string) (iter.Seq2[*contracts.Chunk, error], error) {
	resp, err := a.open(ctx, http.MethodGet, a.pathOf("/v1/jobs/", job, "/events", url.Values{}), nil)
	if err != nil {
		return nil, err
	}
	return func(yield func(*contracts.Chunk, error) bool) {
		defer func() { _ = resp.Body.Close() }()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxReply) // numbers are longer in JSON than in a record
		failed := false
		for lines.Scan() {
			if kind, ok := strings.CutPrefix(lines.Text(), "event:"); ok {
				failed = strings.TrimSpace(kind) == "error"
			}
			data, ok := strings.CutPrefix(lines.Text(), "data:")
			if !ok {
				continue
			}
			if failed {
				yield(nil, refused([]byte(data), resp.Status))
				return
			}
			var c contracts.Chunk
			if err := json.Unmarshal([]byte(strings.TrimSpace(data)), &c); err != nil {
				yield(nil, fmt.Errorf("event of job %s: %w: `pelton job watch %s` reads it again", job, err, job))
				return
			}
			if !yield(&c, nil) || c.Final() {
				return
			}
		}
		if err := lines.Err(); ctx.Err() != nil {
			yield(nil, ctx.Err())
		} else if err != nil {
			yield(nil, coded{fmt.Errorf("read job %s: %w: the fleet went away or the connection broke; the job goes on, `pelton job watch %s` reads it from its beginning", job, err, job), exitUnavailable})
		}
	}, nil
}
