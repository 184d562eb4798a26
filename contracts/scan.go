package contracts

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// scanner walks a msgpack value without building it, so that what reaches the decoder is known to be
// whole, bounded and of this protocol: the decoder itself recurses and allocates as the frame says, and
// cuts numbers to the width of their field without a word.
type scanner struct {
	data       []byte
	pos        int
	containers int
	version    uint64
	whole      []int // where float64s stand that are integers
}

// Keys that the scanner knows.
const (
	keyVersion = "v"
	keyFence   = "fence"  // the only number that may not be negative and use all 64 bits
	keyTokens  = "tokens" // the only long array
	keyToken   = "token"
	keyRows    = "rows"  // arrays of token ids
	keyBytes   = "bytes" // these two values need not be UTF-8
	keyDead    = "admitted"
)

// frame checks the whole of data: one map and nothing after it, of a version known here.
func (s *scanner) frame() error {
	if len(s.data) == 0 || !isMap(s.data[0]) {
		return Errorf(CodeInvalidArgument, "msgpack: the value must be a map with string keys")
	}
	if err := s.value(0, nil); err != nil {
		return Errorf(CodeInvalidArgument, "msgpack at byte %d: %v", s.pos, err)
	}
	if s.pos != len(s.data) {
		return Errorf(CodeInvalidArgument, "msgpack: %d bytes after the end of the value", len(s.data)-s.pos)
	}
	if s.version > Version {
		return &Error{Code: CodeUnimplemented, Param: keyVersion, Message: fmt.Sprintf("version %d is newer than %d: upgrade this side", s.version, Version)}
	}
	return nil
}

func isMap(c byte) bool { return c&0xf0 == 0x80 || c == 0xde || c == 0xdf }

func (s *scanner) take(n int) ([]byte, error) {
	if n < 0 || n > len(s.data)-s.pos {
		return nil, fmt.Errorf("truncated: %d bytes wanted, %d left", n, len(s.data)-s.pos)
	}
	b := s.data[s.pos : s.pos+n]
	s.pos += n
	return b, nil
}

// uint reads a big-endian number of 1, 2, 4 or 8 bytes.
func (s *scanner) uint(width int) (uint64, error) {
	b, err := s.take(width)
	if err != nil {
		return 0, err
	}
	switch width {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(b)), nil
	}
	return binary.BigEndian.Uint64(b), nil
}

// length reads a count; one that no frame can hold is cut to a value that no frame can hold either.
func (s *scanner) length(width int) (int, error) {
	n, err := s.uint(width)
	return int(min(n, MaxFrame+1)), err
}

