package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// maxPayload is the largest message of the embedded broker: prompts of up to 4 MiB and their envelope.
const maxPayload = 8 << 20

// Broker is an embedded NATS server with JetStream on disk.
type Broker struct {
	srv  *server.Server
	lock *flock.Flock
}

// StartBroker starts a NATS server that keeps its streams in dir/jetstream. With listen it also
// accepts clients on that address ("127.0.0.1:4222"; port 0 picks one), which must be a loopback
// address because the embedded broker asks nobody for credentials; with "" only this process reaches
// it. One broker owns dir at a time.
func StartBroker(dir, listen string, log *slog.Logger) (*Broker, error) {
	store := filepath.Join(dir, "jetstream")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if ok, err := lock.TryLock(); err != nil {
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	} else if !ok {
		return nil, fmt.Errorf("data folder %s is in use by another pelton: stop it or choose another with --data", dir)
	}
	opts := &server.Options{
		ServerName: "pelton", StoreDir: store, JetStream: true, NoSigs: true, NoLog: true,
		MaxPayload: maxPayload, DontListen: listen == "", DisableShortFirstPing: true,
		JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 16 << 30,
		SyncInterval: 10 * time.Second,
	}
	if err := setListen(opts, listen); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded broker: %w", err), lock.Unlock())
	}
	srv.SetLoggerV2(brokerLog{log}, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		srv.Shutdown()
		return nil, errors.Join(fmt.Errorf("embedded broker did not get ready: is %s free, and %s writable?", listen, dir), lock.Unlock())
	}
	return &Broker{srv: srv, lock: lock}, nil
}

func setListen(opts *server.Options, listen string) error {
	if listen == "" {
		return nil
	}
	if err := Loopback(listen); err != nil {
		return err
	}
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
	return fmt.Errorf("address %s is reachable from other machines and nothing asks for credentials there: bind to 127.0.0.1, or run a NATS server with credentials and `pelton dispatcher` and `pelton worker` against it", address)
}

// Connect makes a connection inside the process.
func (b *Broker) Connect(name string) (*nats.Conn, error) {
	return nats.Connect("", append(connOptions(name), nats.InProcessServer(b.srv))...)
}

// URL is where clients reach the broker; "" when only this process does.
func (b *Broker) URL() string {
	a, ok := b.srv.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return (&url.URL{Scheme: "nats", Host: a.String()}).String()
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
		nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second), nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(false),
	}
}

// brokerLog passes the server's warnings and errors on; its notices go to debug.
type brokerLog struct{ log *slog.Logger }

func (l brokerLog) Noticef(f string, v ...any) { l.say(slog.LevelDebug, f, v) }
func (l brokerLog) Warnf(f string, v ...any)   { l.say(slog.LevelWarn, f, v) }
func (l brokerLog) Fatalf(f string, v ...any)  { l.say(slog.LevelError, f, v) }
func (l brokerLog) Errorf(f string, v ...any)  { l.say(slog.LevelError, f, v) }
func (l brokerLog) Debugf(f string, v ...any)  { l.say(slog.LevelDebug, f, v) }
func (l brokerLog) Tracef(string, ...any)      {}

func (l brokerLog) say(level slog.Level, format string, v []any) {
	l.log.Log(nil, level, "broker", "said", fmt.Sprintf(format, v...)) //nolint:staticcheck // the server has no context
}
