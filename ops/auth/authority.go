package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/pelton-run/pelton/contracts/subject"
)

// Authority is a folder with the keys of a fleet. Its NATS servers trust one operator; the fleet is one
// account, with a signing key for each role:
//
//	DIR/auth/server.conf    what a NATS server includes: operator and accounts, nothing secret
//	DIR/auth/operator.jwt   the operator, as servers know it
//	DIR/auth/keys/*.nk      the secret keys, which only those need who issue credentials
//	DIR/creds/ROLE.creds    credentials of the fleet's own parts, and of the tenant "default"
type Authority struct{ dir string }

// Open is the Authority in dir, which Init has made.
func Open(dir string) (*Authority, error) {
	a := &Authority{dir}
	if _, err := os.Stat(a.Config()); err != nil {
		return nil, fmt.Errorf("no fleet's keys in %s: make them with pelton auth init: %w", dir, err)
	}
	return a, nil
}

// Init makes an Authority in dir, or brings the one there up to date: keys and credentials that exist
// stay as they are, and the roles get the rights of this version. Another process that does so in the same
// folder is waited for.
func Init(dir string) (*Authority, error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return makeAuthority(dir)
}

// lock keeps other processes from making keys in dir at the same time.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(dir, "auth"), 0o700); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(dir, "auth", ".lock"), flock.SetPermissions(0o600))
	if err := l.Lock(); err != nil {
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	return func() { _ = l.Unlock() }, nil
}

