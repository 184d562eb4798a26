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
// and a certificate for hosts, which is made anew when it ends within 30 days or lacks one of them.
// Several processes may do so at once.
func Secure(dir string, hosts ...string) (Doors, error) {
	unlock, err := lock(dir)
	if err != nil {
		return Doors{}, err
	}
	defer unlock()
	keys, err := makeAuthority(dir)
	if err != nil {
		return Doors{}, err
	}
	d := Doors{Authority: keys, Certs: CertsIn(dir), APIKeys: filepath.Join(dir, "creds", "api-keys.json")}
	if err := d.firstKey(dir); err != nil {
		return Doors{}, err
	}
	if d.Certs.ValidFor(renewBefore) && d.Certs.names(hosts) {
		return d, nil
	}
	return d, d.Certs.Certify(hosts...)
}

// firstKey makes the key that a new fleet begins with.
func (d Doors) firstKey(dir string) error {
	if !missing(d.APIKeys) {
		return nil
	}
	fresh := d.APIKeys + ".first"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that ended here
		return err
	}
	key, _, err := apikey.Add(fresh, "default", true, 0)
	if err != nil {
		return err
	}
	if err := WriteSecret(FirstKey(dir), []byte(key+"\n")); err != nil {
		return err
	}
	return os.Rename(fresh, d.APIKeys) // last, because where it is there nothing is made
}

// FirstKey is the file in which Secure leaves the operator's key of a new fleet.
func FirstKey(dir string) string { return filepath.Join(dir, "creds", "api-key") }
