package contracts_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
)

func mustEncode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := contracts.Encode(v)
	if err != nil {
		t.Fatalf("encode %+v: %v", v, err)
	}
	return data
}

// pack is msgpack of anything, without this package's help.
func pack(t testing.TB, v any) []byte {
	t.Helper()
	data, err := msgpack.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func big(width int, n uint64) string {
	b := binary.BigEndian.AppendUint64(nil, n)
	return string(b[8-width:])
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("\x81\xa1k", 40) + "\xc0"
	for _, tt := range []struct {
		name, data string
		code       contracts.Code // default invalid_argument
		text       string
	}{
		{"nothing", "", "", "must be a map"},
		{"a number", "\x01", "", "must be a map"},
		{"an array", "\x91\x01", "", "must be a map"},
		{"truncated key", "\x81\xa5jo", "", "truncated"},
		{"truncated value", "\x81\xa3job", "", "truncated"},
		{"truncated string", "\x81\xa3job\xd9\x10abc", "", "truncated"},
		{"trailing bytes", "\x80\x80", "", "1 bytes after the end"},
		{"huge map", "\xdf\xff\xff\xff\xff", "", "announced"},
		{"huge array", "\x81\xa6tokens\xdd\xff\xff\xff\xff", "", "announced"},
		{"huge string", "\x81\xa3job\xdb\xff\xff\xff\xff", "", "truncated"},
		{"huge bytes", "\x81\xa5bytes\xc6\xff\xff\xff\xff", "", "truncated"},
		{"deep", deep, "", "nested deeper"},
		{"number as key", "\x81\x01\x01", "", "key is not a string"},
		{"nil as key", "\x81\xc0\x01", "", "key is not a string"},
		{"text not UTF-8", "\x81\xa3job\xa1\xff", "", "UTF-8"},
		{"key not UTF-8", "\x81\xa1\xff\x01", "", "UTF-8"},
		{"text as bytes, not UTF-8", "\x81\xa3job\xc4\x01\xff", "", "UTF-8"},
		{"extension type", "\x81\xa3job\xd4\x01\x01", "", "0xd4"},
		{"unused type byte", "\x81\xa3job\xc1", "", "0xc1"},
		{"newer version", "\x81\xa1v\x02", contracts.CodeUnimplemented, "upgrade"},
		{"much newer version", "\x81\xa1v\xcf\xff\xff\xff\xff\xff\xff\xff\xff", contracts.CodeUnimplemented, "upgrade"},
		{"newer version in another shape", "\x82\xa1v\x02\xa3job\x90", contracts.CodeUnimplemented, "upgrade"},
		{"version as text", "\x81\xa1v\xa11", "", "v has the wrong type"},
		{"number as id", "\x81\xa3job\x01", "", "job has the wrong type"},
		{"text as parameter", "\x81\xa6params\x81\xabtemperature\xa3hot", "", "params.temperature has the wrong type"},
		{"fraction as count", "\x81\xa6params\x81\xaamax_tokens\xcb" + big(8, math.Float64bits(1.5)), "", "params.max_tokens"},
		{"array as text", "\x81\xa6prompt\x91\x01", "", "prompt has the wrong type"},
		{"text as messages", "\x81\xa8messages\xa2hi", "", "messages has the wrong type"},
		{"seed over 63 bits", "\x81\xa6params\x81\xa4seed\xcf" + big(8, 1<<63), "", "63 bits"},
		{"token over 32 bits", "\x81\xa6tokens\x91\xce" + big(4, 1<<31), "", "32 bits"},
		{"token under 32 bits", "\x81\xa6tokens\x91\xd3" + big(8, 1<<63), "", "32 bits"},
		{"negative fence", "\x81\xa5fence\xff", "", "negative"},
		{"many elements", "\x81\xa8messages\xdc\x40\x01" + strings.Repeat("\x80", 0x4001), "", "at most 16384"},
		{"many maps", "\x84" + strings.Repeat("\xa1k\xdc\x40\x00"+strings.Repeat("\x80", 0x4000), 4), "", "maps and arrays"},
		{"too long", strings.Repeat("\x80", contracts.MaxFrame+1), contracts.CodePayloadTooLarge, "at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.code == "" {
				tt.code = contracts.CodeInvalidArgument
			}
			var j contracts.Job
			e := contracts.AsError(contracts.Decode([]byte(tt.data), &j))
			if strings.Contains(tt.name, "fence") {
				e = contracts.AsError(contracts.Decode([]byte(tt.data), &contracts.Chunk{}))
			}
			if e.Code != tt.code || !strings.Contains(e.Message, tt.text) {
				t.Errorf("got %v, want code %s and the text %q", e, tt.code, tt.text)
			}
		})
	}
}