// makeAuthority is Init under the lock.
func makeAuthority(dir string) (*Authority, error) {
	a := &Authority{dir}
	for _, d := range []string{filepath.Join(dir, "auth", "keys"), filepath.Join(dir, "creds")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := a.writeConfig(); err != nil {
		return nil, fmt.Errorf("keys in %s: %w", dir, err)
	}
	for _, role := range Roles {
		if _, err := os.Stat(a.Creds(role)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		name := string(role)
		if role == Producer {
			name = "default"
		}
		if err := a.Write(a.Creds(role), role, name, 0); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Config is the file that NATS servers include.
func (a *Authority) Config() string { return filepath.Join(a.dir, "auth", "server.conf") }

// Creds is the file with the credentials that Init made for a role.
func (a *Authority) Creds(role Role) string {
	return filepath.Join(a.dir, "creds", string(role)+".creds")
}

// Issue makes new credentials: of a tenant called name for [Producer], else of a part of the fleet
// called so. They end after life; 0 is never. NATS servers need not be told of them.
func (a *Authority) Issue(role Role, name string, life time.Duration) ([]byte, error) {
	if _, known := rightsOf[role]; !known || name == "" {
		return nil, fmt.Errorf("credentials need a name and a role of %v, not %q and %q", Roles, name, role)
	}
	signer, err := a.key(string(role), nkeys.CreateAccount)
	if err != nil {
		return nil, err
	}
	account, err := a.public(accountOf(role), nkeys.CreateAccount)
	if err != nil {
		return nil, err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	id, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewUserClaims(id)
	claims.Name, claims.IssuerAccount = subject.Escape(name), account
	claims.Tags.Add("role:" + string(role))
	claims.UserPermissionLimits = jwt.UserPermissionLimits{} // the signing key's template says them
	if life > 0 {
		claims.Expires = time.Now().Add(life).Unix()
	}
	token, err := claims.Encode(signer)
	if err != nil {
		return nil, err
	}
	return jwt.FormatUserConfig(token, seed)
}

// Write issues credentials into a file, in place of those that were there.
func (a *Authority) Write(path string, role Role, name string, life time.Duration) error {
	creds, err := a.Issue(role, name, life)
	if err != nil {
		return err
	}
	return WriteSecret(path, creds)
}

// writeConfig signs operator and accounts anew and writes what servers include.
func (a *Authority) writeConfig() error {
	operator, err := a.key("operator", nkeys.CreateOperator)
	if err != nil {
		return err
	}
	system, err := a.public("system", nkeys.CreateAccount)
	if err != nil {
		return err
	}
	fleet, err := a.fleet()
	if err != nil {
		return err
	}
	trusted, err := a.operator(operator, system)
	if err != nil {
		return err
	}
	sc := jwt.NewAccountClaims(system)
	sc.Name = "SYS"
	if err := a.scopes(sc, Keeper); err != nil {
		return err
	}
	tokens := []any{trusted}
	for _, c := range []jwt.Claims{sc, fleet} {
		token, err := c.Encode(operator)
		if err != nil {
			return err
		}
		tokens = append(tokens, token)
	}
	config := fmt.Sprintf("# written by pelton auth init: who may connect to this NATS server\noperator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n  %s: %s\n  %s: %s\n}\n",
		tokens[0], system, system, tokens[1], fleet.Subject, tokens[2])
	return writeFile(a.Config(), []byte(config), 0o644)
}

// operator is whom servers trust. It is signed once: a server that runs takes no other, not even one
// that differs in its date alone.
func (a *Authority) operator(key nkeys.KeyPair, system string) (string, error) {
	path := filepath.Join(a.dir, "auth", "operator.jwt")
	if token, err := os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		return string(token), err
	}
	id, err := key.PublicKey()
	if err != nil {
		return "", err
	}
	c := jwt.NewOperatorClaims(id)
	c.Name, c.SystemAccount = "pelton", system
	token, err := c.Encode(key)
	if err != nil {
		return "", err
	}
	return token, writeFile(path, []byte(token), 0o644)
}

// fleet is the account of the fleet: JetStream without limits of its own, a signing key for each role.
func (a *Authority) fleet() (*jwt.AccountClaims, error) {
	id, err := a.public("account", nkeys.CreateAccount)
	if err != nil {
		return nil, err
	}
	c := jwt.NewAccountClaims(id)
	c.Name = "pelton"
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, MemoryStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	return c, a.scopes(c, slices.DeleteFunc(slices.Clone(Roles), func(r Role) bool { return r == Keeper })...)
}

// scopes lets the signing keys of roles issue credentials of an account, with the rights of the role.
func (a *Authority) scopes(c *jwt.AccountClaims, roles ...Role) (err error) {
	for _, role := range roles {
		scope := jwt.NewUserScope()
		if scope.Key, err = a.public(string(role), nkeys.CreateAccount); err != nil {
			return err
		}
		scope.Role, scope.Template.Permissions = string(role), permissions(role)
		c.SigningKeys.AddScopedSigner(scope)
	}
	return nil
}

// accountOf is the name of the key of the account that a role belongs to.
func accountOf(role Role) string {
	if role == Keeper {
		return "system"
	}
	return "account"
}

// key reads a secret key, or creates it.
func (a *Authority) key(name string, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, error) {
	path := filepath.Join(a.dir, "auth", "keys", name+".nk")
	seed, err := os.ReadFile(path)
	if err == nil {
		return nkeys.FromSeed(seed)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pair, err := create()
	if err != nil {
		return nil, err
	}
	if seed, err = pair.Seed(); err != nil {
		return nil, err
	}
	return pair, WriteSecret(path, seed)
}

func (a *Authority) public(name string, create func() (nkeys.KeyPair, error)) (string, error) {
	pair, err := a.key(name, create)
	if err != nil {
		return "", err
	}
	return pair.PublicKey()
}

// InboxOf is the prefix on which the holder of a credentials file must listen for answers; "" when
// the file is not one of an Authority.
func InboxOf(creds string) (string, error) {
	data, err := os.ReadFile(creds)
	if err != nil {
		return "", err
	}
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return "", err
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return "", err
	}
	name, err := subject.Unescape(claims.Name)
	if err != nil {
		return "", nil
	}
	for _, role := range Roles {
		if claims.Tags.Contains("role:" + string(role)) {
			return Inbox(role, name), nil
		}
	}
	return "", nil
}

// WriteSecret writes a file that only its owner reads, whole or not at all.
func WriteSecret(path string, data []byte) error { return writeFile(path, data, 0o600) }

func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
