package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/version"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/console"
	"github.com/tsunami-rollouts/tsunami/promql"
	"github.com/tsunami-rollouts/tsunami/scheduler"
	"github.com/tsunami-rollouts/tsunami/sloguard"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Stopping is bounded: everything together, and each thing within that.
const (
	stopTimeout    = 9 * time.Second
	partTimeout    = 4 * time.Second
	brokerTimeout  = 6 * time.Second
	setupPause     = 2 * time.Second // between attempts to reach an external broker
	setupAttempt   = 10 * time.Second
	connectionTime = time.Second // to close a connection

	// readyTimeout is what a healthy broker needs at the very most to answer.
	readyTimeout = 2 * time.Second
)

// daemon is what runs in one process.
type daemon struct {
	config   config
	logger   *slog.Logger
	registry *prometheus.Registry
	broker   *broker.Broker // nil with an external one
	http     net.Listener   // nil without a console
	trust    *trust         // nil without identities
	tls      *tls.Config    // of what listens; nil without
	// streams is closed when the streams are there and as they must be.
	streams chan struct{}
	// failed gets the error of every part that ended by itself. It is never
	// closed.
	failed chan error

	mu   sync.Mutex
	undo []undo
}

// undo stops one thing that was started.
type undo struct {
	name  string
	bound time.Duration
	stop  func()
}

// start brings everything up: what listens first, so that a port in use is an
// error before anything was changed. It doesn't wait for an external broker
// that is away; the parts do. On an error everything is stopped again.
func start(ctx context.Context, c config) (_ *daemon, err error) {
	d := &daemon{
		config: c, logger: c.logger, registry: newRegistry(),
		streams: make(chan struct{}), failed: make(chan error, len(allParts)+1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	if c.access != "" {
		if d.trust, err = loadTrust(c.access); err != nil {
			return nil, err
		}
	}
	if c.tlsCert != "" {
		if d.tls, err = serverTLS(c.tlsCert, c.tlsKey, c.tlsClientCA, c.logger); err != nil {
			return nil, err
		}
		registerCertificate(d.registry, d.tls)
	}
	if c.runs(partConsole) {
		if d.http, err = console.Listen(c.http, c.guarded()); err != nil {
			return nil, err
		}
		d.onStop("http listener", connectionTime, func() { _ = d.http.Close() }) // closed already where the console ran
	}
	if c.runs(partBroker) {
		o := broker.Options{Dir: c.data, Listen: c.listen, Logger: c.logger.With("part", partBroker), Name: "tsunamid", TLS: d.tls}
		if d.trust != nil {
			o.Access, o.Adopt = d.trust.server.Load(), c.adopt
		}
		if d.broker, err = broker.Start(o); err != nil {
			return nil, err
		}
		d.onStop(partBroker, brokerTimeout, d.broker.Shutdown)
		registerStore(d.registry, d.broker)
	}
	if d.trust != nil {
		d.goPart(ctx, "access", d.watchTrust)
	}
	if c.runs(partBroker) || c.runs(partScheduler) {
		if err := d.startSetup(ctx); err != nil {
			return nil, err
		}
	} else {
		close(d.streams) // another process's affair; the console reads what is there
	}
	if c.runs(partConsole) {
		if err := d.startConsole(ctx); err != nil {
			return nil, err
		}
	}
	if c.runs(partScheduler) {
		if err := d.startScheduler(ctx); err != nil {
			return nil, err
		}
	}
	if c.runs(partSloguard) {
		if err := d.startSloguard(ctx); err != nil {
			return nil, err
		}
	}
	if c.runs(partNotify) {
		if err := d.startNotify(ctx); err != nil {
			return nil, err
		}
	}
	d.logger.Info("tsunamid is up", d.whereabouts()...)
	return d, nil
}

// whereabouts says where what listens.
func (d *daemon) whereabouts() []any {
	at := []any{"parts", strings.Join(d.config.parts, ","), "broker", d.brokerURL()}
	if d.broker != nil {
		at = append(at, "data", d.config.data)
	}
	if d.http != nil {
		at = append(at, "http", d.httpURL())
	}
	return append(at, "version", version.Info())
}

func (d *daemon) brokerURL() string {
	if d.broker != nil {
		return d.broker.ClientURL()
	}
	return redacted(d.config.nats)
}

func (d *daemon) httpURL() string {
	if d.tls != nil {
		return "https://" + d.http.Addr().String()
	}
	return "http://" + d.http.Addr().String()
}

// watchTrust gives the broker in this process, where there is one, what changes
// in the access directory. An external one has to be told by tsunamictl.
func (d *daemon) watchTrust(ctx context.Context) error {
	return d.trust.watch(ctx, d.logger, func(s *access.Server) error {
		if d.broker == nil {
			return nil
		}
		return d.broker.SetAccess(s)
	})
}

// authority is who is known, nil without identities.
func (d *daemon) authority() func() *access.Authority {
	if d.trust == nil {
		return nil
	}
	return d.trust.authority.Load
}

// onStop registers what undoes something that was just done.
func (d *daemon) onStop(name string, bound time.Duration, stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.undo = append(d.undo, undo{name, bound, stop})
}

// stop undoes everything, the last thing first, and gives up waiting for what
// doesn't end in time. The error names it. Stopping twice does nothing more.
func (d *daemon) stop() error {
	d.mu.Lock()
	all := d.undo
	d.undo = nil
	d.mu.Unlock()
	deadline := time.Now().Add(stopTimeout)
	var errs []error
	for _, u := range slices.Backward(all) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			u.stop()
		}()
		bound := min(u.bound, time.Until(deadline))
		select {
		case <-done:
		case <-time.After(bound):
			errs = append(errs, fmt.Errorf("%s didn't stop within %s", u.name, bound.Round(time.Millisecond)))
		}
	}
	return errors.Join(errs...)
}

