package stream

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"github.com/pelton-run/pelton/contracts"
)

// Checksum computes what the final record says of a whole stream: SHA-256 over, for each choice in
// order, SHA-256 of its token ids (4 bytes each, little endian) followed by SHA-256 of its text, and
// then, for each output in order, SHA-256 of its bytes. How the stream was cut into pieces does not
// matter. The zero value is an empty stream.
type Checksum struct {
	choices []sums
	outputs [][]byte
}

type sums struct{ tokens, text hash.Hash }

// Add takes the next record; those of one choice must come in order. Claims change nothing, and so does
// a final record without text and outputs.
func (s *Checksum) Add(c *contracts.Chunk) {
	for i := range c.Outputs {
		sum := sha256.Sum256(c.Outputs[i].Data)
		s.outputs = append(s.outputs, sum[:])
	}
	if c.IsClaim() || (c.Final() && c.Text == "") || c.Choice < 0 || c.Choice >= contracts.MaxChoices {
		return
	}
	for len(s.choices) <= c.Choice {
		s.choices = append(s.choices, sums{sha256.New(), sha256.New()})
	}
	to := &s.choices[c.Choice]
	var ids []byte
	for _, id := range c.Tokens {
		ids = binary.LittleEndian.AppendUint32(ids, uint32(id))
	}
	to.tokens.Write(ids)
	to.text.Write([]byte(c.Text))
}

// Sum is the checksum of what was added so far, as hexadecimal digits.
func (s *Checksum) Sum() string {
	all := sha256.New()
	for _, c := range s.choices {
		all.Write(c.tokens.Sum(nil))
		all.Write(c.text.Sum(nil))
	}
	for _, o := range s.outputs {
		all.Write(o)
	}
	return hex.EncodeToString(all.Sum(nil))
}
