package client

import (
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// Connect connects to the NATS servers at url (several separated by commas) as a long-lived producer
// needs it: it reconnects for ever, each 100 ms with up to 100 ms of jitter, notices a dead server
// within 6 s, and does not store what is published while away for later. opts come last and win, for
// example nats.UserCredentials(file), nats.RootCAs(file) or [Inbox].
//
// Errors that are handed to callers (denied subjects, slow readers) are not logged; others go to
// slog.Default. The caller closes the connection.
func Connect(url string, opts ...nats.Option) (*nats.Conn, error) {
	all := append([]nats.Option{
		nats.Name("pelton client"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(5 * time.Second),
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(logOthers),
	}, opts...)
	nc, err := nats.Connect(url, all...)
	switch {
	case err == nil:
		return nc, nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return nil, contracts.Errorf(contracts.CodeUnauthenticated, "NATS at %s refused the credentials: %v", url, err)
	}
	return nil, contracts.Errorf(contracts.CodeUnavailable, "cannot reach NATS at %s: %v: start it (pelton up) or correct the URL", url, err)
}

func logOthers(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrSlowConsumer) {
		return
	}
	slog.Default().Warn("nats connection", "error", err)
}

// Inbox makes a connection receive its answers under _INBOX_<tenant>, the only inbox that the
// credentials of a tenant's producers may subscribe to in a fleet with per-tenant permissions.
func Inbox(tenant string) nats.Option {
	return nats.CustomInboxPrefix("_INBOX_" + subject.Escape(tenant))
}
