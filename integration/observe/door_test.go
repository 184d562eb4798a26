package observe

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/pelton-run/pelton/ops/auth"
)

// door is a client of a secured fleet's HTTP door, and the operator's key.
func door(data string) (*http.Client, string, error) {
	key, err := os.ReadFile(auth.FirstKey(data))
	if err != nil {
		return nil, "", err
	}
	ca, err := os.ReadFile(auth.CertsIn(data).CA)
	if err != nil {
		return nil, "", err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, "", fmt.Errorf("no certificate in %s", auth.CertsIn(data).CA)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}, strings.TrimSpace(string(key)), nil
}
