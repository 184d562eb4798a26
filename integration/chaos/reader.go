package chaos

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
)

// reader reads one job's answer over several connections: it leaves in the middle and comes back, now
// over NATS, now over the HTTP door of any dispatcher.
type reader struct {
	nats  string
	doors []string
	http  *http.Client // nil is the default one
	shut  bool         // OUT cannot be read over NATS: it comes back over HTTP
	rng   *rand.Rand
	job   string
	at    time.Time // of the last piece; the zero time before
	many  bool      // the job has several choices: only an event's id says where to go on
	got   *Received
	last  int    // index of the last piece, -1 before the first
	id    string // of the last event, "" if the last record came over NATS
}

var errLeave = errors.New("the reader leaves")

// read reads until the final record, leaving leaves times before.
func (r *reader) read(ctx context.Context, first *client.Stream, leaves int) *Received {
	for ; r.got.Final == nil && ctx.Err() == nil; leaves-- {
		stay := 1 << 30
		if leaves > 0 {
			stay = 1 + r.rng.IntN(40)
		}
		err := r.leg(ctx, first, r.counting(stay))
		first = nil
		if err != nil && !errors.Is(err, errLeave) { // a dispatcher or its connection died: come back
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				r.got.Wrong = append(r.got.Wrong, fmt.Sprintf("out of time after: %v", err))
			}
		}
	}
	return r.got
}

// counting takes records and leaves after so many.
func (r *reader) counting(stay int) func(*contracts.Chunk) error {
	return func(c *contracts.Chunk) error {
		r.got.Take(c)
		if !c.IsClaim() {
			r.waited()
		}
		r.last = c.Index
		if stay--; stay == 0 && !c.Final() {
			return errLeave
		}
		return nil
	}
}

// waited notes how long the reader waited for the piece that came.
func (r *reader) waited() {
	now := time.Now()
	if !r.at.IsZero() {
		r.got.Gap = max(r.got.Gap, now.Sub(r.at))
	}
	r.at = now
}

// leg is one connection.
func (r *reader) leg(ctx context.Context, first *client.Stream, take func(*contracts.Chunk) error) error {
	if first != nil {
		return drainStream(first, take)
	}
	overHTTP := r.rng.IntN(2) == 0 || r.shut
	if r.many && (!overHTTP || r.id == "") {
		r.got.Answer, r.last, r.id = Answer{}, -1, ""
	}
	if overHTTP {
		return r.overHTTP(ctx, take)
	}
	r.id = ""
	nc, err := client.Connect(r.nats)
	if err != nil {
		return err
	}
	defer nc.Close()
	s, err := client.New(nc, "default").Follow(ctx, r.job, r.last)
	if err != nil {
		return err
	}
	return drainStream(s, take)
}

func drainStream(s *client.Stream, take func(*contracts.Chunk) error) error {
	for c, err := range s.Chunks() {
		if err != nil {
			return err
		}
		if err := take(c); err != nil {
			return err
		}
	}
	return nil
}

// overHTTP reads server-sent events from any dispatcher, resuming by Last-Event-ID.
func (r *reader) overHTTP(ctx context.Context, take func(*contracts.Chunk) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.doors[r.rng.IntN(len(r.doors))]+"/v1/jobs/"+r.job+"/events", nil)
	if err != nil {
		return err
	}
	if r.id == "" && r.last >= 0 {
		r.id = strconv.Itoa(r.last)
	}
	if r.id != "" {
		req.Header.Set("Last-Event-ID", r.id)
	}
	resp, err := cmp.Or(r.http, http.DefaultClient).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("events of job %s: status %s", r.job, resp.Status)
	}
	id := ""
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		field, data, _ := strings.Cut(lines.Text(), ": ")
		if field == "id" {
			id = data
		}
		if field != "data" {
			continue
		}
		var c contracts.Chunk
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			return err
		}
		if c.Job == "" { // an error event
			return fmt.Errorf("events of job %s: %s", r.job, data)
		}
		r.id = id
		if err := take(&c); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), fmt.Errorf("events of job %s ended", r.job))
}
