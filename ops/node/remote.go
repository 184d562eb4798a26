package node

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/ops/auth"
)

// Remote says how to reach an external NATS server.
type Remote struct {
	URL   string // nats://host:port, several separated by commas
	Creds string // credentials file
	NKey  string // nkey seed file
	CA    string // file with the certificate authority of the server
}

// ErrBroker: the broker does not let this process in, or does not answer.
var ErrBroker = errors.New("broker")

// Connect makes one connection; more comes after the options that r needs.
func (r Remote) Connect(name string, more ...nats.Option) (*nats.Conn, error) {
	opts := connOptions(name)
	if r.Creds != "" {
		o, err := withCreds(r.Creds)
		if err != nil {
			return nil, err
		}
		opts = append(opts, o...)
	}
	if r.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(r.NKey)
		if err != nil {
			return nil, fmt.Errorf("nkey file %s: %w", r.NKey, err)
		}
		opts = append(opts, o)
	}
	if r.CA != "" {
		opts = append(opts, nats.RootCAs(r.CA))
	}
	nc, err := nats.Connect(r.URL, append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w: is it running, and are the credentials right?", ErrBroker, r.URL, err)
	}
	return nc, nil
}

// withCreds are the options of a connection with a credentials file. The file is read again at each
// reconnect, so that credentials are renewed by replacing it.
func withCreds(file string) ([]nats.Option, error) {
	inbox, err := auth.InboxOf(file)
	if err != nil {
		return nil, fmt.Errorf("credentials file %s: %w", file, err)
	}
	opts := []nats.Option{nats.UserCredentials(file)}
	if inbox != "" {
		opts = append(opts, nats.CustomInboxPrefix(inbox))
	}
	return opts, nil
}

// workerName is a name that no other process has or had.
func workerName(name string) string {
	if name == "" {
		host, err := os.Hostname()
		if err != nil || host == "" {
			host = "worker"
		}
		name, _, _ = strings.Cut(host, ".")
	}
	return name + "-" + uuid.NewString()[:8]
}