// TestTruncations: no part of a frame is a frame, and none brings the decoder down.
func TestTruncations(t *testing.T) {
	t.Parallel()
	whole := mustEncode(t, fullJob())
	for n := range whole {
		if err := contracts.Decode(whole[:n], &contracts.Job{}); contracts.CodeOf(err) != contracts.CodeInvalidArgument {
			t.Fatalf("the first %d of %d bytes: %v, want invalid_argument", n, len(whole), err)
		}
	}
}

// TestBitFlips: a damaged frame is an error or a value, never a panic.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	whole := mustEncode(t, fullJob())
	for i := range len(whole) * 8 {
		data := bytes.Clone(whole)
		data[i/8] ^= 1 << (i % 8)
		var j contracts.Job
		if err := contracts.Decode(data, &j); err == nil {
			_ = j.Validate()
		}
	}
}

func fullJob() *contracts.Job {
	return &contracts.Job{
		V: 1, ID: "j", Tenant: "t", Model: "m", Kind: contracts.KindChat, Class: contracts.P1, Deadline: 1 << 41, Submitted: 1 << 40,
		Messages: []contracts.Message{{Role: "system", Content: "be brief"}, {Role: "user", Content: "héllo 水", Name: "me"}},
		Params: contracts.Params{
			MaxTokens: ptr(300), Temperature: ptr(0.5), TopP: ptr(0.9), TopK: ptr(40), MinP: ptr(0.05), Seed: ptr(int64(-1)), Stop: []string{"\n\n"}, N: ptr(2),
			RepetitionPenalty: ptr(1.1), PresencePenalty: ptr(-1.0), FrequencyPenalty: ptr(1.0), LogitBias: map[string]float64{"7": -100, "8": 1},
			Logprobs: ptr(0), IgnoreEOS: true, ResponseFormat: &contracts.ResponseFormat{Type: contracts.FormatText},
		},
		Labels: map[string]string{"a": "b", "traceparent": "00"}, CancelOnLeave: true,
	}
}

