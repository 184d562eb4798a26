package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/pelton-run/pelton/contracts"
)

// maxPayload is the largest message of the embedded broker: prompts of up to 4 MiB and their envelope.
const maxPayload = 8 << 20

// Broker is an embedded NATS server with JetStream on disk.
type Broker struct {
	srv  *server.Server
	lock *flock.Flock
	tls  bool
	dir  string
	full chan struct{} // closed when the disk was full
}

// BrokerConfig says how an embedded NATS server runs.
type BrokerConfig struct {
	Dir    string      // the streams are in Dir/jetstream; one broker owns it at a time
	Listen string      // address for clients, port 0 picks one; with "" only this process reaches it
	Auth   string      // configuration file that says who may connect; "" asks nobody, on loopback only
	TLS    *tls.Config // of the clients that come over the network; nil is none
	Log    *slog.Logger
}

// StartBroker starts a broker that lets every client on listen in.
func StartBroker(dir, listen string, log *slog.Logger) (*Broker, error) {
	return BrokerConfig{Dir: dir, Listen: listen, Log: log}.Start()
}

// own takes a data folder for this process.
func own(dir string) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(dir, "lock"))
	if ok, err := lock.TryLock(); err != nil {
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	} else if !ok {
		return nil, fmt.Errorf("data folder %s is in use by another pelton: stop it or choose another with --data", dir)
	}
	return lock, nil
}

// Free fails when a broker owns the data folder dir, so that nothing in it is changed for another one.
func Free(dir string) error {
	lock, err := own(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return lock.Unlock()
}

// Start starts a NATS server that keeps its streams on disk.
func (c BrokerConfig) Start() (*Broker, error) {
	dir, log := c.Dir, c.Log
	store := filepath.Join(dir, "jetstream")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := own(dir)
	if err != nil {
		return nil, err
	}
	opts, err := c.options(store)
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded broker: %w", err), lock.Unlock())
	}
	b := &Broker{srv: srv, lock: lock, tls: c.TLS != nil, dir: dir, full: make(chan struct{})}
	srv.SetLoggerV2(brokerLog{log, seldom(), sync.OnceFunc(func() { close(b.full) })}, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		srv.Shutdown()
		return nil, errors.Join(fmt.Errorf("embedded broker did not get ready: is %s free, and %s writable?", c.Listen, dir), lock.Unlock())
	}
	return b, nil
}

func (c BrokerConfig) options(store string) (*server.Options, error) {
	opts := &server.Options{}
	if err := opts.ProcessConfigFile(c.Auth); err != nil {
		return nil, fmt.Errorf("who may connect to the embedded broker: %w", err)
	}
	opts.ServerName, opts.StoreDir, opts.JetStream, opts.NoSigs, opts.NoLog = "pelton", store, true, true, true
	opts.MaxPayload, opts.DontListen, opts.DisableShortFirstPing = maxPayload, c.Listen == "", true
	opts.JetStreamMaxMemory, opts.JetStreamMaxStore, opts.SyncInterval = 256<<20, 16<<30, 10*time.Second
	if c.TLS != nil {
		opts.TLSConfig, opts.TLSTimeout = c.TLS, 5
	}
	if c.Listen == "" {
		return opts, nil
	}
	if err := Loopback(c.Listen); err != nil && c.Auth == "" {
		return nil, err
	}
	return opts, setListen(opts, c.Listen)
}

func setListen(opts *server.Options, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("broker address %q is not host:port: %w", listen, err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("broker port %q is not a number", port)
	}
	if n == 0 {
		n = server.RANDOM_PORT
	} else if probe, err := net.Listen("tcp", listen); err != nil {
		return fmt.Errorf("broker address %s: %w: stop what listens there or choose another with --nats", listen, err)
	} else {
		_ = probe.Close()
	}
	opts.Host, opts.Port = host, n
	return nil
}

// Loopback tells whether address (host:port) can be reached from this machine only; the error says
// what to do instead.
func Loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q is not host:port: %w", address, err)
	}
	if host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("address %s is reachable from other machines and nothing asks for credentials there: bind to 127.0.0.1, or use credentials (pelton up --secure; pelton dispatcher --api-keys FILE)", address)
}

// Connect makes a connection inside the process.
func (b *Broker) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append(append(connOptions(name), nats.InProcessServer(wires{b.srv})), opts...)...)
}

// URL is where clients reach the broker; "" when only this process does.
func (b *Broker) URL() string {
	a, ok := b.srv.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	scheme := "nats"
	if b.tls {
		scheme = "tls"
	}
	return (&url.URL{Scheme: scheme, Host: a.String()}).String()
}

// Run waits for ctx to end. An error says that the disk was full: a stream that could not be written takes nothing
// any more, also when there is room again, until the broker is started anew.
func (b *Broker) Run(ctx context.Context) error {
	select {
	case <-b.full:
		return contracts.Errorf(contracts.CodeUnavailable, "the disk of %s is full: make room, then start again; what was acknowledged is kept", b.dir)
	case <-ctx.Done():
		return nil
	}
}

// Shutdown stops the broker and waits until its streams are closed.
func (b *Broker) Shutdown() error {
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
	return b.lock.Unlock()
}

// connOptions are those that every connection of ours needs: it never gives up, notices a dead peer
// within seconds and does not send stale messages after an outage.
func connOptions(name string) []nats.Option {
	return []nats.Option{
		nats.Name(name), nats.Timeout(5 * time.Second), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second), nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(false),
	}
}

// brokerLog passes the server's warnings and errors on; its notices go to debug.
type brokerLog struct {
	log    *slog.Logger
	seldom *rate.Limiter // of warnings and errors
	full   func()        // called when the server says that its disk is full
}

func (l brokerLog) Noticef(f string, v ...any) { l.say(slog.LevelDebug, f, v) }
func (l brokerLog) Warnf(f string, v ...any)   { l.say(slog.LevelWarn, f, v) }
func (l brokerLog) Fatalf(f string, v ...any)  { l.say(slog.LevelError, f, v) }
func (l brokerLog) Errorf(f string, v ...any)  { l.say(slog.LevelError, f, v) }
func (l brokerLog) Debugf(f string, v ...any)  { l.say(slog.LevelDebug, f, v) }
func (l brokerLog) Tracef(string, ...any)      {}

func (l brokerLog) say(level slog.Level, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	if level < slog.LevelWarn || l.seldom.Allow() {
		l.log.Log(nil, level, "broker", "said", text) //nolint:staticcheck // the server has no context
	}
	if level >= slog.LevelWarn && strings.Contains(text, syscall.ENOSPC.Error()) {
		l.full()
	}
}
