package loadgen

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// HTTP is a target behind OpenAI's API.
type HTTP struct {
	URL       string            // of the server, without /v1
	Model     string            // as the server names it
	Text      bool              // text completions instead of chats
	Key       string            // bearer token; "" is none
	Keys      map[string]string // bearer tokens by tenant, before Key
	IgnoreEOS bool              // ask for exactly Output tokens (vLLM's extension, ours too)
	Client    *http.Client      // see [NewClient]
}

// NewClient makes a client with the security of like that keeps as many connections as requests may be open.
func NewClient(like *http.Client, open int) *http.Client {
	t, ok := like.Transport.(*http.Transport)
	if !ok {
		t = http.DefaultTransport.(*http.Transport)
	}
	t = t.Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = open, open
	t.DisableCompression = true
	return &http.Client{Transport: t}
}

// FirstModel asks the server, as a tenant, for the first of its models.
func (h *HTTP) FirstModel(ctx context.Context, tenant string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/v1/models", nil)
	if err != nil {
		return "", err
	}
	h.authorize(req, tenant)
	resp, err := h.Client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || resp.StatusCode != http.StatusOK || len(list.Data) == 0 {
		return "", fmt.Errorf("%s/v1/models names no model (%s): say --model", h.URL, resp.Status)
	}
	return list.Data[0].ID, nil
}

func (h *HTTP) authorize(req *http.Request, tenant string) {
	key, ok := h.Keys[tenant]
	if !ok {
		key = h.Key
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
}

// Send implements [Target].
func (h *HTTP) Send(ctx context.Context, r Request, prompt string, got func()) Answer {
	req, err := h.request(ctx, r, prompt)
	if err != nil {
		return Answer{Outcome: Failed, Message: err.Error()}
	}
	resp, err := h.Client.Do(req)
	if err != nil {
		return Answer{Outcome: Failed, Message: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return Answer{Outcome: outcomeOf(resp.StatusCode), Message: fmt.Sprintf("%s: %s", resp.Status, bytes.TrimSpace(text))}
	}
	a := readEvents(resp.Body, got)
	if a.Outcome == Completed { // a connection whose answer is not read to its end is not used again
		slow := time.AfterFunc(250*time.Millisecond, func() { _ = resp.Body.Close() })
		defer slow.Stop()
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	return a
}

func (h *HTTP) request(ctx context.Context, r Request, prompt string) (*http.Request, error) {
	body := map[string]any{
		"model": h.Model, "max_tokens": r.Output, "stream": true, "temperature": 0,
		"stream_options": map[string]any{"include_usage": true},
	}
	path := "/v1/chat/completions"
	if h.Text {
		path, body["prompt"] = "/v1/completions", prompt
	} else {
		body["messages"] = []map[string]string{{"role": "user", "content": prompt}}
	}
	if h.IgnoreEOS {
		body["ignore_eos"] = true
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["X-Idempotency-Key"] = nil // not sent: lets net/http ask again when it took a connection that the server was closing (llama.cpp's does after each answer)
	h.authorize(req, r.Tenant)
	if r.Class != "" {
		req.Header.Set("X-Pelton-Class", string(r.Class))
	}
	if r.Deadline > 0 {
		req.Header.Set("X-Pelton-Deadline", r.Deadline.String())
	}
	return req, nil
}

func outcomeOf(status int) Outcome {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return Refused
	case http.StatusGatewayTimeout:
		return Expired
	}
	return Failed
}

// event is what matters in one data line of a stream.
type event struct {
	Choices []struct {
		Text  string `json:"text"`
		Delta struct {
			Content  string `json:"content"`
			Thought  string `json:"reasoning"`
			Thoughts string `json:"reasoning_content"` // the older name
		} `json:"delta"`
	} `json:"choices"`
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
	Error *problem `json:"error"`
}

// problem is an error after the answer began with 200: a job that was held and then turned away, for example.
type problem struct {
	Message string `json:"message"`
	Code    any    `json:"code"` // a name of ours, or an HTTP status as vLLM's
}

// outcome is what p would have been as an HTTP status.
func (p *problem) outcome() Outcome {
	switch code := p.Code.(type) {
	case string:
		return outcomeOf(contracts.Code(code).Info().HTTP)
	case float64:
		return outcomeOf(int(code))
	}
	return Failed
}

// readEvents reads a stream to [DONE]. Pieces without content (roles, usage) are not reported to got. An answer
// without any event says how it begins, as the error page of a proxy.
func readEvents(body io.Reader, got func()) Answer {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 32<<10), 16<<20)
	var a Answer
	begin, events := "", false
	for lines.Scan() {
		line := lines.Text()
		data, ok := strings.CutPrefix(line, "data:")
		begin, events = cmp.Or(begin, strings.TrimSpace(line)), events || ok || strings.HasPrefix(line, ":")
		if !ok {
			continue // comments, event names, blank lines
		}
		if data = strings.TrimSpace(data); data == "[DONE]" {
			a.Outcome = Completed
			return a
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return Answer{Outcome: Failed, Message: fmt.Sprintf("event %q: %v", data, err)}
		}
		if e.Error != nil {
			a.Outcome, a.Message = e.Error.outcome(), e.Error.Message
			return a
		}
		for _, c := range e.Choices {
			if c.Text != "" || c.Delta.Content != "" || c.Delta.Thought != "" || c.Delta.Thoughts != "" {
				got()
				break
			}
		}
		if e.Usage != nil {
			a.InputTokens, a.OutputTokens = e.Usage.Prompt, e.Usage.Completion
		}
	}
	a.Outcome, a.Message = Failed, "the stream broke off: "+cmp.Or(lines.Err(), io.ErrUnexpectedEOF).Error()
	if !events && begin != "" {
		a.Message = fmt.Sprintf("the answer is no stream of events: it begins with %.200q", begin)
	}
	return a
}
