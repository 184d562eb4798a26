package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	api = "$JS.API."
	// answerTime is how long the broker may take to answer a request that moves no data.
	answerTime = 20 * time.Second
	// askTimes is how often a question is asked in this time: what is asked while the cluster elects a leader
	// is never answered.
	askTimes = 4
)

// ask is call for requests that change nothing.
func ask(ctx context.Context, nc *nats.Conn, subject string, request, answer any) (err error) {
	for range askTimes {
		soon, cancel := context.WithTimeout(ctx, answerTime/askTimes)
		err = call(soon, nc, subject, request, answer)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// call asks JetStream and decodes its answer. Configurations go through as JSON, so that fields which
// this version does not know survive.
func call(ctx context.Context, nc *nats.Conn, subject string, request, answer any) error {
	var data []byte
	if request != nil {
		var err error
		if data, err = json.Marshal(request); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, api+subject, data)
	if err != nil {
		return unanswered(api+subject, err)
	}
	return decode(m.Data, answer)
}

// unanswered explains why there was no answer.
func unanswered(subject string, err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s: the server has no JetStream, or the cluster no leader: %w", subject, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: no answer: the credentials are not a provisioner's, or the stream has no leader (pelton admin status): %w", subject, err)
	}
	return fmt.Errorf("%s: %w", subject, err)
}

// decode reads an answer that may be an error; answer may be nil.
func decode(data []byte, answer any) error {
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &failed); err != nil {
		return fmt.Errorf("the broker's answer is no JSON: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

// description is what of a stream's own description admin looks at.
type description struct {
	Config  json.RawMessage `json:"config"`
	Created time.Time       `json:"created"`
}

// born is when a stream was made.
func born(ctx context.Context, nc *nats.Conn, stream string) (time.Time, error) {
	var d description
	err := ask(ctx, nc, "STREAM.INFO."+stream, nil, &d)
	return d.Created, err
}

// describe is the configuration of a stream as the broker has it; ok is false when there is no such
// stream.
func describe(ctx context.Context, nc *nats.Conn, stream string) (config json.RawMessage, ok bool, err error) {
	var d description
	err = ask(ctx, nc, "STREAM.INFO."+stream, nil, &d)
	if api, is := errors.AsType[*jetstream.APIError](err); is && api.ErrorCode == jetstream.JSErrCodeStreamNotFound {
		return nil, false, nil
	}
	return d.Config, err == nil, err
}

// names lists the streams of the account.
func names(ctx context.Context, nc *nats.Conn) (list []string, err error) {
	for {
		var page struct {
			Total   int      `json:"total"`
			Streams []string `json:"streams"`
		}
		if err := ask(ctx, nc, "STREAM.NAMES", map[string]int{"offset": len(list)}, &page); err != nil {
			return nil, err
		}
		list = append(list, page.Streams...)
		if len(list) >= page.Total || len(page.Streams) == 0 {
			return list, nil
		}
	}
}