// goPart runs a part until stop. One that ends before, with an error or
// without, has failed.
func (d *daemon) goPart(ctx context.Context, name string, run func(ctx context.Context) error) {
	// The parts aren't stopped by the end of ctx itself, but one by one.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := run(ctx)
		if ctx.Err() == nil {
			d.failed <- fmt.Errorf("%s: %w", name, cmp.Or(err, errors.New("ended by itself")))
		} else if err != nil {
			d.logger.Warn("a part didn't stop cleanly", "part", name, "err", err)
		}
	}()
	d.onStop(name, partTimeout, func() {
		cancel()
		<-done
	})
}

// connect makes a connection of its own for a part, so that the broker's list
// of connections shows them apart.
func (d *daemon) connect(part string) (*nats.Conn, jetstream.JetStream, error) {
	return d.connectAs(part, part)
}

// connectAs is connect for a part that has another's identity.
func (d *daemon) connectAs(part, identity string) (*nats.Conn, jetstream.JetStream, error) {
	o := bus.ConnectOptions{Name: "tsunamid " + part, Logger: d.logger.With("part", part)}
	if d.broker != nil {
		o.InProcess = d.broker.InProcess()
	} else {
		o.URL, o.Creds, o.CA, o.RetryOnFailedConnect = d.config.nats, d.config.creds, d.config.ca, true
	}
	if d.trust != nil {
		var err error
		if o.Creds, o.Inbox, err = d.trust.identity(identity); err != nil {
			return nil, nil, err
		}
	}
	nc, err := bus.Connect(o)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", part, err)
	}
	d.onStop("connection of "+part, connectionTime, nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", part, err)
	}
	return nc, js, nil
}

// startSetup makes or checks the streams. With the embedded broker they are
// there when it returns; an external one may be away for as long as it likes.
func (d *daemon) startSetup(ctx context.Context) error {
	nc, js, err := d.connect(access.PartSetup)
	if err != nil {
		return err
	}
	if d.broker != nil {
		defer nc.Close()
		if err := bus.Setup(ctx, js, 1); err != nil {
			return err
		}
		close(d.streams)
		return nil
	}
	d.goPart(ctx, "setup", func(ctx context.Context) error {
		err := d.setup(ctx, js)
		nc.Close()
		if err != nil || ctx.Err() != nil {
			return err
		}
		close(d.streams)
		<-ctx.Done()
		return nil
	})
	return nil
}

