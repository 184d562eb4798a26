//go:build cgo && (linux || darwin)

package paged

import (
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/model"
)

// TestStage looks at what the device would get.
func TestStage(t *testing.T) {
	t.Parallel()
	const spare = 99
	g := &graph{shape: model.Shape{PageTokens: 16, ContextLength: 64}}
	_, size := layout(form{decoding: 20, others: 20, extra: 100, results: 20, width: 4})
	g.staged.bytes = make([]byte, size)
	for i := range g.staged.bytes {
		g.staged.bytes[i] = 0xff // what an earlier call left
	}
	in := &g.staged
	rows := []row{
		{tokens: []int32{6, 7, 8}, held: 5, pages: []int32{1}},
		{tokens: []int32{5}, held: 20, pages: []int32{3, 4, 7}, best: true},
		{tokens: []int32{9}, held: 2, pages: []int32{2}, sample: true},
		{tokens: []int32{1, 2}, pages: []int32{8}, sample: true},
		{tokens: []int32{4}, held: 1, pages: []int32{6}},
	}
	f, want := g.stage(rows, 0, spare)
	if f != (form{decoding: 4, others: 4, extra: 16, results: 8, width: 4}) || want != (wanted{2, 1}) {
		t.Fatalf("form %+v, %+v wanted", f, want)
	}
	if got := []int{rows[2].result, rows[3].result, rows[1].result}; !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("results in %v, want the logits first", got)
	}
	none := []int32{spare, spare, spare, spare}
	for _, c := range []struct {
		what      string
		got, want []int32
	}{
		{"tokens held by those that decode", in.decodingHeld, []int32{20, 2, 1, 0}},
		{"pages of those that decode", in.decodingPages, slices.Concat([]int32{3, 4, 7, spare, 2, spare, spare, spare, 6, spare, spare, spare}, none)},
		{"starts", in.starts, []int32{0, 3, 5, 16, 16}},
		{"held", in.held, []int32{5, 0, 0, 0}},
		{"pages", in.pages, slices.Concat([]int32{1, spare, spare, spare, 8, spare, spare, spare}, none, none)},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s %v, want %v", c.what, c.got, c.want)
		}
	}
	if want := append([]int64{5, 9, 4, 0, 6, 7, 8, 1, 2}, make([]int64, 11)...); !slices.Equal(in.ids, want) {
		t.Errorf("ids %v, want %v", in.ids, want)
	}
	if want := []int64{1, 8, 0, 0, 0, 0, 0, 0}; !slices.Equal(in.sel, want) {
		t.Errorf("sel %v, want %v", in.sel, want)
	}
}

func TestNewEnough(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"1.31.0": true, "1.31.1": true, "1.40.0": true, "2.0.0": true, "1.24.4": false, "0.99.0": false, "": false, "dev": false} {
		if err := newEnough(version); (err == nil) != want {
			t.Errorf("version %q: %v", version, err)
		}
	}
}
