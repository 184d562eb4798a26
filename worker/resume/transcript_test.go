package resume_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/resume"
)

func fold(t *testing.T, records ...contracts.Chunk) *resume.Transcript {
	t.Helper()
	tr := &resume.Transcript{}
	for i, c := range records {
		data, err := contracts.Encode(&c)
		if err != nil {
			t.Fatal(err)
		}
		tr.Add(uint64(10*i+5), time.Unix(int64(i), 0), data)
	}
	return tr
}

func TestTranscript(t *testing.T) {
	t.Parallel()
	claim := func(fence uint64, attempt int) contracts.Chunk {
		return contracts.Chunk{V: 1, Fence: fence, Claim: &contracts.Claim{Attempt: attempt}}
	}
	piece := func(fence uint64, choice, index int, finish string, tokens ...int32) contracts.Chunk {
		return contracts.Chunk{V: 1, Fence: fence, Choice: choice, Index: index, Tokens: tokens, Finish: finish}
	}
	final := contracts.Chunk{V: 1, Fence: 3, Usage: &contracts.Usage{}, Claim: &contracts.Claim{Attempt: 2}}
	tests := []struct {
		name    string
		records []contracts.Chunk
		want    resume.Transcript
		broken  bool
	}{
		{name: "nothing"},
		{name: "claimed only", records: []contracts.Chunk{claim(1, 1)}, want: resume.Transcript{Last: 5, Fence: 1, Attempt: 1, Claimed: time.Unix(0, 0), History: []contracts.Claim{{Attempt: 1}}}},
		{name: "two holders, two choices", records: []contracts.Chunk{claim(1, 1), piece(1, 0, 0, "", 7, 8), claim(2, 3), piece(2, 1, 0, "stop", 9), piece(2, 0, 2, "", 6)},
			want: resume.Transcript{Last: 45, Fence: 2, Attempt: 3, Claimed: time.Unix(2, 0), First: time.Unix(1, 0), History: []contracts.Claim{{Attempt: 1}, {Attempt: 3}}, Choices: []resume.Choice{{Tokens: []int32{7, 8, 6}}, {Tokens: []int32{9}, Finish: "stop"}}}},
		{name: "a missing record", records: []contracts.Chunk{piece(1, 0, 4, "", 7)}, want: resume.Transcript{Last: 5, Fence: 1, Choices: []resume.Choice{{}}}, broken: true},
		{name: "a choice that cannot be", records: []contracts.Chunk{piece(1, 99, 0, "", 7)}, want: resume.Transcript{Last: 5, Fence: 1}, broken: true},
		{name: "a newer version", records: []contracts.Chunk{{V: 2}}, want: resume.Transcript{Last: 5}, broken: true},
		{name: "a newer version that is known in part", records: []contracts.Chunk{{V: 2, Fence: 7, Claim: &contracts.Claim{Attempt: 2}}, {V: 2, Fence: 7, Tokens: []int32{1}}, {V: 2, Fence: 7, Usage: &contracts.Usage{}}},
			want: resume.Transcript{Last: 25, Fence: 7, Attempt: 2, Claimed: time.Unix(0, 0), History: []contracts.Claim{{Attempt: 2}}, Final: &contracts.Chunk{V: 2, Fence: 7, Usage: &contracts.Usage{}}}, broken: true},
		{name: "finished", records: []contracts.Chunk{final}, want: resume.Transcript{Last: 5, Fence: 3, Attempt: 2, Claimed: time.Unix(0, 0), Final: &final}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := fold(t, tt.records...)
			if (got.Broken != nil) != tt.broken {
				t.Errorf("broken: %v, want %v", got.Broken, tt.broken)
			}
			got.Broken = nil
			if d := cmp.Diff(tt.want, *got, cmpopts.IgnoreFields(resume.Transcript{}, "Checksum")); d != "" {
				t.Errorf("transcript (-want +got):\n%s", d)
			}
		})
	}
}

// Who failed and who gave way is read from what the holders wrote, and from what the newest claim says of
// records that are no longer there.
func TestFailures(t *testing.T) {
	t.Parallel()
	said := contracts.Errorf(contracts.CodeInternal, "why")
	for _, tt := range []struct {
		name                string
		history             []contracts.Claim
		failures, preempted int
		unfit               int
		says                *contracts.Error
	}{
		{name: "nobody"},
		{name: "one that says nothing", history: []contracts.Claim{{}}, failures: 1},
		{name: "moves are no failures", history: []contracts.Claim{{}, {Released: contracts.ReleaseDrain}, {}, {Released: contracts.ReleasePreempt}}, preempted: 1},
		{name: "failed", history: []contracts.Claim{{}, {Released: contracts.ReleaseFailed}}, failures: 1, says: said},
		{name: "failed, then gone", history: []contracts.Claim{{}, {Released: contracts.ReleaseFailed}, {Failures: 1}}, failures: 2},
		{name: "too small", history: []contracts.Claim{{}, {Released: contracts.ReleaseUnfit}, {}, {Released: contracts.ReleaseUnfit}}, unfit: 2},
		{name: "too small, then one that it fitted, then too small", history: []contracts.Claim{{}, {Released: contracts.ReleaseUnfit}, {}, {Released: contracts.ReleaseDrain}, {}, {Released: contracts.ReleaseUnfit}}, unfit: 1},
		{name: "lost", history: []contracts.Claim{{}, {Released: contracts.ReleaseLost}}, failures: 1},
		{name: "each in turn", history: []contracts.Claim{{}, {}, {Failures: 1}, {Failures: 2, Released: contracts.ReleasePreempt}, {Failures: 2, Preempted: 1}, {Failures: 2, Preempted: 1, Released: contracts.ReleaseLost}}, failures: 3, preempted: 1},
		{name: "the beginning aged out", history: []contracts.Claim{{Failures: 2, Preempted: 3}, {Failures: 2, Preempted: 3, Released: contracts.ReleaseDrain}}, failures: 2, preempted: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var records []contracts.Chunk
			for _, c := range tt.history {
				r := contracts.Chunk{V: 1, Claim: &c}
				if c.Released == contracts.ReleaseFailed {
					r.Code, r.Message = said.Code, said.Message
				}
				records = append(records, r)
			}
			got := fold(t, records...)
			if got.Failures() != tt.failures || got.Preempted() != tt.preempted || got.Unfit() != tt.unfit || !cmp.Equal(got.Failure, tt.says) {
				t.Errorf("%d failures, preempted %d times, unfit %d times, says %v; want %d, %d, %d, %v", got.Failures(), got.Preempted(), got.Unfit(), got.Failure, tt.failures, tt.preempted, tt.unfit, tt.says)
			}
		})
	}
}

// Whatever is stored in a stream, folding it neither panics nor grows beyond what was stored.
func FuzzTranscript(f *testing.F) {
	good, err := contracts.Encode(&contracts.Chunk{V: 1, Fence: 1, Tokens: []int32{1, 2}, Text: "ab"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, good)
	f.Add([]byte("\xc1"), []byte{})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		tr := &resume.Transcript{}
		tr.Add(1, time.Time{}, a)
		tr.Add(2, time.Time{}, b)
		if tr.Last != 2 || tr.Tokens() > len(a)+len(b) || len(tr.Choices) > contracts.MaxChoices {
			t.Errorf("%d tokens in %d choices from %d bytes, last %d", tr.Tokens(), len(tr.Choices), len(a)+len(b), tr.Last)
		}
	})
}