// setup tries until the streams are there or ctx ends. It returns an error for
// what no waiting helps against.
func (d *daemon) setup(ctx context.Context, js jetstream.JetStream) error {
	said := ""
	for {
		attempt, cancel := context.WithTimeout(ctx, setupAttempt)
		err := bus.Setup(attempt, js, d.config.replicas)
		cancel()
		if err == nil {
			if said != "" {
				d.logger.Info("the broker is there")
			}
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if hopeless(err) {
			return err
		}
		if said != err.Error() {
			said = err.Error()
			d.logger.Warn("waiting for the broker", "broker", d.brokerURL(), "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(setupPause/2 + rand.N(setupPause)):
		}
	}
}

// hopeless says whether the broker answered, and its answer will stay the
// same: streams of another shape, no permission, too few servers.
func hopeless(err error) bool {
	if _, ok := errors.AsType[*bus.DriftError](err); ok {
		return true
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.Code != 503 && api.Code != 408
}

func (d *daemon) startConsole(ctx context.Context) error {
	nc, js, err := d.connect(partConsole)
	if err != nil {
		return err
	}
	registerConnection(d.registry, partConsole, nc)
	o := console.Options{
		Listener: d.http, Conn: nc, Gatherer: d.registry, Registerer: d.registry, Logger: d.logger.With("part", partConsole),
		Ready: func(ctx context.Context) error { return d.ready(ctx, js) },
		TLS:   d.tls, Authority: d.authority(),
	}
	alerts := js
	if d.trust != nil {
		if _, alerts, err = d.connect(access.PartAlerts); err != nil {
			return err
		}
	}
	o.Alerting = &console.Alerting{JetStream: alerts, Alertmanager: d.config.alertmanager}
	if d.trust != nil {
		_, js, err := d.connect(access.PartJoiner)
		if err != nil {
			return err
		}
		o.Enrolment = &console.Enrolment{JetStream: js, Server: d.trust.server.Load}
	}
	d.goPart(ctx, partConsole, func(ctx context.Context) error { return console.Run(ctx, o) })
	return nil
}

// ready says why the process can't serve. Leading isn't part of it: of several
// schedulers all but one wait, and are ready.
func (d *daemon) ready(ctx context.Context, js jetstream.JetStream) error {
	if !js.Conn().IsConnected() {
		return errors.New("there is no connection to the broker")
	}
	select {
	case <-d.streams:
	default:
		return errors.New("the streams aren't set up")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := bus.LastSequence(ctx, js, subjects.Stream)
	return err
}

func (d *daemon) startScheduler(ctx context.Context) error {
	nc, _, err := d.connect(partScheduler)
	if err != nil {
		return err
	}
	registerConnection(d.registry, partScheduler, nc)
	o := scheduler.Options{
		Conn: nc, Logger: d.logger.With("part", partScheduler), Registerer: d.registry,
		Name: hostname(), Version: version.Version, Heartbeat: d.config.heartbeat,
		// The lock on the data directory proves that the last holder is dead.
		TakeAtOnce: d.broker != nil,
	}
	if d.trust != nil {
		server := d.trust.server.Load()
		o.Authority, o.Adopt = d.authority(), d.config.adopt
		if o.Signer, err = server.Signer(); err != nil {
			return fmt.Errorf("the key that seals records: %w", err)
		}
		if o.Keyring, err = server.Keyring(); err != nil {
			return fmt.Errorf("the keys that are trusted: %w", err)
		}
	}
	d.goPart(ctx, partScheduler, d.withStreams(func(ctx context.Context) error { return scheduler.Run(ctx, o) }))
	return nil
}

func (d *daemon) startSloguard(ctx context.Context) error {
	nc, _, err := d.connect(partSloguard)
	if err != nil {
		return err
	}
	registerConnection(d.registry, partSloguard, nc)
	o := sloguard.Options{
		Conn: nc, Logger: d.logger.With("part", partSloguard), Registerer: d.registry,
		Name: hostname(), Heartbeat: d.config.heartbeat, TakeAtOnce: d.broker != nil,
	}
	if d.config.prometheus != "" {
		o.Prometheus, err = promql.New(promql.Options{URL: d.config.prometheus, TokenFile: d.config.prometheusToken, CA: d.config.prometheusCA})
		if err != nil {
			return err
		}
	}
	d.goPart(ctx, partSloguard, d.withStreams(func(ctx context.Context) error { return sloguard.Run(ctx, o) }))
	return nil
}

// withStreams runs a part when the streams are there.
func (d *daemon) withStreams(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-d.streams:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// hostname is for people, and nothing hangs on it.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
