package auth

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
)

// renewBefore is how long before its end a certificate is made anew.
const renewBefore = 30 * 24 * time.Hour

// Doors is all that a fleet in one process needs to ask who comes.
type Doors struct {
	*Authority
	Certs   Certs
	APIKeys string // file of the HTTP door's keys
}

// Secure makes what is missing in dir: credentials for all roles, an operator's key for the HTTP door,
// and a certificate for hosts, which is renewed when it ends within 30 days.
func Secure(dir string, hosts ...string) (Doors, error) {
	keys, err := Init(dir)
	if err != nil {
		return Doors{}, err
	}
	d := Doors{Authority: keys, Certs: CertsIn(dir), APIKeys: filepath.Join(dir, "creds", "api-keys.json")}
	if err := d.firstKey(dir); err != nil {
		return Doors{}, err
	}
	if d.Certs.ValidFor(renewBefore) {
		return d, nil
	}
	return d, d.Certs.Certify(hosts...)
}

// firstKey makes the key that a new fleet begins with.
func (d Doors) firstKey(dir string) error {
	if _, err := os.Stat(d.APIKeys); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, _, err := apikey.Add(d.APIKeys, "default", true, 0)
	if err != nil {
		return err
	}
	return WriteSecret(FirstKey(dir), []byte(key+"\n"))
}

// FirstKey is the file in which Secure leaves the operator's key of a new fleet.
func FirstKey(dir string) string { return filepath.Join(dir, "creds", "api-key") }
