package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/access"
)

const (
	// startTimeout bounds the recovery of the streams at the start: 20,000 keys
	// of 64 records take about 3 s without their index.
	startTimeout = 2 * time.Minute
	// stopTimeout bounds Shutdown.
	stopTimeout = 20 * time.Second
	// maxConnections is for 20,000 hosts that come back before the broker has
	// noticed that their old connections are dead, and room to grow.
	maxConnections = 100_000
	// tlsTimeout bounds a handshake: a fleet that comes back at once makes many.
	tlsTimeout = 10 * time.Second
	// maxPayload holds the largest record (1 MiB) and its header.
	maxPayload = 2 << 20
)

// Options say where the broker keeps its data and where it listens.
type Options struct {
	// Dir holds everything that is kept. It is made if need be.
	Dir string
	// Listen is host:port, on loopback unless there are Access and TLS; port 0
	// takes a free one. "" doesn't listen at all: clients connect through
	// InProcess.
	Listen string
	// Logger gets what the server logs: its notices at debug level, its
	// warnings and errors at theirs. Nil discards.
	Logger *slog.Logger
	// Name of the server; "" means "tsunami".
	Name string
	// Access is who may connect; nobody else may, from within the process
	// neither. Nil lets everybody in, on loopback.
	Access *access.Server
	// Adopt gives streams in Dir that were written without identities to the
	// account of Access.
	Adopt bool
	// TLS is for what listens. Beyond loopback it is required, as Access is.
	TLS *tls.Config
	// Unsynced leaves syncing to the operating system for up to two minutes. A
	// loss of power then loses acknowledged writes: for benchmarks and tests.
	Unsynced bool
}

// ErrHeld says that another process, or another Broker in this one, holds the
// directory.
var ErrHeld = errors.New("held by another running broker")

// Broker is a running embedded broker.
type Broker struct {
	options Options

	mu     sync.Mutex
	server *server.Server // nil while it is stopped
	lock   *os.File
	port   int    // as first resolved, so that a restart listens where it did
	unmend func() // stops what mends the running server
	closed bool   // by Shutdown
}

// Start starts a broker and returns when it takes connections and its streams
// are recovered. The error wraps ErrHeld where the directory is in
// use and ErrOthers where its streams would not be found; a port
// in use, a directory that can't be written and an address beyond loopback are
// errors that say so.
func Start(o Options) (*Broker, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "tsunami"
	}
	b := &Broker{options: o}
	if err := b.Restart(); err != nil {
		return nil, err
	}
	return b, nil
}

// Restart starts the broker again, on the same directory and port, after
// stopping it if it runs. Clients that connect through InProcess come back by
// themselves, as those do that connect through the port.
func (b *Broker) Restart() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop()
	b.closed = false
	if err := b.start(); err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	return nil
}

func (b *Broker) start() (err error) {
	opts, err := b.serverOptions()
	if err != nil {
		return err
	}
	lock, err := lockDir(b.options.Dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unlock(lock)
		}
	}()
	if err = adopt(b.options.Dir, b.options.Access, b.options.Adopt); err != nil {
		return err
	}
	if opts.JetStreamMaxStore, err = storeLimit(b.options.Dir); err != nil {
		return err
	}
	if !opts.DontListen {
		// The server would only say so in its log, and in its own words.
		probe, err := net.Listen("tcp", net.JoinHostPort(opts.Host, strconv.Itoa(max(opts.Port, 0))))
		if err != nil {
			return err
		}
		if err := probe.Close(); err != nil {
			return err
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	log := &logger{slog: b.options.Logger, fatal: make(chan string, 1), trouble: make(chan struct{}, 1)}
	s.SetLoggerV2(log, false, false, false)
	started := make(chan struct{})
	go func() {
		defer close(started)
		s.Start()
	}()
	if err := await(s, log.fatal); err != nil {
		s.Shutdown()
		<-started
		s.WaitForShutdown()
		return err
	}
	if addr, ok := s.Addr().(*net.TCPAddr); ok {
		b.port = addr.Port
	}
	b.server, b.lock = s, lock
	done := make(chan struct{})
	b.unmend = sync.OnceFunc(func() { close(done) })
	go b.mend(s, log, done)
	return nil
}

// mend looks after a server that logged an error. A full disk makes it switch
// JetStream off for good; then this waits until there is space and starts it
// again. Nothing that was acknowledged is lost by it.
func (b *Broker) mend(s *server.Server, log *logger, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-log.trouble:
		}
		for said := false; ; {
			select {
			case <-done:
				return
			case <-time.After(time.Second): // it logs the error first, then acts on it
			}
			if s.JetStreamEnabled() && !log.broken.Load() {
				break
			}
			free, enough, err := space(b.options.Dir)
			if !said {
				said = true
				b.options.Logger.Error("the broker can't write to its disk and takes nothing; it starts again when there is space",
					"dir", b.options.Dir, "free_bytes", free, "wanted_bytes", enough, "err", err)
			}
			if err != nil || free < enough {
				continue
			}
			b.options.Logger.Warn("the disk has space; the broker starts again", "dir", b.options.Dir, "free_bytes", free)
			b.replace(s)
			return // the new server has a mender of its own
		}
	}
}