// value walks one value; key is the map key that it, or the array it is in, stands under.
func (s *scanner) value(depth int, key []byte) error {
	if depth > MaxDepth {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	b, err := s.take(1)
	if err != nil {
		return err
	}
	c := b[0]
	switch {
	case c <= 0x7f: // positive fixint
		return s.number(uint64(c), false, depth, key)
	case c >= 0xe0: // negative fixint
		return s.number(uint64(int64(int8(c))), true, depth, key)
	case c == 0xc0 || c == 0xc2 || c == 0xc3: // nil, false, true
		return nil
	case c <= 0x8f:
		return s.mapOf(int(c&0x0f), depth)
	case c <= 0x9f:
		return s.arrayOf(int(c&0x0f), depth, key)
	case c <= 0xbf:
		return s.text(int(c & 0x1f))
	case c == 0xca: // float32
		_, err = s.take(4)
		return err
	case c == 0xcb:
		return s.double(depth, key)
	case c >= 0xcc && c <= 0xcf: // uint8 to uint64
		n, err := s.uint(1 << (c - 0xcc))
		if err != nil {
			return err
		}
		return s.number(n, false, depth, key)
	case c >= 0xd0 && c <= 0xd3: // int8 to int64
		width := 1 << (c - 0xd0)
		n, err := s.uint(width)
		if err != nil {
			return err
		}
		signed := int64(n) << (64 - 8*width) >> (64 - 8*width)
		return s.number(uint64(signed), signed < 0, depth, key)
	}
	return s.sized(c, depth, key)
}

// sized handles the forms that carry an explicit length.
func (s *scanner) sized(c byte, depth int, key []byte) error {
	var width int
	switch c {
	case 0xc4, 0xc5, 0xc6: // bin
		width = 1 << (c - 0xc4)
	case 0xd9, 0xda, 0xdb: // str
		width = 1 << (c - 0xd9)
	case 0xdc, 0xde: // array16, map16
		width = 2
	case 0xdd, 0xdf: // array32, map32
		width = 4
	default:
		return fmt.Errorf("type byte 0x%02x is not used by this protocol", c)
	}
	n, err := s.length(width)
	if err != nil {
		return err
	}
	switch {
	case c <= 0xc6 && (string(key) == keyBytes || string(key) == keyDead):
		_, err = s.take(n)
		return err
	case c <= 0xdb:
		return s.text(n)
	case c <= 0xdd:
		return s.arrayOf(n, depth, key)
	}
	return s.mapOf(n, depth)
}

// double steps over a float64. A whole number is an integer: JavaScript has one type for both, and msgpackr
// writes times in it.
func (s *scanner) double(depth int, key []byte) error {
	bits, err := s.uint(8)
	f := math.Float64frombits(bits)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 || bits == 1<<63 { // the last is -0, which no integer is
		return err
	}
	s.whole = append(s.whole, s.pos-9)
	return s.number(uint64(int64(f)), f < 0, depth, key)
}

// integers is the frame with its whole float64s as int64s, which have the same length.
func (s *scanner) integers() []byte {
	if len(s.whole) == 0 {
		return s.data
	}
	out := bytes.Clone(s.data)
	for _, at := range s.whole {
		f := math.Float64frombits(binary.BigEndian.Uint64(out[at+1:]))
		out[at] = 0xd3
		binary.BigEndian.PutUint64(out[at+1:], uint64(int64(f)))
	}
	return out
}

// number checks an integer, given as its 64 bits, against what its field can hold.
func (s *scanner) number(n uint64, negative bool, depth int, key []byte) error {
	switch {
	case string(key) == keyVersion && depth == 1 && !negative:
		s.version = n
	case string(key) == keyFence && negative:
		return fmt.Errorf("fence %d is negative", int64(n))
	case string(key) == keyFence:
	case !negative && n > math.MaxInt64:
		return fmt.Errorf("%q: number %d is over 63 bits", key, n)
	case (string(key) == keyTokens || string(key) == keyToken || string(key) == keyRows) && int64(n) != int64(int32(n)):
		return fmt.Errorf("%q: token id %d is over 32 bits", key, int64(n))
	}
	return nil
}

func (s *scanner) text(n int) error {
	b, err := s.take(n)
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("text is not valid UTF-8")
	}
	return nil
}

// container checks the count of a map's entries or an array's elements, each of at least so many bytes.
func (s *scanner) container(n, each int, long bool) error {
	if n > (len(s.data)-s.pos)/each {
		return fmt.Errorf("%d elements announced, only %d bytes left", n, len(s.data)-s.pos)
	}
	if n > MaxItems && !long {
		return fmt.Errorf("%d elements, at most %d are allowed", n, MaxItems)
	}
	if s.containers++; s.containers > MaxContainers {
		return fmt.Errorf("more than %d maps and arrays", MaxContainers)
	}
	return nil
}

func (s *scanner) arrayOf(n, depth int, key []byte) error {
	if err := s.container(n, 1, string(key) == keyTokens); err != nil {
		return err
	}
	if string(key) == keyTokens || string(key) == keyRows {
		n -= s.ids(n)
	}
	for range n {
		if err := s.value(depth+1, key); err != nil {
			return err
		}
	}
	return nil
}

// ids steps over up to n token ids in their usual forms and tells how many they were.
func (s *scanner) ids(n int) int {
	for i := range n {
		width := 1
		switch left := s.data[s.pos:]; {
		case len(left) > 0 && left[0] <= 0x7f:
		case len(left) > 1 && left[0] == 0xcc:
			width = 2
		case len(left) > 2 && left[0] == 0xcd:
			width = 3
		default:
			return i
		}
		s.pos += width
	}
	return n
}

func (s *scanner) mapOf(n, depth int) error {
	if err := s.container(n, 2, false); err != nil {
		return err
	}
	for range n {
		key, err := s.key()
		if err != nil {
			return err
		}
		if err := s.value(depth+1, key); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) key() ([]byte, error) {
	b, err := s.take(1)
	if err != nil {
		return nil, err
	}
	n, c := 0, b[0]
	switch {
	case c&0xe0 == 0xa0:
		n = int(c & 0x1f)
	case c >= 0xd9 && c <= 0xdb:
		if n, err = s.length(1 << (c - 0xd9)); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("map key is not a string")
	}
	start := s.pos
	if err := s.text(n); err != nil {
		return nil, err
	}
	return s.data[start:s.pos], nil
}
