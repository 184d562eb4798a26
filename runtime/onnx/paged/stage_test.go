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
	most := sizes{tokens: 100, sequences: 20, width: 4}
	size := g.staged.layout(most)
	g.staged.cut(make([]byte, size), most)
	in := &g.staged
	for i := range in.ids {
		in.ids[i] = -1 // what an earlier call left
	}
	rows := []row{
		{tokens: []int32{5}, held: 20, pages: []int32{3, 4, 7}, best: true},
		{tokens: []int32{6, 7, 8}, held: 0, pages: []int32{1}},
		{tokens: []int32{9}, held: 2, pages: []int32{2}, sample: true},
	}
	f, wanted := g.stage(rows, 0, spare)
	if want := (form{sequences: 4, extra: 16, width: 2}); f != want || wanted != (results{1, 1}) || rows[0].result != 1 || rows[2].result != 0 {
		t.Fatalf("form %+v, %+v wanted, in %d and %d; want %+v, one of each, the logits first", f, wanted, rows[0].result, rows[2].result, want)
	}
	for _, c := range []struct {
		what      string
		got, want []int32
	}{
		{"starts", in.starts[:5], []int32{0, 1, 4, 5, 20}},
		{"held", in.held[:4], []int32{20, 0, 2, 0}},
		{"pages", in.pages[:8], []int32{3, 4, 1, spare, 2, spare, spare, spare}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s %v, want %v", c.what, c.got, c.want)
		}
	}
	if want := []int64{4, 0, 0, 0}; !slices.Equal(in.sel[:4], want) {
		t.Errorf("sel %v, want %v", in.sel[:4], want)
	}
	if want := append([]int64{5, 6, 7, 8, 9}, make([]int64, 15)...); !slices.Equal(in.ids[:20], want) || in.ids[20] != -1 {
		t.Errorf("ids %v, want %v", in.ids[:21], want)
	}
}
