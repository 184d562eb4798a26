package worker

import (
	"sync"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/grammar"
	"github.com/pelton-run/pelton/worker/emit"
)

// mostForms is how many instructions compiled response formats may have together, with a hundredth of the bytes of
// their texts: about 6 MB.
const mostForms = 1 << 16

// forms compiles response formats for a model, and keeps those that were used last.
type forms struct {
	vocabulary func() *grammar.Vocabulary

	mu   sync.Mutex
	kept map[string]*grammar.Grammar // by type and schema
	size int                         // of kept, as mostForms counts
}

// newForms is of a model whose answers end with ends. What its vocabulary needs is made when it is asked for first.
func newForms(words emit.Vocabulary, size int, ends []int32) *forms {
	return &forms{vocabulary: sync.OnceValue(func() *grammar.Vocabulary { return grammar.NewVocabulary(size, words.Text, ends) })}
}

// of is the grammar of a job's answers, nil if they may be any text.
func (f *forms) of(p *contracts.Params) (*grammar.Grammar, *contracts.Error) {
	if p.ResponseFormat == nil || p.ResponseFormat.Type == contracts.FormatText {
		return nil, nil
	}
	text := ""
	if s := p.ResponseFormat.Schema; s != nil {
		text = s.Schema
	}
	key := p.ResponseFormat.Type + text
	f.mu.Lock()
	g := f.kept[key]
	f.mu.Unlock()
	if g != nil {
		return g, nil
	}
	var err error
	if p.ResponseFormat.Type == contracts.FormatSchema { // without the lock: it may take a while, and others wait
		g, err = grammar.Schema(text)
	} else {
		g = grammar.Object()
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "the schema of response_format is %v", err)
	}
	if g, err = g.In(f.vocabulary()); err != nil {
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "response_format is %v: use another model, or leave it out", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	size := g.Size() + len(text)/100
	if f.size += size; f.kept == nil || f.size > mostForms {
		f.kept, f.size = map[string]*grammar.Grammar{}, size
	}
	f.kept[key] = g
	return g, nil
}
