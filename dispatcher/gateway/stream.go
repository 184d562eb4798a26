package gateway

import (
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
	"github.com/pelton-run/pelton/dispatcher/gateway/sse"
)

// stream is an event stream on a response. Its header is sent with the first event, or by open; until
// then the handler may still answer with another status.
type stream struct {
	g       *gateway
	w       http.ResponseWriter
	out     *sse.Writer
	started bool
}

func (g *gateway) newStream(w http.ResponseWriter) *stream {
	return &stream{g: g, w: w, out: sse.NewWriter(w, http.NewResponseController(w).Flush)}
}

// open sends the header if it was not sent.
func (s *stream) open() {
	if s.started {
		return
	}
	s.started = true
	h := s.w.Header()
	h.Set("Content-Type", sse.ContentType)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	s.g.allowWrite(s.w)
	s.w.WriteHeader(http.StatusOK)
}

func (s *stream) event(e sse.Event) error {
	s.open()
	s.g.allowWrite(s.w)
	return s.out.Event(e)
}

func (s *stream) data(id string, json []byte) error { return s.event(sse.Event{ID: id, Data: json}) }

// alive sends a comment, so that nobody in between takes the silence for the end.
func (s *stream) alive() error {
	s.open()
	s.g.allowWrite(s.w)
	if err := s.out.Comment("keep-alive"); err != nil {
		return err
	}
	return s.flush()
}

func (s *stream) flush() error {
	s.open()
	return s.out.Flush()
}

// end sends err as the last event of a stream that has begun.
func (s *stream) end(name string, err error) error {
	reply := openai.NewError(contracts.AsError(err))
	if err := s.event(sse.Event{Name: name, Data: openai.Marshal(reply)}); err != nil {
		return err
	}
	return s.flush()
}
