package fleettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// embedded is a nats-server with file-backed JetStream that listens nowhere and
// can be stopped and started on what it has stored.
type embedded struct {
	dir    string
	access accessClock

	mu     sync.Mutex
	server *server.Server // nil: it is down
}

// up starts it. Simulated time may pass meanwhile, so no lock is held: who waits
// for a lock stops the time.
func (b *embedded) up() error {
	if b.get() != nil {
		return errors.New("the broker is up already")
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "fleettest", DontListen: true, NoSigs: true, JetStream: true, StoreDir: b.dir,
		// What a server does by itself costs real time: see quiet.go.
		PingInterval: seldom, SyncInterval: seldom,
	})
	if err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	s.Start()
	changeRateLimitLogInterval(s, seldom)
	if !s.ReadyForConnections(time.Minute) {
		s.Shutdown()
		s.WaitForShutdown()
		return errors.New("the broker isn't ready")
	}
	b.set(s)
	return nil
}

func (b *embedded) down() {
	s := b.get()
	if s == nil {
		return
	}
	b.set(nil)
	s.Shutdown()
	s.WaitForShutdown()
}

func (b *embedded) get() *server.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.server
}

func (b *embedded) set(s *server.Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server = s
}

func (b *embedded) dial() (net.Conn, error) {
	s := b.get()
	if s == nil {
		return nil, errors.New("the broker is down")
	}
	return s.InProcessConn()
}

// sources puts the streams that copy from others to sleep between the times
// when somebody looks at them. While they are awake the broker exchanges a
// message a second for each source, which would be all that a simulation does.
// Asleep they are streams without sources; awake again they go on where they
// were.
type sources struct {
	js     jetstream.JetStream
	full   map[string]jetstream.StreamConfig
	asleep bool
}

func newSources(ctx context.Context, js jetstream.JetStream) (*sources, error) {
	if err := bus.Setup(ctx, js, 1); err != nil {
		return nil, err
	}
	s := &sources{js: js, full: make(map[string]jetstream.StreamConfig)}
	for _, name := range []string{subjects.AuditStream, subjects.EvidenceStream} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		s.full[name] = stream.CachedInfo().Config
	}
	return s, nil
}

func (s *sources) sleep(ctx context.Context) error {
	if s.asleep {
		return nil
	}
	for name, cfg := range s.full {
		cfg.Sources = nil
		if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("putting %s to sleep: %w", name, err)
		}
	}
	s.asleep = true
	return nil
}

// wake wakes the audit log. The evidence has no reader here and sleeps on.
func (s *sources) wake(ctx context.Context) error {
	if !s.asleep {
		return nil
	}
	if _, err := s.js.UpdateStream(ctx, s.full[subjects.AuditStream]); err != nil {
		return fmt.Errorf("waking %s: %w", subjects.AuditStream, err)
	}
	s.asleep = false
	return nil
}