// replace starts the broker again in the place of a server that can't go on,
// until that succeeds or somebody else has done it or shut the broker down.
func (b *Broker) replace(s *server.Server) {
	for broken := s; ; broken = nil {
		b.mu.Lock()
		if b.closed || b.server != broken {
			b.mu.Unlock()
			return
		}
		b.stop()
		err := b.start()
		b.mu.Unlock()
		if err == nil {
			return
		}
		b.options.Logger.Error("the broker doesn't start again; trying on", "err", err)
		time.Sleep(time.Second)
	}
}

// await returns when the server is ready, or why it won't be.
func await(s *server.Server, fatal <-chan string) error {
	for begun := time.Now(); time.Since(begun) < startTimeout; {
		ready := s.ReadyForConnections(100 * time.Millisecond)
		select {
		case reason := <-fatal:
			return errors.New(reason)
		default:
			if ready {
				return nil
			}
		}
	}
	return fmt.Errorf("it wasn't ready within %s", startTimeout)
}

func (b *Broker) serverOptions() (*server.Options, error) {
	o := &server.Options{
		ServerName:             b.options.Name,
		NoSigs:                 true, // else SIGINT ends the process at once
		JetStream:              true,
		StoreDir:               b.options.Dir,
		SyncAlways:             !b.options.Unsynced,
		MaxConn:                maxConnections,
		MaxPayload:             maxPayload,
		DisableJetStreamBanner: true,
		DontListen:             b.options.Listen == "",
	}
	if b.options.Access != nil {
		if err := trust(o, b.options.Access); err != nil {
			return nil, err
		}
	}
	if o.DontListen {
		return o, nil
	}
	host, port, err := net.SplitHostPort(b.options.Listen)
	if err != nil {
		return nil, fmt.Errorf("address to listen on: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		if b.options.Access == nil {
			return nil, fmt.Errorf("listening on %q: without identities the broker listens on loopback only, such as 127.0.0.1:%s", b.options.Listen, port)
		}
		if b.options.TLS == nil {
			return nil, fmt.Errorf("listening on %q: without TLS the broker listens on loopback only, such as 127.0.0.1:%s", b.options.Listen, port)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address to listen on: port %q: want 0 to 65535", port)
	}
	if b.options.TLS != nil {
		o.TLSConfig, o.TLS, o.TLSVerify, o.TLSTimeout = b.options.TLS, true, b.options.TLS.ClientAuth == tls.RequireAndVerifyClientCert, tlsTimeout.Seconds()
	}
	o.Host, o.Port = host, int(n)
	if o.Port == 0 {
		o.Port = b.port
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	return o, nil
}

// InProcess is for bus.ConnectOptions. It leads to whichever server runs at the
// moment of connecting, so it stays good over Restart.
func (b *Broker) InProcess() nats.InProcessConnProvider { return inProcess{b} }

type inProcess struct{ broker *Broker }

func (p inProcess) InProcessConn() (net.Conn, error) {
	p.broker.mu.Lock()
	s := p.broker.server
	p.broker.mu.Unlock()
	if s == nil {
		return nil, errors.New("the broker is stopped")
	}
	return s.InProcessConn()
}

// ClientURL is where other processes connect, "" where it doesn't listen.
func (b *Broker) ClientURL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.options.Listen == "" || b.server == nil {
		return ""
	}
	return b.server.ClientURL()
}

// Store is how many bytes the streams take, and how many they may. Both are 0
// while the broker doesn't run or can't write.
func (b *Broker) Store() (used, limit uint64) {
	b.mu.Lock()
	s := b.server
	b.mu.Unlock()
	if s == nil {
		return 0, 0
	}
	info, err := s.Jsz(nil)
	if err != nil || info.Disabled {
		return 0, 0
	}
	return info.Store, uint64(max(0, info.Config.MaxStore))
}

// Shutdown stops the broker and waits until everything is written and its
// goroutines are gone, for at most 20 s. Only then is the directory let go of.
// Stopping a stopped broker does nothing.
func (b *Broker) Shutdown() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.stop()
}

func (b *Broker) stop() {
	s := b.server
	if s == nil {
		return
	}
	b.server = nil
	b.unmend()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Shutdown()
		s.WaitForShutdown()
	}()
	select {
	case <-done:
		unlock(b.lock)
	case <-time.After(stopTimeout):
		// The lock stays: something may still be writing.
		b.options.Logger.Error("the broker didn't stop in time", "timeout", stopTimeout)
	}
}
