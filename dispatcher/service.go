package dispatcher

import (
	"fmt"

	"github.com/nats-io/nats.go/micro"

	"github.com/pelton-run/pelton/contracts"
)

// announce makes the dispatcher answer $SRV.PING, INFO and STATS as a NATS micro service, so that the
// ordinary tools (nats micro ls) find it. Jobs do not go through it.
func (d *Dispatcher) announce() (micro.Service, error) {
	s, err := micro.AddService(d.cfg.Conn, micro.Config{
		Name: "pelton-dispatcher", Version: fmt.Sprintf("%d.0.0", contracts.Version),
		Description: "admits jobs on submit.<tenant>, ends them on cancel.<tenant>.<job>, tells of them on status.<tenant>.<job>",
	})
	if err != nil {
		return nil, fmt.Errorf("announce the service: %w", err)
	}
	return s, nil
}
