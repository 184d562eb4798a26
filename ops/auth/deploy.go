package auth

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Folders that Deploy lays out beside those of the roles.
const (
	brokerFolder  = "nats"       // of NATS servers: whom they let in, their certificate
	gatewayFolder = "gateway"    // of a proxy before the HTTP doors: its certificate, key included
	metricsFolder = "prometheus" // of what reads /metrics: an operator's API key
)

// Deploy makes what is missing in keys, as [Secure] does, and lays out in dir one folder for each part of
// a fleet, with what that part needs and nothing else, so that each container is given one folder:
//
//	DIR/nats         server.conf and tls.conf to include, and the server's certificate
//	DIR/gateway      server.pem (certificate and key in one file), ca.pem
//	DIR/dispatcher   credentials, the certificate of the HTTP door, api-keys.json
//	DIR/ROLE         credentials and ca.pem (the keeper's stay with the keys); for producers also the first API key
//	DIR/prometheus   the first API key, ca.pem
//
// api-keys.json is written once: from then on the one in DIR/dispatcher is the fleet's. A first API key that
// was deleted in keys stays where it was laid out.
func Deploy(keys, dir string, hosts ...string) error {
	if len(hosts) == 0 {
		return errors.New("a certificate needs the names or addresses that clients use for the fleet")
	}
	d, err := Secure(keys, hosts...)
	if err != nil {
		return err
	}
	return errors.Join(d.deployBroker(dir), d.deployDoors(keys, dir), d.deployRoles(dir))
}

// names tells whether the certificate is for every one of hosts.
func (c Certs) names(hosts []string) bool {
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	for _, h := range hosts {
		if err == nil {
			err = pair.Leaf.VerifyHostname(h)
		}
	}
	return err == nil
}

func (d Doors) deployBroker(dir string) error {
	dir, err := filepath.Abs(filepath.Join(dir, brokerFolder))
	if err != nil {
		return err
	}
	certs := Certs{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server.key")}
	return errors.Join(
		place(dir, "server.conf", 0o644, d.Config()), place(dir, "ca.pem", 0o644, d.Certs.CA),
		place(dir, "server.key", 0o600, d.Certs.Key), place(dir, "server.pem", 0o644, d.Certs.Cert),
		writeFile(filepath.Join(dir, "tls.conf"), []byte(certs.include()), 0o644),
	)
}

func (d Doors) deployDoors(keys, dir string) error {
	at := func(folder string) string { return filepath.Join(dir, folder) }
	door := at(string(Dispatcher))
	errs := []error{
		place(at(gatewayFolder), "server.pem", 0o600, d.Certs.Cert, d.Certs.Key), place(at(gatewayFolder), "ca.pem", 0o644, d.Certs.CA),
		place(door, "server.key", 0o600, d.Certs.Key), place(door, "server.pem", 0o644, d.Certs.Cert),
		place(at(metricsFolder), "ca.pem", 0o644, d.Certs.CA),
	}
	if first := FirstKey(keys); !missing(first) { // once it is handed out it may be deleted
		errs = append(errs, place(at(metricsFolder), "api-key", 0o600, first), place(at(string(Producer)), "api-key", 0o600, first))
	}
	if missing(filepath.Join(door, "api-keys.json")) {
		errs = append(errs, place(door, "api-keys.json", 0o600, d.APIKeys))
	}
	return errors.Join(errs...)
}

func (d Doors) deployRoles(dir string) error {
	var errs []error
	for _, role := range Roles {
		if role == Keeper { // no part of a fleet
			continue
		}
		folder := filepath.Join(dir, string(role))
		errs = append(errs, place(folder, string(role)+".creds", 0o600, d.Creds(role)), place(folder, "ca.pem", 0o644, d.Certs.CA))
	}
	return errors.Join(errs...)
}

// place writes the contents of files, one after the other, to dir/name, unless they are there already:
// who watches the file is not woken for nothing.
func place(dir, name string, mode fs.FileMode, files ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("deploy %s: %w", filepath.Join(dir, name), err)
		}
		all = append(all, b...)
	}
	path := filepath.Join(dir, name)
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, all) {
		return nil
	}
	return writeFile(path, all, mode)
}
