package emit

import (
	"context"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Final appends the final record after Run has returned, and returns it. failure is nil for a job that
// ended as it should.
func (w *Writer) Final(ctx context.Context, failure *contracts.Error) (*contracts.Chunk, error) {
	completion, last := 0, 0
	for i, c := range w.choices {
		completion += c.written
		if !c.done {
			last = i
		}
	}
	for i, c := range w.choices[:last] { // after a failure several have text that was held back; the final record has room for one
		if text := c.rest(); !c.done && text != "" {
			w.append(ctx, c, &contracts.Chunk{Index: c.written, Choice: i, Text: text, Finish: FinishOf(failure.Code)})
		}
	}
	if w.broken {
		return nil, w.failure
	}
	end := &contracts.Chunk{Index: w.Index(), Choice: last, Claim: &w.cfg.Claim, Timings: w.timings()}
	end.Finish = w.choices[last].finish
	if c := w.choices[last]; !c.done { // else an earlier holder wrote everything but this record
		end.Text = c.rest()
	}
	if failure != nil {
		end.Finish = FinishOf(failure.Code)
		end.Code, end.Message = failure.Code, failure.Message
	}
	end.Usage = &contracts.Usage{PromptTokens: w.cfg.Prompt, CompletionTokens: completion, TotalTokens: w.cfg.Prompt + completion, CachedTokens: min(w.shared, w.cfg.Prompt)}
	w.cfg.Checksum.Add(end)
	end.Checksum = w.cfg.Checksum.Sum()
	return end, w.cfg.Log.Append(ctx, end)
}

// FinishOf is the finish reason of a final record with a code.
func FinishOf(code contracts.Code) string {
	switch code {
	case "":
		return contracts.FinishStop
	case contracts.CodeCanceled:
		return contracts.FinishCancelled
	}
	return contracts.FinishError
}

// timings are of this holder, but for the first token, which may be an earlier one's.
func (w *Writer) timings() *contracts.Timings {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &contracts.Timings{Queued: ms(w.sinceSubmit(w.cfg.Claimed))}
	if !w.prefilled.IsZero() {
		t.Prefill = ms(w.prefilled.Sub(w.cfg.Claimed))
		if w.lastToken.After(w.prefilled) {
			t.Decode = ms(w.lastToken.Sub(w.prefilled))
		}
	}
	if !w.firstAt.IsZero() {
		t.FirstToken = ms(w.sinceSubmit(w.firstAt))
	}
	return t
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
