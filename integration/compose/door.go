package compose

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Readers are OpenAI clients at the gateway that stream chats one after the other and come back, with the
// request's Idempotency-Key and the last event's id, when their stream breaks.
type Readers struct {
	http  *http.Client
	door  string
	model string
	name  string // begins the idempotency keys

	mu       sync.Mutex
	calm     map[string]string // answers by prompt
	Requests int
	Resumed  int           // streams that broke and went on
	Failed   []string      // what went wrong
	Gap      time.Duration // the longest wait between two events of a stream
}

// prompts of the readers.
var prompts = []string{"Why is the sky blue?", "Name three rivers.", "Count to ten."}

// limitOf is how long one answer may take, all its repeats included.
const limitOf = 2 * time.Minute

// Read reads each prompt's answer once in peace, and then keeps n clients reading until stop ends.
// The function that it returns waits for the clients.
func (f *Fleet) Read(ctx context.Context, stop context.Context, name, model string, n int) (*Readers, func()) {
	r := &Readers{http: f.http, door: f.Door, model: model, name: name, calm: map[string]string{}}
	for i, p := range prompts {
		r.one(ctx, fmt.Sprintf("%scalm-%d", name, i), p)
	}
	var all sync.WaitGroup
	for c := range n {
		all.Go(func() {
			for i := 0; stop.Err() == nil && ctx.Err() == nil; i++ {
				r.one(ctx, fmt.Sprintf("%s%d-%d", name, c, i), prompts[i%len(prompts)])
			}
		})
	}
	return r, all.Wait
}

// one reads one answer to the end.
func (r *Readers) one(ctx context.Context, key, prompt string) {
	ctx, cancel := context.WithTimeout(ctx, limitOf)
	defer cancel()
	a := &chat{key: key}
	err := errBroken
	for try := 0; err != nil && ctx.Err() == nil; try++ {
		if try > 0 {
			time.Sleep(50 * time.Millisecond)
		}
		if err = r.leg(ctx, a, prompt); err != nil && !errors.Is(err, errBroken) {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Requests++
	r.Gap = max(r.Gap, a.gap)
	if a.legs > 1 {
		r.Resumed++
	}
	want, known := r.calm[prompt]
	switch {
	case err != nil:
		r.Failed = append(r.Failed, fmt.Sprintf("%s: %v", key, err))
	case !known:
		r.calm[prompt] = a.text.String()
	case a.text.String() != want:
		r.Failed = append(r.Failed, fmt.Sprintf("%s: %q, want %q", key, a.text.String(), want))
	}
}

// chat is an answer as it comes.
type chat struct {
	key, last string
	legs      int // connections that brought events
	text      strings.Builder
	at        time.Time // of the last event
	gap       time.Duration
}

// errBroken says that the connection or the door failed, not the request.
var errBroken = errors.New("the stream broke")

// leg is one connection.
func (r *Readers) leg(ctx context.Context, a *chat, prompt string) error {
	body, err := json.Marshal(map[string]any{"model": r.model, "stream": true, "max_tokens": 48, "temperature": 0, "seed": 1,
		"messages": []map[string]string{{"role": "user", "content": prompt}}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.door+"/v1/chat/completions", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", a.key)
	if a.last != "" {
		req.Header.Set("Last-Event-ID", a.last)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusNoContent: // nothing after the last event
		return nil
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return fmt.Errorf("%w: %s", errBroken, resp.Status)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("refused: %s", resp.Status)
	}
	return a.read(bufio.NewScanner(resp.Body))
}

// read takes the events of one connection.
func (a *chat) read(lines *bufio.Scanner) error {
	a.legs++
	id := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		if field == "id" {
			id = value
		}
		if field != "data" {
			continue
		}
		now := time.Now()
		if !a.at.IsZero() {
			a.gap = max(a.gap, now.Sub(a.at))
		}
		a.at = now
		if value == "[DONE]" {
			return nil
		}
		var event struct {
			Choices []struct{ Delta struct{ Content string } }
			Error   *struct{ Message, Code string }
		}
		if err := json.Unmarshal([]byte(value), &event); err != nil {
			return err
		}
		if event.Error != nil {
			if event.Error.Code == "unavailable" {
				return fmt.Errorf("%w: %s", errBroken, event.Error.Message)
			}
			return fmt.Errorf("%s: %s", event.Error.Code, event.Error.Message)
		}
		for _, c := range event.Choices {
			a.text.WriteString(c.Delta.Content)
		}
		a.last = id
	}
	return fmt.Errorf("%w: %w", errBroken, errors.Join(lines.Err(), errors.New("no [DONE]")))
}
