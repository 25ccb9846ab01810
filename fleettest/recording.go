package fleettest

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// recording is all that was ever written to a stream.
type recording struct {
	cancel context.CancelFunc
	done   chan struct{}
	taken  int           // how much of it the checker has had
	news   chan struct{} // has one when something came

	mu  sync.Mutex
	all []bus.Msg
}

func record(ctx context.Context, js jetstream.JetStream, stream string) (*recording, error) {
	ctx, cancel := context.WithCancel(ctx)
	in, err := consume(ctx, js, stream, bus.ConsumeOptions{})
	if err != nil {
		cancel()
		return nil, err
	}
	r := &recording{cancel: cancel, done: make(chan struct{}), news: make(chan struct{}, 1)}
	go func() {
		defer close(r.done)
		for m := range in {
			if m.Subject == "" {
				continue
			}
			r.mu.Lock()
			r.all = append(r.all, m)
			r.mu.Unlock()
			select {
			case r.news <- struct{}{}:
			default:
			}
		}
	}()
	return r, nil
}

func (r *recording) close() {
	r.cancel()
	<-r.done
}

// since gives what came after the first *n, and counts it.
func (r *recording) since(n *int) []bus.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.all[*n:]
	*n = len(r.all)
	return out
}

// lastAudited is the sequence of the newest record that the audit log keeps.
func (r *recording) lastAudited() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range slices.Backward(r.all) {
		if kind, _, err := subjects.ParseKey(m.Subject); err == nil && slices.Contains(subjects.Audited, kind) {
			return m.Sequence
		}
	}
	return 0
}

// origin is the sequence in the bucket of the newest audit record.
func (r *recording) origin() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		return 0
	}
	return origin(r.all[len(r.all)-1])
}

// origin is the second field of Nats-Stream-Source: the sequence in the stream
// that an audit record was copied from, or 0.
func origin(m bus.Msg) uint64 {
	fields := strings.Fields(m.Header.Get("Nats-Stream-Source"))
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// between gives the records from the first-th up to, without it, the last-th.
func (r *recording) between(first, last int) []bus.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[first:last]
}