// TestForeignEncoders: producers in other languages write other forms of the same values.
func TestForeignEncoders(t *testing.T) {
	t.Parallel()
	want := &contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "m", Kind: contracts.KindText, Prompt: "hi", Params: contracts.Params{Temperature: ptr(1.0), MaxTokens: ptr(5)}}
	for name, data := range map[string][]byte{
		"wide integers":   []byte("\x87\xa1v\xcf\x00\x00\x00\x00\x00\x00\x00\x01\xa3job\xa1j\xa6tenant\xa1t\xa5model\xa1m\xa4kind\xa4text\xa6prompt\xa2hi\xa6params\x82\xabtemperature\x01\xaamax_tokens\xd3\x00\x00\x00\x00\x00\x00\x00\x05"),
		"doubles":         []byte("\x87\xa1v\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xa3job\xa1j\xa6tenant\xa1t\xa5model\xa1m\xa4kind\xa4text\xa6prompt\xa2hi\xa6params\x82\xabtemperature\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xaamax_tokens\xcb\x40\x14\x00\x00\x00\x00\x00\x00"),
		"text as bytes":   []byte("\x87\xa1v\x01\xa3job\xc4\x01j\xa6tenant\xa1t\xa5model\xa1m\xa4kind\xa4text\xa6prompt\xc5\x00\x02hi\xa6params\x82\xabtemperature\xca\x3f\x80\x00\x00\xaamax_tokens\x05"),
		"wide containers": []byte("\xdf\x00\x00\x00\x08\xa1v\x01\xd9\x03job\xda\x00\x01j\xa6tenant\xdb\x00\x00\x00\x01t\xa5model\xa1m\xa4kind\xa4text\xa6prompt\xa2hi\xa6params\xde\x00\x02\xabtemperature\x01\xaamax_tokens\x05\xa6labels\xc0"),
		"unknown keys":    []byte("\x89\xa1v\x01\xa3job\xa1j\xa6tenant\xa1t\xa5model\xa1m\xa4kind\xa4text\xa6prompt\xa2hi\xa6params\x82\xabtemperature\x01\xaamax_tokens\x05\xa3new\x93\x01\xc3\x81\xa1k\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa4more\xc2"),
	} {
		var got contracts.Job
		if err := contracts.Decode(data, &got); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, &got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
	for name, data := range map[string]string{ // as doubles
		"a later version":      "\x81\xa1v\xcb\x40\x00\x00\x00\x00\x00\x00\x00",
		"a fraction":           "\x81\xa8deadline\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00",
		"infinity":             "\x81\xa8deadline\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
		"an integer too large": "\x81\xa8deadline\xcb\x43\x50\x00\x00\x00\x00\x00\x00",
		"a token too large":    "\x81\xa6tokens\x91\xcb\x42\x00\x00\x00\x00\x00\x00\x00",
	} {
		if err := contracts.Decode([]byte(data), &contracts.Job{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	var later contracts.Job
	if _ = contracts.Decode([]byte("\x82\xa1v\xcb\x40\x00\x00\x00\x00\x00\x00\x00\xa3job\xa1j"), &later); later.V != 2 || later.ID != "j" {
		t.Errorf("of a later version %+v is known, want its number and the id", later)
	}
}

// anyValue draws a value with every form that msgpack knows.
func anyValue(depth int) *rapid.Generator[any] {
	leaves := []*rapid.Generator[any]{
		rapid.Int64().AsAny(), rapid.Int64Range(-200, 200).AsAny(), rapid.Uint64Range(0, math.MaxInt64).AsAny(), rapid.Uint8().AsAny(), rapid.Uint16().AsAny(), rapid.Uint32().AsAny(), rapid.Int16().AsAny(), rapid.Int32().AsAny(),
		rapid.Float64().AsAny(), rapid.Float32().AsAny(), rapid.Bool().AsAny(), rapid.Just[any](nil),
		rapid.String().AsAny(), rapid.StringN(30, 40, 300).AsAny(), rapid.Map(rapid.IntRange(250, 70_000), func(n int) any { return strings.Repeat("x", n) }),
	}
	if depth == 0 {
		return rapid.OneOf(leaves...)
	}
	inner := anyValue(depth - 1)
	return rapid.OneOf(append(leaves,
		rapid.SliceOfN(inner, 0, 40).AsAny(),
		rapid.MapOfN(rapid.String(), inner, 0, 40).AsAny(),
		rapid.Map(rapid.IntRange(15, 5000), func(n int) any { return make([]int, n) }),
	)...)
}

// TestEveryForm: whatever a msgpack library writes within the limits, the scanner walks to its very
// end, and with one byte less or more it does not.
func TestEveryForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var buf bytes.Buffer
		enc := msgpack.NewEncoder(&buf)
		enc.UseCompactInts(rapid.Bool().Draw(t, "compact ints"))
		enc.UseCompactFloats(rapid.Bool().Draw(t, "compact floats"))
		v := rapid.MapOfN(rapid.StringMatching(`[w-z]{1,40}`), anyValue(2), 0, 20).Draw(t, "value")
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		data := buf.Bytes()
		var j contracts.Job
		if err := contracts.Decode(data, &j); err != nil {
			t.Fatalf("%x: %v", data[:min(len(data), 200)], err)
		}
		if err := contracts.Decode(append(bytes.Clone(data), 0xc0), &j); err == nil {
			t.Fatal("a trailing byte was accepted")
		}
		if err := contracts.Decode(data[:len(data)-1], &j); err == nil && len(data) > 1 {
			t.Fatal("a truncated frame was accepted")
		}
	})
}

// TestMemoryBound: what a hostile frame makes the decoder allocate is a small multiple of its length, and for
// its maps and arrays, whose count is bounded, 128 bytes each.
func TestMemoryBound(t *testing.T) {
	const n = 1 << 20
	long := func(prefix string, array byte, each string) []byte {
		count := (n - len(prefix)) / len(each)
		return []byte(prefix + string(array) + big(4, uint64(count)) + strings.Repeat(each, count))
	}
	rows := strings.Repeat("\x80", 1<<14)
	for name, data := range map[string][]byte{
		"tokens":            long("\x81\xa6tokens", 0xdd, "\x01"),
		"nils as tokens":    long("\x81\xa6tokens", 0xdd, "\xc0"),
		"unknown":           long("\x81\xa6tokenz", 0xdd, "\x01"),
		"any tokens":        long("\x81\xa6params\x81\xafresponse_format\x81\xa6tokens", 0xdd, "\xcd\xff\xff"),
		"messages":          []byte("\x81\xa8messages\xdc\x40\x00" + rows),
		"repeated messages": []byte("\x83" + strings.Repeat("\xa8messages\xdc\x40\x00"+rows, 3)),
		"logprobs":          []byte("\x81\xa8logprobs\xdc\x40\x00" + rows),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := contracts.Decode(data, &contracts.Job{})
		_ = contracts.Decode(data, &contracts.Chunk{})
		runtime.ReadMemStats(&after)
		if used, limit := after.TotalAlloc-before.TotalAlloc, uint64(64*len(data)+128*contracts.MaxContainers); used > limit {
			t.Errorf("%s: %d bytes of frame made the decoder allocate %d, want at most %d (error %v)", name, len(data), used, limit, err)
		}
	}
}

