package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// desired serves the desired state of hosts.
type desired struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	logger *slog.Logger

	mu sync.Mutex
	// served holds the highest generation given to anybody, by host. On a
	// replicated stream a Direct Get may come from a server that is a revision
	// behind; a client without NATS can't tell, and would be sent back.
	served map[rollout.Host]uint64
}

// document is a host's desired state as it is served.
type document struct {
	body       []byte
	generation uint64
}

// What find returns for hosts without a document to serve.
var (
	errUntold         = errors.New("the host is unknown or was never told anything")
	errDecommissioned = errors.New("the host was decommissioned")
	errNoGoodRecord   = errors.New("the host's desired state was overwritten by hand and no good one is left in its history; the scheduler restores it")
)

func (d *desired) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, err := rollout.ParseHost(r.PathValue("host"))
	if err != nil {
		fail(w, http.StatusBadRequest, "usage", err.Error())
		return
	}
	doc, err := d.find(r.Context(), host)
	switch {
	case errors.Is(err, errUntold), errors.Is(err, errDecommissioned):
		fail(w, http.StatusNotFound, "not_found", fmt.Sprintf("no desired state of %s: %v", host, err))
		return
	case errors.Is(err, errNoGoodRecord):
		unavailable(w, fmt.Sprintf("no desired state of %s: %v", host, err))
		return
	case err != nil:
		unavailable(w, fmt.Sprintf("the broker doesn't answer for %s: %v", host, err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("ETag", strconv.Quote(strconv.FormatUint(doc.generation, 10)))
	h.Set("Cache-Control", "no-cache") // keep it, but ask each time
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(doc.body))
}

// find reads the host's newest good record. It returns errUntold,
// errDecommissioned, errNoGoodRecord, or the broker's error.
func (d *desired) find(ctx context.Context, host rollout.Host) (document, error) {
	m, err := bus.DirectGet(ctx, d.conn, subjects.DirectGetDesired(host))
	return d.settle(ctx, host, m, err)
}

// settle takes the answer to a Direct Get, unless it is out of date.
func (d *desired) settle(ctx context.Context, host rollout.Host, m *bus.Msg, err error) (document, error) {
	doc, err := d.decode(ctx, host, m, err)
	if err != nil && !errors.Is(err, errUntold) || d.newest(host, doc.generation) {
		return doc, err
	}
	// Older than what was served before: ask the stream's leader, which is
	// never behind. It may confirm it, after a restore from a backup.
	m, err = bus.Last(ctx, d.js, subjects.Stream, subjects.KindDesired.Subject(string(host)))
	doc, err = d.decode(ctx, host, m, err)
	if err == nil {
		d.reset(host, doc.generation)
	}
	return doc, err
}

// decode turns an answer of the broker into a document.
func (d *desired) decode(ctx context.Context, host rollout.Host, m *bus.Msg, err error) (document, error) {
	if errors.Is(err, bus.ErrNotFound) {
		return document{}, errUntold
	}
	if err != nil {
		return document{}, err
	}
	doc, err := read(host, m)
	if errors.Is(err, subjects.ErrForeign) {
		d.logger.Warn("serving the last good desired state, the newest was written by hand", "host", host, "sequence", m.Sequence, "err", err)
		return d.lastGood(ctx, host)
	}
	return doc, err
}

func read(host rollout.Host, m *bus.Msg) (document, error) {
	c, err := subjects.DecodeChange(host, m.Header, m.Data)
	if err != nil {
		return document{}, err
	}
	if c.Decommissioned {
		return document{}, errDecommissioned
	}
	return document{m.Data, c.Desired.Generation}, nil
}

// lastGood is the newest record of the host that the scheduler wrote.
func (d *desired) lastGood(ctx context.Context, host rollout.Host) (document, error) {
	all, err := bus.History(ctx, d.js, subjects.Stream, subjects.KindDesired.Subject(string(host)))
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return document{}, err
	}
	for _, m := range slices.Backward(all) {
		doc, err := read(host, &m)
		if !errors.Is(err, subjects.ErrForeign) {
			return doc, err
		}
	}
	return document{}, errNoGoodRecord
}

// newest says whether no higher generation was served before, and keeps it.
func (d *desired) newest(host rollout.Host, generation uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if generation < d.served[host] {
		return false
	}
	if generation > 0 {
		d.served[host] = generation
	}
	return true
}

func (d *desired) reset(host rollout.Host, generation uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served[host] = generation
}
