package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// overloadFlags say what a dispatcher refuses and who goes first.
func overloadFlags(c *cobra.Command) {
	f := c.Flags()
	f.String("admission", "deadline", "deadline: refuse what would be too late, hold what can wait and share fairly; fifo: queue everything as it comes")
	f.StringArray("objective", nil, "`CLASS=TIME` within which a class's first tokens are wanted, for example p0=200ms (repeatable); jobs that would miss it are refused")
	f.StringArray("reserve", nil, "`CLASS=SHARE` of the fleet that less urgent classes do not count on, for example p0=0.2 (repeatable)")
	f.StringArray("quota", nil, "`TENANT=LIMITS` such as acme=requests:60,tokens:100000,concurrent:8,daily:5000000: requests and tokens a minute, jobs at once, tokens a day (UTC), over all dispatchers; those of a minute are counted anew after a restart; tenant * is everybody else (repeatable)")
	f.StringArray("weight", nil, "`TENANT=WEIGHT` of a tenant's share among the tenants of a class; default 1 (repeatable)")
}

// overload reads what overloadFlags say.
func (a *app) overload() (backlog.Settings, error) {
	s := backlog.Settings{Objectives: admission.Objectives{}, Reserve: map[contracts.Class]float64{}, Weights: map[string]float64{}, Quotas: map[string]quota.Limits{}}
	switch v := a.settings.text("admission"); v {
	case "deadline":
	case "fifo":
		s.FIFO = true
	default:
		return s, usageError{fmt.Errorf("--admission %q: it is deadline or fifo", v)}
	}
	err := errors.Join(
		a.pairs("objective", func(name, value string) (err error) {
			s.Objectives[contracts.Class(name)], err = time.ParseDuration(value)
			return err
		}),
		a.pairs("reserve", func(name, value string) (err error) {
			s.Reserve[contracts.Class(name)], err = strconv.ParseFloat(value, 64)
			return err
		}),
		a.pairs("quota", func(name, value string) (err error) {
			s.Quotas[name], err = parseLimits(value)
			return err
		}),
		a.pairs("weight", func(name, value string) (err error) {
			s.Weights[name], err = strconv.ParseFloat(value, 64)
			return err
		}),
	)
	if err = errors.Join(err, s.Validate()); err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// parseLimits reads limits such as requests:60,tokens:100000.
func parseLimits(text string) (l quota.Limits, err error) {
	fields := map[string]*int{"requests": &l.Requests, "tokens": &l.Tokens, "concurrent": &l.Concurrent, "daily": &l.Daily}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, ":")
		n, err := strconv.Atoi(value)
		if fields[name] == nil || err != nil || n < 1 {
			return l, fmt.Errorf("%q: wanted requests, tokens, concurrent or daily, a colon and a number above 0", part)
		}
		*fields[name] = n
	}
	return l, nil
}

// pairs hands the NAME=VALUE of a repeatable flag to set.
func (a *app) pairs(flag string, set func(name, value string) error) error {
	var errs []error
	for _, pair := range a.settings.list(flag) {
		at := strings.LastIndex(pair, "=") // a tenant's name may hold one
		if at < 1 {
			errs = append(errs, fmt.Errorf("--%s %q: wanted NAME=VALUE", flag, pair))
			continue
		}
		if err := set(pair[:at], pair[at+1:]); err != nil {
			errs = append(errs, fmt.Errorf("--%s %q: %w", flag, pair, err))
		}
	}
	return errors.Join(errs...)
}