// TestRoundTrip: what is encoded is decoded, and encoded again gives the same bytes.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := &contracts.Chunk{
			V: 1, Job: rapid.String().Draw(t, "job"), Fence: rapid.Uint64().Draw(t, "fence"), Index: rapid.IntRange(0, 1<<30).Draw(t, "index"), Choice: rapid.IntRange(0, 15).Draw(t, "choice"),
			Tokens: rapid.SliceOfN(rapid.Int32(), 1, 20).Draw(t, "tokens"), Text: rapid.String().Draw(t, "text"),
		}
		if rapid.Bool().Draw(t, "more") {
			c.Logprobs = []contracts.TokenLogprob{{Token: rapid.Int32().Draw(t, "token"), Logprob: rapid.Float32().Draw(t, "logprob"), Bytes: rapid.SliceOfN(rapid.Byte(), 1, 9).Draw(t, "bytes")}}
			c.Usage = &contracts.Usage{PromptTokens: rapid.Int().Draw(t, "usage")}
			c.Timings = &contracts.Timings{Queued: rapid.Float64().Draw(t, "queued")}
			c.Code = contracts.CodeInternal
		}
		data, err := contracts.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		var got contracts.Chunk
		if err := contracts.Decode(data, &got); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if diff := cmp.Diff(c, &got); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
		again, err := contracts.Encode(&got)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encoded again: %x, %v, want %x", again, err, data)
		}
	})
}

// seeds are frames that the fuzzers start from.
func seeds(f *testing.F, values ...any) {
	for _, v := range values {
		data := mustEncode(f, v)
		f.Add(data)
		f.Add(data[:len(data)/2])
		f.Add(append(data, 0xc1))
	}
	f.Add([]byte("\xdf\xff\xff\xff\xff"))
	f.Add(pack(f, map[string]any{"v": 2, "job": []int{1}, "bytes": []byte{0xff}}))
}

// reencodes checks that an accepted frame is stable: encoded and decoded again it is the same.
func reencodes[T any](t *testing.T, data []byte) (*T, bool) {
	var v, again T
	err := contracts.Decode(data, &v)
	if err != nil {
		if code := contracts.CodeOf(err); code != contracts.CodeInvalidArgument && code != contracts.CodeUnimplemented && code != contracts.CodePayloadTooLarge {
			t.Fatalf("%x: code %q of %v", data, code, err)
		}
		return nil, false
	}
	one := mustEncode(t, &v)
	if len(one) > contracts.MaxFrame {
		return &v, true
	}
	if err := contracts.Decode(one, &again); err != nil {
		t.Fatalf("%x: decoded, then encoded as %x, which is refused: %v", data, one, err)
	}
	if two := mustEncode(t, &again); !bytes.Equal(one, two) {
		t.Fatalf("%x: encoded as %x, then as %x", data, one, two)
	}
	return &v, true
}

func FuzzDecodeJob(f *testing.F) {
	seeds(f, fullJob(), textJob(), contracts.Job{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if j, ok := reencodes[contracts.Job](t, data); ok {
			if err := j.Validate(); err != nil && contracts.CodeOf(err) == contracts.CodeInternal {
				t.Fatalf("%x: %v has no code", data, err)
			}
		}
	})
}

func FuzzDecodeChunk(f *testing.F) {
	seeds(f,
		contracts.Chunk{V: 1, Job: "j", Fence: 1, Claim: &contracts.Claim{Attempt: 1}},
		contracts.Chunk{V: 1, Job: "j", Tokens: []int32{1, 70000}, Text: "é", Logprobs: []contracts.TokenLogprob{{Token: 1, Logprob: -1, Bytes: []byte{0xc3}, Top: []contracts.TokenLogprob{{}}}}},
		contracts.Chunk{V: 1, Job: "j", Usage: &contracts.Usage{}, Timings: &contracts.Timings{Queued: 0.5}, Code: contracts.CodeInternal})
	f.Fuzz(func(t *testing.T, data []byte) { reencodes[contracts.Chunk](t, data) })
}

func FuzzDecodeAdmitted(f *testing.F) {
	seeds(f, contracts.Admitted{V: 1, Job: *fullJob(), Tokens: []int32{1, 2, 49151}, KVTokens: 900, Digest: "00"})
	f.Fuzz(func(t *testing.T, data []byte) { reencodes[contracts.Admitted](t, data) })
}

func BenchmarkDecodeChunk(b *testing.B) {
	data := mustEncode(b, contracts.Chunk{V: 1, Job: "01a20bcf-c1e5-7d31-b58f-d8b200321d3c", Fence: 1, Index: 250, Tokens: []int32{523, 11, 4099}, Text: " the sky,"})
	b.ReportAllocs()
	for b.Loop() {
		var c contracts.Chunk
		if err := contracts.Decode(data, &c); err != nil {
			b.Fatal(err)
		}
	}
}
