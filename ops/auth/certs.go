package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Lifetimes of what Certify makes. A server's certificate is short, because renewing it costs nothing.
const (
	lifeOfAuthority = 10 * 365 * 24 * time.Hour
	lifeOfServer    = 90 * 24 * time.Hour
)

// Certs are the files of a TLS server: the certificate authority that clients trust, its secret key,
// the server's certificate and secret key, and the lines that name them to a NATS server.
type Certs struct{ CA, CAKey, Cert, Key, Config string }

// CertsIn names the files in dir/tls.
func CertsIn(dir string) Certs {
	at := func(name string) string { return filepath.Join(dir, "tls", name) }
	return Certs{CA: at("ca.pem"), CAKey: at("ca.key"), Cert: at("server.pem"), Key: at("server.key"), Config: at("tls.conf")}
}

// Certify writes a new server certificate for hosts (names and addresses), signed by the authority
// there, which it makes the first time. Servers of ours that run take it up by themselves, see [TLS]; a
// NATS server that includes Config does so when it is told to reload.
func (c Certs) Certify(hosts ...string) error {
	if len(hosts) == 0 {
		return errors.New("a certificate needs the names or addresses that clients use for the server")
	}
	if err := os.MkdirAll(filepath.Dir(c.CA), 0o700); err != nil {
		return err
	}
	// A key that has signed nothing is of a process that ended before it wrote the certificate.
	if missing(c.CA) && (missing(c.CAKey) || missing(c.Cert)) {
		root := &x509.Certificate{Subject: pkix.Name{CommonName: "pelton"}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, MaxPathLenZero: true}
		if err := sign(root, lifeOfAuthority, tls.Certificate{}, c.CA, c.CAKey); err != nil {
			return fmt.Errorf("certificate authority: %w", err)
		}
	}
	ca, err := tls.LoadX509KeyPair(c.CA, c.CAKey)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("certificate authority: %w: bring it back from a copy, or remove %s and %s for a new authority, whose certificate every client must get", err, c.CA, c.CAKey)
	}
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: hosts[0]}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}} // routes are both
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	if err := sign(leaf, lifeOfServer, ca, c.Cert, c.Key); err != nil {
		return err
	}
	config, err := c.absolute()
	if err != nil {
		return err
	}
	return writeFile(c.Config, []byte(config.include()), 0o644)
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// absolute is c with paths that hold in every folder.
func (c Certs) absolute() (Certs, error) {
	var errs [3]error
	c.CA, errs[0] = filepath.Abs(c.CA)
	c.Cert, errs[1] = filepath.Abs(c.Cert)
	c.Key, errs[2] = filepath.Abs(c.Key)
	return c, errors.Join(errs[:]...)
}

// include is what a NATS server reads of c.
func (c Certs) include() string {
	return fmt.Sprintf("# written by pelton auth: include it in the block tls { } of clients and of cluster { }\nca_file: %q\ncert_file: %q\nkey_file: %q\nmin_version: \"1.3\"\n", c.CA, c.Cert, c.Key)
}

// ValidFor tells whether there is a server certificate that lasts so much longer.
func (c Certs) ValidFor(d time.Duration) bool {
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	return err == nil && time.Now().Add(d).Before(pair.Leaf.NotAfter)
}

// sign makes a key and a certificate of it; without a parent it signs itself.
func sign(t *x509.Certificate, life time.Duration, parent tls.Certificate, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	t.NotBefore, t.NotAfter = time.Now().Add(-5*time.Minute), time.Now().Add(life) // clocks differ
	issuer, signer := t, any(key)
	if parent.PrivateKey != nil {
		issuer, signer = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := WriteSecret(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})); err != nil {
		return err
	}
	return writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// TLS is the configuration of a server with this certificate. Files that are replaced are taken up at
// the next handshake; until both match, the certificate before them stays.
func TLS(certFile, keyFile string) (*tls.Config, error) {
	k := &keeper{certFile: certFile, keyFile: keyFile}
	if _, err := k.certificate(nil); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certFile, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: k.certificate}, nil
}

// keeper holds the certificate that was read last.
type keeper struct {
	certFile, keyFile string

	mu   sync.Mutex
	cert *tls.Certificate
	read fs.FileInfo // of the certificate's file
}

func (k *keeper) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, err := os.Stat(k.certFile)
	if err == nil && k.read != nil && os.SameFile(now, k.read) && now.ModTime().Equal(k.read.ModTime()) {
		return k.cert, nil
	}
	if err == nil {
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(k.certFile, k.keyFile); err == nil {
			k.cert, k.read = &cert, now
		}
	}
	if k.cert == nil {
		return nil, err
	}
	return k.cert, nil
}
