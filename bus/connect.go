package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

// Reconnecting backs off between these bounds.
const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 8 * time.Second
)

// ConnectOptions say where to connect to, and as whom.
type ConnectOptions struct {
	// URL of the broker, or several, comma-separated. Not used with InProcess.
	URL string
	// Creds is a credentials file. It is read again at every attempt, so a
	// renewed file is taken without a restart.
	Creds string
	// CA is a file with the authorities whose certificates the broker may show;
	// "" means the machine's. Cert and Key are the files that the client shows
	// where the broker asks for a certificate. With any of them, or a URL of
	// tls://, nothing is said to a broker without TLS.
	CA, Cert, Key string
	// Name is shown in the broker's list of connections.
	Name string
	// Inbox is the prefix of reply subjects; "" means the client's own.
	Inbox string
	// InProcess connects to a broker in this process instead of to URL.
	InProcess nats.InProcessConnProvider
	// Logger is told about lost and remade connections. Nil discards.
	Logger *slog.Logger
	// PingInterval is how often the connection is tried when nothing else is
	// heard; two unanswered pings end it. 0 means 20 s.
	PingInterval time.Duration
	// RetryOnFailedConnect makes Connect succeed while the broker is away, and
	// go on trying in the background.
	RetryOnFailedConnect bool
	// Connected is called once, when the first connection stands; with
	// RetryOnFailedConnect that may be after Connect has returned.
	Connected func()
	// Disconnected is called when the connection is lost.
	Disconnected func()
	// Reconnected is called when it stands again, with all subscriptions
	// remade. What was published meanwhile by others is lost to core
	// subscriptions: re-read.
	Reconnected func()
}

// Connect connects to a broker and keeps connected for as long as the returned
// connection isn't closed: it tries for ever, backing off from 250 ms to 8 s
// with jitter, refused credentials included.
//
// While the connection is down nothing is kept to be sent later: publishing
// fails at once with nats.ErrReconnectBufExceeded, so that no write arrives
// after its writer was told, or has assumed, that it failed.
//
// Without RetryOnFailedConnect an unreachable broker is an error.
func Connect(o ConnectOptions) (*nats.Conn, error) {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	ping := o.PingInterval
	if ping == 0 {
		ping = 20 * time.Second
	}
	call := func(f func()) {
		if f != nil {
			f()
		}
	}
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(backoff),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(ping),
		nats.MaxPingsOutstanding(2),
		nats.RetryOnFailedConnect(o.RetryOnFailedConnect),
		nats.ConnectHandler(func(nc *nats.Conn) {
			logger.Debug("connected to the broker", "server", nc.ConnectedServerName())
			call(o.Connected)
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			// A connection that is closed on purpose is no news.
			if !nc.IsClosed() {
				logger.Warn("lost the broker", "err", err)
			}
			call(o.Disconnected)
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("reconnected to the broker", "server", nc.ConnectedServerName())
			call(o.Reconnected)
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			logger.Debug("the broker can't be reached", "err", err)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			attrs := []any{"err", err}
			if s != nil {
				attrs = append(attrs, "subject", s.Subject)
			}
			logger.Warn("the broker reports an error", attrs...)
		}),
	}
	url := o.URL
	if o.InProcess != nil {
		// The client wants one server to try, whatever its name.
		url = "nats://in-process"
		opts = append(opts, nats.InProcessServer(o.InProcess))
	}
	if url == "" {
		return nil, errors.New("connecting to the broker: no URL")
	}
	if o.Creds != "" {
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	if o.CA != "" {
		opts = append(opts, nats.RootCAs(o.CA))
	}
	if o.Cert != "" || o.Key != "" {
		opts = append(opts, nats.ClientCert(o.Cert, o.Key))
	}
	if o.Inbox != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.Inbox))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		if o.InProcess != nil {
			return nil, fmt.Errorf("connecting to the broker in this process: %w", err)
		}
		return nil, fmt.Errorf("connecting to %s: %w", url, err)
	}
	return nc, nil
}

// backoff is the pause after so many rounds of failed attempts: doubling, and
// drawn from its upper half, so that a fleet that lost its broker at one
// instant doesn't come back at one.
func backoff(rounds int) time.Duration {
	d := maxBackoff
	if n := max(rounds-1, 0); n < 16 {
		d = min(minBackoff<<n, maxBackoff)
	}
	return d/2 + rand.N(d/2+1)
}
