package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
)

// secureFlags say whom `up` lets in.
func secureFlags(c *cobra.Command) {
	f := c.Flags()
	f.Bool("secure", false, "ask for credentials and use TLS on loopback too; elsewhere that is always so")
	f.StringArray("tls-host", nil, "`name` or address that clients use for this machine (repeatable)")
	f.Bool("plain-http", false, "no TLS on the HTTP door, because a proxy in front of it ends TLS")
	doorFlags(c)
}

// doorFlags are the certificate of a process's own doors.
func doorFlags(c *cobra.Command) {
	c.Flags().String("tls-cert", "", "certificate `file`; replaced files are taken up while it runs")
	c.Flags().String("tls-key", "", "secret key `file` of the certificate")
}

func (a *app) doorCert() (node.Security, error) {
	s := node.Security{Cert: a.settings.text("tls-cert"), Key: a.settings.text("tls-key"), PlainHTTP: a.settings.yes("plain-http")}
	if (s.Cert == "") != (s.Key == "") {
		return s, usageError{errors.New("--tls-cert and --tls-key belong together")}
	}
	return s, nil
}

// security is whom `up` lets in: everybody as long as only this machine reaches it, else those with
// credentials, which it makes when there are none.
func (a *app) security() (node.Security, error) {
	s, err := a.doorCert()
	if err != nil {
		return s, err
	}
	open := !a.settings.yes("secure")
	for _, name := range []string{"http", "nats"} {
		if _, _, err := net.SplitHostPort(a.address(name)); err != nil {
			return s, usageError{fmt.Errorf("--%s is not host:port: %w", name, err)}
		}
		open = open && node.Loopback(a.address(name)) == nil
	}
	if open {
		s.Names = a.settings.list("tls-host")
		return s, nil
	}
	if err := node.Free(a.settings.text("data")); err != nil { // or the certificate of the fleet that runs there would change
		return s, err
	}
	doors, err := auth.Secure(a.settings.text("data"), a.hosts()...)
	if err != nil {
		return s, err
	}
	s.Authority, s.APIKeys = doors.Authority, doors.APIKeys
	if s.Cert == "" {
		s.Cert, s.Key = doors.Certs.Cert, doors.Certs.Key
	}
	return s, nil
}

// address is the host:port of a flag of up. That of the broker may be the URL by which one PELTON_NATS or
// configuration file says to other commands where the same broker is.
func (a *app) address(name string) string {
	text := a.settings.text(name)
	if scheme, rest, ok := strings.Cut(text, "://"); ok && name == "nats" && (scheme == "nats" || scheme == "tls") {
		return strings.TrimSuffix(rest, "/")
	}
	return text
}

// hosts are the names by which clients may know this machine.
func (a *app) hosts() []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	for _, name := range []string{"http", "nats"} {
		host, _, _ := net.SplitHostPort(a.address(name))
		if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
			hosts = append(hosts, host)
		}
	}
	return append(hosts, a.settings.list("tls-host")...)
}

// saySecurity prints where the credentials are, and returns what a curl needs to be let in.
func (a *app) saySecurity(cfg node.Config) (curl string) {
	if cfg.Authority == nil {
		return ""
	}
	for _, role := range []auth.Role{auth.Worker, auth.Producer} {
		fmt.Fprintf(a.out, "creds %s\n", cfg.Authority.Creds(role))
	}
	if certs := auth.CertsIn(cfg.Data); cfg.Cert == certs.Cert {
		fmt.Fprintf(a.out, "ca    %s\n", certs.CA)
		if !cfg.PlainHTTP {
			curl = "--cacert " + certs.CA + " "
		}
	}
	fmt.Fprintf(a.out, "key   %s\n", auth.FirstKey(cfg.Data))
	return curl + `-H "Authorization: Bearer $(cat ` + auth.FirstKey(cfg.Data) + `)" `
}

// httpClient is what asks the HTTP door: it knows the certificate authority of --tls-ca.
func (a *app) httpClient() (*http.Client, error) {
	file := a.settings.text("tls-ca")
	if file == "" {
		return http.DefaultClient, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("--tls-ca: %w", err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, usageError{fmt.Errorf("--tls-ca %s: no certificate in it", file)}
	}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool}}}, nil
}

// apiKey is the key for the HTTP door, from PELTON_API_KEY or the file of PELTON_API_KEY_FILE: a secret
// is not for a command line, which every user of the machine can read.
func apiKey() (string, error) {
	if key := os.Getenv("PELTON_API_KEY"); key != "" {
		return key, nil
	}
	file := os.Getenv("PELTON_API_KEY_FILE")
	if file == "" {
		return "", nil
	}
	key, err := os.ReadFile(file)
	if err != nil {
		return "", usageError{fmt.Errorf("PELTON_API_KEY_FILE: %w", err)}
	}
	return strings.TrimSpace(string(key)), nil
}
