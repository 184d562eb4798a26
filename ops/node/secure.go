package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
	"github.com/pelton-run/pelton/ops/auth"
)

// Security says whom a process lets in. The zero value lets everybody in, and is for loopback only.
type Security struct {
	Authority *auth.Authority // of the embedded broker's clients; nil asks nobody
	APIKeys   string          // file with the HTTP door's keys; "" asks nobody
	Cert, Key string          // certificate files of the embedded broker and the HTTP door; "" is no TLS
	PlainHTTP bool            // TLS ends before the HTTP door
	Names     []string        // by which clients know this machine, beside addresses and localhost: a door without keys answers to no others
}

// startBroker starts the embedded broker. One that asks for credentials lets the dispatcher change no
// stream, so they are made first, by the provisioner.
func (n *Node) startBroker(ctx, run context.Context) error {
	cfg := BrokerConfig{Dir: n.cfg.Data, Listen: n.cfg.Listen, Log: n.cfg.Log}
	if n.cfg.Authority != nil {
		cfg.Auth = n.cfg.Authority.Config()
	}
	var err error
	if n.cfg.Cert != "" {
		if cfg.TLS, err = auth.TLS(n.cfg.Cert, n.cfg.Key); err != nil {
			return err
		}
	}
	if n.broker, err = cfg.Start(); err != nil {
		return err
	}
	n.goRun("broker", func() error { return n.broker.Run(run) })
	if n.cfg.Authority == nil {
		return nil
	}
	nc, err := n.connectAs(auth.Provisioner, "pelton provisioner")
	if err != nil {
		return err
	}
	defer nc.Close()
	var models []string
	for _, m := range n.cfg.Models {
		models = append(models, m.Name)
	}
	return Provision(ctx, nc, n.cfg.Topology, models...)
}

// Provision makes the broker's streams and consumers match the layout that models need.
func Provision(ctx context.Context, nc *nats.Conn, layout topology.Config, models ...string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := topology.Ensure(ctx, js, layout, models...); err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	return nil
}

// connectAs makes a connection with the rights of a role.
func (n *Node) connectAs(role auth.Role, name string) (*nats.Conn, error) {
	often := seldom()
	denied := nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if often.Allow() {
			n.cfg.Log.Warn("broker connection", "connection", name, "error", err)
		}
	})
	if n.broker == nil {
		return n.cfg.Remote.Connect(name, denied)
	}
	opts := []nats.Option{denied}
	if n.cfg.Authority != nil {
		creds, err := withCreds(n.cfg.Authority.Creds(role))
		if err != nil {
			return nil, err
		}
		opts = append(opts, creds...)
	}
	return n.broker.Connect(name, opts...)
}

// listen opens the HTTP door's address, for TLS when there is a certificate.
func (n *Node) listen() (net.Listener, error) {
	if err := Loopback(n.cfg.HTTP); err != nil && n.dispatcher != nil && n.cfg.APIKeys == "" {
		return nil, err
	}
	l, err := net.Listen("tcp", n.cfg.HTTP)
	if err != nil {
		return nil, fmt.Errorf("http address: %w: stop what listens there or choose another with --http", err)
	}
	if !n.cfg.HTTPS() {
		return l, nil
	}
	cfg, err := auth.TLS(n.cfg.Cert, n.cfg.Key)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	cfg.NextProtos = []string{"http/1.1"}
	return tls.NewListener(l, cfg), nil
}

// HTTPS tells whether the HTTP door speaks TLS.
func (c Config) HTTPS() bool { return c.Cert != "" && !c.PlainHTTP }

// guarded is the handler of the HTTP door, behind its keys when there are any.
func (n *Node) guarded() (handler http.Handler, err error) {
	if n.cfg.APIKeys == "" {
		if handler, err = n.handler(); err != nil || n.dispatcher == nil { // workers alone serve only probes and scrapes, by any name
			return handler, err
		}
		return localNames(n.cfg.Names, handler), nil
	}
	if n.keys, err = apikey.Open(n.cfg.APIKeys); err != nil {
		return nil, err
	}
	if handler, err = n.handler(); err != nil {
		return nil, err
	}
	return n.keys.Guard(handler), nil
}

// tenant says whom a request of the HTTP door belongs to; nil when nobody is asked.
func (n *Node) tenant() func(*http.Request) (string, error) {
	if n.keys == nil {
		return nil
	}
	return n.keys.Tenant
}

// localNames lets only requests through that name this machine by an address, as localhost or by one of names.
// The door asks for no keys, so what keeps a web page out is its origin; a page whose own name was made to point
// here (DNS rebinding) is of the origin that it asks, and only that name gives it away.
func localNames(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !local(r.Host, names) {
			gateway.Refuse(w, r, contracts.Errorf(contracts.CodePermissionDenied, "this server asks for no keys, so it answers only to addresses and localhost: call it by one of them, name this machine with --tls-host, or start it with --secure"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// local tells whether the header Host names this machine. No browser leaves it out.
func local(host string, names []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	_, err := netip.ParseAddr(host)
	return err == nil || host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, host) })
}
