package stream_test

import (
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
)

func TestChecksum(t *testing.T) {
	t.Parallel()
	sum := func(pieces ...contracts.Chunk) string {
		var s stream.Checksum
		for i := range pieces {
			s.Add(&pieces[i])
		}
		return s.Sum()
	}
	whole := sum(contracts.Chunk{Tokens: []int32{1, 2, -3}, Text: "abc"}, contracts.Chunk{Choice: 1, Tokens: []int32{4}, Text: "d"})
	// python3: h=hashlib.sha256; h(h(struct.pack('<3i',1,2,-3)).digest()+h(b'abc').digest()+h(struct.pack('<i',4)).digest()+h(b'd').digest()).hexdigest()
	if whole != "a8337e0afcf445dbae5c27dacfdf1d044b0b2d932491baaf5c6fcb2260512f35" {
		t.Errorf("checksum %s", whole)
	}
	cut := sum(contracts.Chunk{Tokens: []int32{1}}, contracts.Chunk{Claim: &contracts.Claim{}, Text: "x"}, contracts.Chunk{Choice: 1, Tokens: []int32{4}},
		contracts.Chunk{Tokens: []int32{2, -3}, Text: "ab", Index: 1}, contracts.Chunk{Choice: 1, Text: "d"}, contracts.Chunk{Text: "c", Finish: "stop", Usage: &contracts.Usage{}}, contracts.Chunk{Choice: 2, Usage: &contracts.Usage{}})
	if cut != whole {
		t.Errorf("cut into other pieces: %s, want %s", cut, whole)
	}
	for name, other := range map[string]string{
		"nothing":       sum(),
		"text moved":    sum(contracts.Chunk{Tokens: []int32{1, 2, -3}, Text: "ab"}, contracts.Chunk{Choice: 1, Tokens: []int32{4}, Text: "cd"}),
		"tokens turned": sum(contracts.Chunk{Tokens: []int32{2, 1, -3}, Text: "abc"}, contracts.Chunk{Choice: 1, Tokens: []int32{4}, Text: "d"}),
	} {
		if other == whole {
			t.Errorf("%s: the same checksum", name)
		}
	}
}
