package scaler

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
)

// target is one dispatcher: a server's URL, and which of its name's addresses is meant; "" is any.
type target struct{ server, address string }

// addressKey carries a target's address to the dialer.
type addressKey struct{}

// pinned is a client like c that dials the address in a request's context. The name in the URL stays what
// TLS checks.
func pinned(c *http.Client) *http.Client {
	t, ok := c.Transport.(*http.Transport)
	if !ok {
		t = http.DefaultTransport.(*http.Transport)
	}
	t = t.Clone()
	t.Proxy, t.DisableKeepAlives = nil, true // a kept connection may lead to another of the name's addresses
	dial := new(net.Dialer).DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if own, ok := ctx.Value(addressKey{}).(string); ok {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			address = net.JoinHostPort(own, port)
		}
		return dial(ctx, network, address)
	}
	return &http.Client{Transport: t, Timeout: c.Timeout}
}

// targets are the dispatchers to ask: of each server one, or one for each address of its name.
func (w *Watch) targets(ctx context.Context) (out []target, err error) {
	for _, server := range w.cfg.Servers {
		if !w.cfg.Resolve {
			out = append(out, target{server: server})
			continue
		}
		u, err := url.Parse(server)
		if err != nil {
			return nil, err
		}
		addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
		if err != nil {
			return nil, err
		}
		slices.Sort(addresses)
		for _, a := range slices.Compact(addresses) {
			out = append(out, target{server, a})
		}
	}
	return out, nil
}
