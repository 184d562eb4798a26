package admission

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Labels by which a producer says what may be done to its job when the fleet is overloaded.
const (
	LabelSLO      = "slo_ttft_ms" // milliseconds within which its first token is wanted
	LabelOverload = "on_overload" // demote, shorten, or both with a comma: what may be done rather than refuse it
)

// LabelParts is the label that says how many jobs one request became, when it is more than one. It is the only label
// that belongs to what a job asks: with more or fewer of them it is another request.
const LabelParts = "request_parts"

// Load is the fleet as a job finds it that is to be judged. The zero value knows nothing: then nothing
// is refused, and nothing is held.
type Load struct {
	Known   bool          // the times below are known
	Wait    time.Duration // until the job's prompt is fed, as far as it waits for others
	Prefill time.Duration // of its own prompt
	Token   time.Duration // each token after the first one
	Ahead   int           // jobs that go before it
	Output  int           // tokens its answer is expected to have; 0 is not known
	Margin  float64       // part of an objective that first tokens come later than predicted
	Hold    bool          // its class has enough in JOBS, or a job of its tenant is held already
}

// Objectives are how soon the first token of a job is wanted that does not say it itself. A class that is
// not here has none, and its jobs wait for as long as it takes.
type Objectives map[contracts.Class]time.Duration

// Verdict is what becomes of an admitted job.
type Verdict struct {
	Hold     bool          // it waits for its turn
	Position int           // jobs ahead of it
	First    time.Duration // until its first token, as predicted; 0 is not known
	End      time.Duration // until its last token
	Class    contracts.Class
	Tokens   int    // its max_tokens
	Changed  string // "demoted", "shortened" or ""
}

// minRetry is the least that a shed caller is told to wait.
const minRetry = 100 * time.Millisecond

// Judge decides what becomes of a job that could run: put into JOBS, held for its turn, demoted or
// shortened where its producer allowed it, or shed. loadOf tells what the job would find in a class. The
// error is a [*contracts.Error]:
//
//   - deadline_exceeded when even an idle fleet would be too late for its deadline;
//   - overloaded, with the time after which the backlog has drained so far that the job would make it.
func Judge(o Objectives, a *contracts.Admitted, now time.Time, loadOf func(contracts.Class) Load) (Verdict, error) {
	j := &a.Job
	allowed := j.Labels[LabelOverload]
	v, late := o.weigh(a, j.Class, *j.Params.MaxTokens, now, loadOf(j.Class))
	if late == nil {
		return v, nil
	}
	if late.tooLong && strings.Contains(allowed, "shorten") {
		if most := late.fits(*j.Params.MaxTokens); most > 0 {
			if w, still := o.weigh(a, j.Class, most, now, loadOf(j.Class)); still == nil {
				w.Changed = "shortened"
				return w, nil
			}
		}
	}
	if strings.Contains(allowed, "demote") {
		for _, c := range contracts.Classes {
			if c <= j.Class {
				continue
			}
			if w, still := o.weigh(a, c, *j.Params.MaxTokens, now, loadOf(c)); still == nil {
				w.Changed = "demoted"
				return w, nil
			}
		}
	}
	return v, late.err(j, now)
}

// late is why a job cannot be taken.
type late struct {
	by      time.Duration // how much too late it would be
	what    string        // its objective or its deadline
	never   bool          // also on an idle fleet
	tooLong bool          // its first token would be in time
	left    time.Duration // for the tokens after the first one
	token   time.Duration
}

// fits is how many tokens would be in time, fewer than most; 0 is none.
func (l *late) fits(most int) int {
	if l.token <= 0 || l.left < 0 {
		return 0
	}
	return min(most-1, 1+int(l.left/l.token))
}

func (l *late) err(j *contracts.Job, now time.Time) error {
	if l.never {
		return &contracts.Error{Code: contracts.CodeDeadlineExceeded, Param: "deadline",
			Message: fmt.Sprintf("the deadline is in %d ms, %d ms too soon even for an idle fleet: send a later one or ask for less", j.Deadline-now.UnixMilli(), l.by.Milliseconds())}
	}
	return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: retry(l.by, j.ID).Milliseconds(),
		Message: fmt.Sprintf("the fleet is overloaded: the job would miss its %s by %d ms: retry after the time given", l.what, l.by.Milliseconds())}
}

// retry spreads those who come back over a quarter of the time, so that they do not come back together.
func retry(by time.Duration, job string) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(job))
	by = max(by, minRetry)
	return by + time.Duration(float64(by)/4*float64(h.Sum32()%1024)/1024)
}

// weigh is the verdict on the job in a class with so many tokens, and why it would be late.
func (o Objectives) weigh(a *contracts.Admitted, class contracts.Class, tokens int, now time.Time, l Load) (Verdict, *late) {
	v := Verdict{Hold: l.Hold, Position: l.Ahead, Class: class, Tokens: tokens}
	if !l.Known {
		return v, nil
	}
	v.First = l.Wait + l.Prefill
	rest := time.Duration(0)
	if l.Output > 0 {
		rest = time.Duration(min(l.Output, tokens)-1) * l.Token
	}
	v.End = v.First + max(0, rest)
	want := o.Of(a, class)
	if by := v.First - time.Duration(float64(want)*(1-l.Margin)); want > 0 && l.Wait > 0 && by > 0 {
		return v, &late{by: by, what: "objective for the first token"}
	}
	if a.Job.Deadline == 0 {
		return v, nil
	}
	left := time.UnixMilli(a.Job.Deadline).Sub(now)
	idle := l.Prefill + max(0, rest)
	switch {
	case v.End <= left:
		return v, nil
	case idle > left:
		return v, &late{by: idle - left, what: "deadline", never: true, tooLong: l.Prefill < left, left: left - v.First, token: l.Token}
	}
	return v, &late{by: v.End - left, what: "deadline", tooLong: v.First < left, left: left - v.First, token: l.Token}
}

// Of is how soon the job's first token is wanted in a class, 0 for whenever.
func (o Objectives) Of(a *contracts.Admitted, class contracts.Class) time.Duration {
	own, err := strconv.ParseFloat(a.Job.Labels[LabelSLO], 64)
	if err == nil && own > 0 && own < 1e9 && class == a.Job.Class {
		return time.Duration(own * float64(time.Millisecond))
	}
	return o[class]
}
