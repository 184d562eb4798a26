package tokenizer

import "unicode/utf8"

// Decoder turns one sequence's tokens into text as they come. The concatenation of all that Push and
// the last Flush return is Decode of all ids, however they were grouped: a pure function of the list
// of tokens. A worker that takes over a sequence therefore pushes the tokens already emitted and is
// where the first worker was. Not safe for concurrent use.
type Decoder struct {
	t    *Tokenizer
	held []byte // at most three bytes of a character that may still be completed
}

// NewDecoder returns a decoder at the start of a text.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t, held: make([]byte, 0, 32)} }

// Push adds a token and returns the text that is complete now; it is valid UTF-8 and often empty.
// Bytes that can no longer become a character come out as U+FFFD.
func (d *Decoder) Push(id int32) string {
	s := d.t.Text(id)
	if len(d.held) == 0 && utf8.ValidString(s) {
		return s
	}
	d.held = append(d.held, s...)
	var out []byte
	rest := string(d.held)
	for len(rest) > 0 {
		n, valid, cut := sequence(rest)
		if cut {
			break
		}
		if valid {
			out = append(out, rest[:n]...)
		} else {
			out = utf8.AppendRune(out, utf8.RuneError)
		}
		rest = rest[n:]
	}
	d.held = append(d.held[:0], rest...)
	return string(out)
}

// Flush ends the text: it returns U+FFFD if a character was left incomplete and nothing otherwise.
// The decoder is at the start of a new text afterwards.
func (d *Decoder) Flush() string {
	if len(d.held) == 0 {
		return ""
	}
	d.held = d.held[:0]
	return string(utf8.RuneError)
}
