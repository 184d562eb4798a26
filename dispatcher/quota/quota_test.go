package quota_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func retry(t testing.TB, err error) time.Duration {
	t.Helper()
	var e *contracts.Error
	if !errors.As(err, &e) || e.Code != contracts.CodeQuotaExceeded {
		t.Fatalf("%v, want quota_exceeded", err)
	}
	return time.Duration(e.RetryAfterMS) * time.Millisecond
}

func TestLimits(t *testing.T) {
	t.Parallel()
	b := quota.NewBook(map[string]quota.Limits{
		"requests": {Requests: 60}, "tokens": {Tokens: 600}, "concurrent": {Concurrent: 1}, "daily": {Daily: 1000}, quota.Everybody: {Requests: 1},
	})
	jobs := 0
	take := func(tenant string, tokens int, now time.Time) error {
		err := b.Check(tenant, tokens, 1, quota.Use{Jobs: jobs}, now)
		if err == nil {
			b.Charge(tenant, 1, float64(tokens), now)
		}
		return err
	}
	for i := range 60 {
		if err := take("requests", 1, noon); err != nil {
			t.Fatalf("request %d of a burst of 60: %v", i, err)
		}
	}
	if wait := retry(t, take("requests", 1, noon)); wait != time.Second {
		t.Errorf("at 60 a minute the next one is told to wait %v, want 1 s", wait)
	}
	if err := take("requests", 1, noon.Add(time.Second)); err != nil {
		t.Errorf("after the time given: %v", err)
	}
	if r, tokens := b.States("requests", noon.Add(time.Second)); r.Limit != 60 || r.Remaining != 0 || r.Reset != time.Minute || tokens.Limit != 0 {
		t.Errorf("requests %+v and tokens %+v, want 0 of 60 for a minute and no limit", r, tokens)
	}
	if err := take("tokens", 600, noon); err != nil {
		t.Fatal(err)
	}
	if wait := retry(t, take("tokens", 100, noon)); wait != 10*time.Second {
		t.Errorf("100 tokens at 600 a minute are told to wait %v, want 10 s", wait)
	}
	b.Charge("tokens", 0, -500, noon) // the answer was shorter
	if err := take("tokens", 100, noon); err != nil {
		t.Errorf("after 500 were given back: %v", err)
	}
	if err := take("concurrent", 1, noon); err != nil {
		t.Fatal(err)
	}
	jobs = 1
	retry(t, take("concurrent", 1, noon))
	if err := b.Check("daily", 100, 1, quota.Use{Today: 900}, noon); err != nil {
		t.Fatal(err)
	}
	if wait := retry(t, b.Check("daily", 200, 1, quota.Use{Today: 900}, noon)); wait != 12*time.Hour {
		t.Errorf("at noon a tenant out of tokens is told to wait %v, want until midnight", wait)
	}
	if err := b.Check("daily", 2000, 1, quota.Use{}, noon); contracts.CodeOf(err) != contracts.CodeInvalidArgument {
		t.Errorf("more than a day's tokens: %v, want invalid_argument", err)
	}
	if err := take("other", 1, noon); err != nil {
		t.Fatal(err)
	}
	retry(t, take("other", 1, noon))
}

// Whatever is asked when: who comes back after the time given is let in, and over any time nobody gets more
// than a burst and the rate.
func TestRate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 100).Draw(t, "limit")
		b := quota.NewBook(map[string]quota.Limits{"a": {Tokens: limit}})
		now, got := noon, 0.0
		for range rapid.IntRange(1, 80).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
			n := rapid.IntRange(1, limit).Draw(t, "tokens")
			err := b.Check("a", n, 1, quota.Use{}, now)
			if e := new(contracts.Error); errors.As(err, &e) {
				now = now.Add(time.Duration(e.RetryAfterMS+1) * time.Millisecond)
				if err = b.Check("a", n, 1, quota.Use{}, now); err != nil {
					t.Fatalf("refused again after the time given: %v", err)
				}
			}
			b.Charge("a", 1, float64(n), now)
			got += float64(n)
			if most := float64(limit)*(1+now.Sub(noon).Minutes()) + 1e-6; got > most {
				t.Fatalf("%.0f tokens were let in after %v, at most %.1f are allowed", got, now.Sub(noon), most)
			}
		}
	})
}
