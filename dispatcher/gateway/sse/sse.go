// Package sse writes event streams as the HTML standard defines text/event-stream: framing and
// flushing, nothing else.
//
// Step 14, the last of the walk: dispatcher/gateway hands it the chunks that dispatcher/relay put in
// order. The package knows neither jobs nor OpenAI, never sets a header and never blocks but in the
// writer it was given. A [Writer] belongs to one goroutine.
package sse

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// ContentType is the media type of the streams that this package writes.
const ContentType = "text/event-stream"

// Event is one event. Data may hold any text: line ends in it (\n, \r\n, \r) arrive as \n. ID and Name
// are left out when empty and must be a single line; ID must not hold NUL, which readers would ignore.
type Event struct {
	ID   string
	Name string
	Data []byte
}

// Writer frames events onto an io.Writer.
type Writer struct {
	w     io.Writer
	flush func() error
	buf   []byte
}

// NewWriter writes to w; flush pushes what was written on to the reader and may be nil.
func NewWriter(w io.Writer, flush func() error) *Writer { return &Writer{w: w, flush: flush} }

// Event writes e in one call to the underlying writer and does not flush.
func (w *Writer) Event(e Event) error {
	if strings.ContainsAny(e.ID, "\r\n\x00") || strings.ContainsAny(e.Name, "\r\n") {
		return fmt.Errorf("event id %q or name %q holds a line end or NUL: give single lines", e.ID, e.Name)
	}
	w.buf = w.buf[:0]
	if e.ID != "" {
		w.line("id: ", []byte(e.ID))
	}
	if e.Name != "" {
		w.line("event: ", []byte(e.Name))
	}
	w.lines("data: ", e.Data)
	return w.end()
}

// Comment writes text as comment lines, which readers ignore; it keeps proxies from closing a silent
// stream. It does not flush.
func (w *Writer) Comment(text string) error {
	w.buf = w.buf[:0]
	w.lines(": ", []byte(text))
	return w.end()
}

// Flush pushes what was written on to the reader.
func (w *Writer) Flush() error {
	if w.flush == nil {
		return nil
	}
	return w.flush()
}

// lines writes text as one field for each of its lines.
func (w *Writer) lines(field string, text []byte) {
	for {
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			w.line(field, text)
			return
		}
		w.line(field, text[:i])
		if text[i] == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			i++
		}
		text = text[i+1:]
	}
}

func (w *Writer) line(field string, text []byte) {
	w.buf = append(w.buf, field...)
	w.buf = append(w.buf, text...)
	w.buf = append(w.buf, '\n')
}

func (w *Writer) end() error {
	w.buf = append(w.buf, '\n')
	_, err := w.w.Write(w.buf)
	return err
}
