package dispatcher

import (
	"time"

	"github.com/pelton-run/pelton/dispatcher/quota"
)

// Serving tells whether a live worker takes jobs of a model, given by name or alias; the empty name is
// the default model.
func (d *Dispatcher) Serving(model string) bool {
	m, err := d.catalog.Find(model)
	return err == nil && d.fleet.Offer(m.Name).Ready > 0
}

// Keeps is how long JOBS keeps a message, as far as the dispatcher knows; 0 before it looked.
func (d *Dispatcher) Keeps() time.Duration { return time.Duration(d.keeps.Load()) }

// SetClock makes the dispatcher believe that the broker's time is another.
func (d *Dispatcher) SetClock(broker time.Time) { d.clock.Tell(broker, time.Now()) }

// Uses is what a tenant has and used at all dispatchers, as far as this one knows.
func (d *Dispatcher) Uses(tenant string) quota.Use { return d.backlog.Days.Use(tenant, time.Now()) }
