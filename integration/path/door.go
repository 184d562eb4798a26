package path

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
)

// door is a cheap client of the HTTP door: connections that are kept, requests out of prepared text, and
// answers of which only what counts is looked at.
type door struct {
	address string
	path    string  // of the route
	text    string  // ASCII without quotes and backslashes, at least as long as two prompts
	bytes   float64 // of text in a token
	idle    chan *line
}

// line is one connection.
type line struct {
	net.Conn
	in *bufio.Reader
}

// newDoor keeps up to so many connections.
func newDoor(address, text string, bytesPerToken float64, connections int) *door {
	return &door{address: address, path: "/v1/chat/completions", text: text, bytes: bytesPerToken, idle: make(chan *line, connections)}
}

func (d *door) line() (*line, error) {
	select {
	case l := <-d.idle:
		return l, nil
	default:
	}
	c, err := net.DialTimeout("tcp", d.address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &line{c, bufio.NewReaderSize(c, 4<<10)}, nil
}

// close ends the connections that are kept.
func (d *door) close() {
	for {
		select {
		case l := <-d.idle:
			_ = l.Close()
		default:
			return
		}
	}
}

// Send implements loadgen.Target. The prompt is the door's own text, of r.Input tokens.
func (d *door) Send(ctx context.Context, r loadgen.Request, _ string, got func()) loadgen.Answer {
	l, err := d.line()
	if err != nil {
		return loadgen.Answer{Outcome: loadgen.Failed, Message: err.Error()}
	}
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Now()) })()
	a, err := d.ask(l, r, got)
	if err != nil {
		_ = l.Close()
		a.Outcome, a.Message = loadgen.Failed, err.Error()
		return a
	}
	select {
	case d.idle <- l:
	default:
		_ = l.Close()
	}
	return a
}

func (d *door) ask(l *line, r loadgen.Request, got func()) (a loadgen.Answer, err error) {
	if _, err := l.Write(d.request(r)); err != nil {
		return a, err
	}
	head, err := readHead(l.in)
	if err != nil {
		return a, err
	}
	if head.status != 200 {
		text := make([]byte, head.length)
		if _, err := io.ReadFull(l.in, text); err != nil {
			return a, err
		}
		a.Outcome, a.Message = loadgen.Failed, fmt.Sprintf("%d: %.300s", head.status, text)
		if head.status == 429 || head.status == 503 {
			a.Outcome = loadgen.Refused
		}
		return a, nil
	}
	return readEvents(l.in, got)
}

// request is head and body in one piece.
func (d *door) request(r loadgen.Request) []byte {
	n := min(int(float64(r.Input)*d.bytes)+1, len(d.text)/2)
	start := int(r.Seed % uint64(len(d.text)-n))
	const before, after = `{"model":"sim","stream":true,"ignore_eos":true,"temperature":0,"stream_options":{"include_usage":true},"max_tokens":`, `"}]}`
	length := len(before) + len(strconv.Itoa(r.Output)) + len(`,"messages":[{"role":"user","content":"`) + n + len(after)
	b := make([]byte, 0, length+256)
	b = fmt.Appendf(b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", d.path, d.address, length)
	if r.Class != "" {
		b = fmt.Appendf(b, "X-Pelton-Class: %s\r\n", r.Class)
	}
	b = append(append(b, "\r\n"...), before...)
	b = append(strconv.AppendInt(b, int64(r.Output), 10), `,"messages":[{"role":"user","content":"`...)
	return append(append(b, d.text[start:start+n]...), after...)
}

// head is what matters of a response's head.
type head struct{ status, length int }

func readHead(in *bufio.Reader) (h head, err error) {
	for first := true; ; first = false {
		text, err := in.ReadSlice('\n')
		if err != nil {
			return h, fmt.Errorf("response head: %w", err)
		}
		text = bytes.TrimRight(text, "\r\n")
		switch {
		case first && len(text) >= 12:
			h.status, _ = strconv.Atoi(string(text[9:12]))
		case len(text) == 0:
			return h, nil
		case bytes.HasPrefix(text, []byte("Content-Length: ")):
			h.length, _ = strconv.Atoi(string(text[16:]))
		}
	}
}

var (
	data     = []byte("data: ")
	content  = []byte(`"content":"`)
	failure  = []byte(`"error":{`)
	prompt   = []byte(`"prompt_tokens":`)
	complete = []byte(`"completion_tokens":`)
)

// readEvents reads a chunked stream of events to its end. got is called for each with content.
func readEvents(conn *bufio.Reader, got func()) (a loadgen.Answer, err error) {
	in := bufio.NewReaderSize(httputil.NewChunkedReader(conn), 2<<10)
	for {
		text, err := in.ReadSlice('\n')
		if err != nil {
			return a, fmt.Errorf("the stream broke off: %w", err)
		}
		event, ok := bytes.CutPrefix(text, data)
		if !ok {
			continue
		}
		switch i := bytes.Index(event, content); {
		case bytes.HasPrefix(event, []byte("[DONE]")):
			a.Outcome = loadgen.Completed
			return a, finish(in, conn)
		case i >= 0:
			if event[i+len(content)] != '"' {
				got()
			}
		case bytes.Contains(event, failure):
			return a, fmt.Errorf("error event: %.300s", event)
		default:
			a.InputTokens, a.OutputTokens = max(a.InputTokens, number(event, prompt)), max(a.OutputTokens, number(event, complete))
		}
	}
}

// finish reads up to the end of the body, so that the connection can be used again.
func finish(in, conn *bufio.Reader) error {
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	_, err := conn.ReadSlice('\n') // the empty line after the last chunk
	return err
}

// number is the one that stands after key, 0 without it.
func number(event, key []byte) int {
	i := bytes.Index(event, key)
	if i < 0 {
		return 0
	}
	n := 0
	for _, c := range event[i+len(key):] {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}
