package node

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
)

// Remote says how to reach an external NATS server.
type Remote struct {
	URL   string // nats://host:port, several separated by commas
	Creds string // credentials file
	NKey  string // nkey seed file
	CA    string // file with the certificate authority of the server
}

// Connect makes one connection.
func (r Remote) Connect(name string) (*nats.Conn, error) {
	opts := connOptions(name)
	if r.Creds != "" {
		opts = append(opts, nats.UserCredentials(r.Creds))
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
	nc, err := nats.Connect(r.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w: is it running, and are the credentials right?", r.URL, err)
	}
	return nc, nil
}

// defaultName is a worker name that no other process has.
func defaultName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "worker"
	}
	return strings.SplitN(host, ".", 2)[0] + "-" + uuid.NewString()[:8]
}
