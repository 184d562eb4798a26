package backlog

import (
	"errors"
	"fmt"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// Settings say what is refused and who goes first when more comes than the fleet can do. The zero value
// refuses only jobs that would miss a deadline, or an objective that they bring themselves, and shares
// evenly between tenants.
type Settings struct {
	FIFO       bool                        // nothing is judged or held: every job goes into JOBS as it comes
	Objectives admission.Objectives        // of the classes
	Reserve    map[contracts.Class]float64 // share of the fleet, 0 to 1, that less urgent classes do not count on
	Weights    map[string]float64          // of tenants, above 0; default 1
	Quotas     map[string]quota.Limits     // of tenants; those of [quota.Everybody] hold for all others
}

func (s Settings) weight(tenant string) float64 {
	if w := s.Weights[tenant]; w > 0 {
		return w
	}
	return 1
}

// Validate returns all problems of s at once.
func (s Settings) Validate() error {
	var errs []error
	reserved := 0.0
	for c, d := range s.Objectives {
		if !c.Valid() || d <= 0 {
			errs = append(errs, fmt.Errorf("objective of %q is %v: the classes are p0 to p3, the time must be above 0", c, d))
		}
	}
	for c, share := range s.Reserve {
		reserved += share
		if !c.Valid() || !(share >= 0 && share < 1) {
			errs = append(errs, fmt.Errorf("reserve of %q is %v: the classes are p0 to p3, the share is from 0 to below 1", c, share))
		}
	}
	if reserved >= 1 {
		errs = append(errs, fmt.Errorf("%v of the fleet is reserved, it must be below 1", reserved))
	}
	for tenant, w := range s.Weights {
		if !(w > 0 && w < 1e6) {
			errs = append(errs, fmt.Errorf("weight of tenant %q is %v: it must be above 0", tenant, w))
		}
	}
	for tenant, l := range s.Quotas {
		if err := l.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("quota of tenant %q: %w", tenant, err))
		}
	}
	return errors.Join(errs...)
}
