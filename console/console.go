package console

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Bounds of the server. A request is two short reads from the broker at most,
// so whatever takes longer is stuck or hostile.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	requestTimeout    = 5 * time.Second // of the broker's answers to one request
	shutdownTimeout   = 3 * time.Second
	maxHeaderBytes    = 16 << 10
	maxBodyBytes      = 64 << 10
)

// Options configure the console.
type Options struct {
	// Listener is where it serves; see Listen. Run closes it.
	Listener net.Listener
	// TLS is what it serves with; nil: plain HTTP. Client certificates name
	// whoever shows one where it asks for them and verifies them.
	TLS *tls.Config
	// Authority says who is known; nil: there are no identities, and everybody
	// sees everything.
	Authority func() *access.Authority
	// Enrolment lets hosts join by token; nil: they can't. It needs Authority.
	Enrolment *Enrolment
	// Alerting lets Alertmanager say what fires; nil: it can't.
	Alerting *Alerting
	// Conn is the connection to the broker. It need not be up yet.
	Conn *nats.Conn
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Registerer takes the console's own metrics; nil: none are kept.
	Registerer prometheus.Registerer
	// Ready says why the process can't serve, or nil. It is asked by /readyz
	// and has to return when ctx ends.
	Ready func(ctx context.Context) error
	// Logger must not be nil.
	Logger *slog.Logger
}

// Listen opens a TCP listener on a host:port for Run. Where it isn't guarded by
// identities and TLS it returns an error for an address beyond loopback: whoever
// reaches the port could read every host's desired state, or somebody's token.
func Listen(addr string, guarded bool) (net.Listener, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("http address %q: %w: want host:port, such as 127.0.0.1:8422", addr, err)
	}
	if err := loopbackOnly(a); err != nil && !guarded {
		return nil, err
	}
	l, err := net.ListenTCP("tcp", a)
	if err != nil {
		return nil, fmt.Errorf("http address %q: %w", addr, err)
	}
	return l, nil
}

func loopbackOnly(a net.Addr) error {
	if t, ok := a.(*net.TCPAddr); ok && !t.IP.IsLoopback() {
		return fmt.Errorf("http address %s isn't on loopback: without identities and TLS it may only be 127.0.0.1, ::1 or localhost", a)
	}
	return nil
}

// Run serves until ctx ends, then lets requests under way finish for a few
// seconds. It returns an error if the listener is beyond loopback, without
// identities and TLS, or breaks, and nil when ctx ended.
func Run(ctx context.Context, o Options) error {
	if err := loopbackOnly(o.Listener.Addr()); err != nil && (o.TLS == nil || o.Authority == nil) {
		return errors.Join(err, o.Listener.Close())
	}
	handler, err := newHandler(o)
	if err != nil {
		return errors.Join(err, o.Listener.Close())
	}
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         o.TLS.Clone(), // it is written to, and the caller's may be the broker's too
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug), // broken clients
	}
	served := make(chan error, 1)
	go func() {
		if o.TLS != nil {
			served <- server.ServeTLS(o.Listener, "", "") // the files are the configuration's affair
		} else {
			served <- server.Serve(o.Listener)
		}
	}()

	select {
	case err := <-served:
		return fmt.Errorf("serving http on %s: %w", o.Listener.Addr(), err)
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(bound); err != nil {
		o.Logger.Warn("http requests were cut off", "err", err)
		_ = server.Close() // what it would report was closed by Shutdown already
	}
	<-served
	return nil
}

// newHandler makes the whole of the server's handler.
func newHandler(o Options) (http.Handler, error) {
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, fmt.Errorf("console: jetstream: %w", err)
	}
	d := &desired{conn: o.Conn, js: js, logger: o.Logger, served: map[rollout.Host]uint64{}}
	g := &gate{o.Authority}
	m := newRequestMetrics(o.Registerer)
	mux := http.NewServeMux()
	mux.Handle("/v1/hosts/{host}/desired", m.instrument("desired", reading(g.own(d))))
	mux.Handle("/metrics", m.instrument("metrics", reading(g.viewers(metricsHandler(o.Gatherer)))))
	mux.Handle("/healthz", m.instrument("healthz", reading(http.HandlerFunc(healthz))))
	mux.Handle("/readyz", m.instrument("readyz", reading(g.readyz(o.Ready))))
	mux.Handle("/", m.instrument("other", http.HandlerFunc(elsewhere)))
	if o.Enrolment != nil {
		mux.Handle(subjects.JoinPath, m.instrument("join", newJoining(o)))
	}
	all := http.NewServeMux()
	all.Handle("/", http.MaxBytesHandler(mux, maxBodyBytes))
	if o.Alerting != nil {
		all.Handle(alertsPath, m.instrument("alerts", g.alerters(newAlerting(o)))) // it bounds its own body
	}
	return secured(all), nil
}

// secured sets the headers that every answer carries.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// reading lets GET and HEAD through and bounds the time that they take.
func reading(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "usage", fmt.Sprintf("%s isn't allowed here: want GET or HEAD", clip(r.Method)))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func healthz(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") }

// readyz tells everybody whether, and viewers why not.
func (g *gate) readyz(ready func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := ready(r.Context())
		c, _ := g.who(r, time.Now()) // a stranger is nobody
		switch {
		case err == nil:
			plain(w, http.StatusOK, "ready")
		case c.all:
			plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		default:
			plain(w, http.StatusServiceUnavailable, "not ready")
		}
	})
}

// elsewhere answers for every path that isn't one of the server's.
func elsewhere(w http.ResponseWriter, r *http.Request) {
	fail(w, http.StatusNotFound, "not_found",
		fmt.Sprintf("there is nothing at %q: want /v1/hosts/<host>/desired, /metrics, /healthz or /readyz", clip(r.URL.Path)))
}
