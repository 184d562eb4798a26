package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/pelton-run/pelton/dispatcher/quota"
)

// limitsOf makes the answer say what the tenant has left, as the clients of OpenAI read it.
func (g *gateway) limitsOf(w http.ResponseWriter, tenant string) {
	rec, ours := w.(*recorder)
	if !ours {
		return
	}
	rec.begin = append(rec.begin, func(h http.Header) {
		requests, tokens := g.cfg.Jobs.Quota(tenant)
		for kind, s := range map[string]quota.State{"Requests": requests, "Tokens": tokens} {
			if s.Limit > 0 {
				h.Set("X-Ratelimit-Limit-"+kind, strconv.Itoa(s.Limit))
				h.Set("X-Ratelimit-Remaining-"+kind, strconv.Itoa(s.Remaining))
				h.Set("X-Ratelimit-Reset-"+kind, (time.Duration(math.Ceil(s.Reset.Seconds())) * time.Second).String())
			}
		}
	})
}

// timed makes the answer say how many milliseconds it took until it began, as the clients of OpenAI read it.
func timed(w http.ResponseWriter) {
	since := time.Now()
	if rec, ours := w.(*recorder); ours {
		rec.begin = append(rec.begin, func(h http.Header) {
			h.Set("Openai-Processing-Ms", strconv.FormatInt(time.Since(since).Milliseconds(), 10))
		})
	}
}
