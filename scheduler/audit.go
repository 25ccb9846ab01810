package scheduler

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The bucket keeps 64 revisions of a key, and sourcing into the audit log can
// fall behind. Nothing is told while any key has auditMost revisions that
// aren't audited yet; the log's position is asked for from auditAsk on.
const (
	auditMost = 32
	auditAsk  = 16
	auditWait = time.Second // between two questions while it is behind
	auditLong = 1 << 15     // revisions remembered before it is asked for anyway
)

// auditTrail counts what the audit log has yet to take from the bucket.
type auditTrail struct {
	pending []revision
	counts  map[string]int
	floor   uint64 // newest audited kind's sequence at the start: it must be reached once
	reached uint64
	next    time.Time // not to be asked again before
	hot     bool      // a key has auditAsk revisions pending
}

type revision struct {
	sequence uint64
	key      string
	time     time.Time // by the broker
}

func (a *auditTrail) wrote(kind subjects.Kind, name string, sequence uint64, at time.Time) {
	if !slices.Contains(subjects.Audited, kind) || sequence <= a.reached {
		return
	}
	if a.counts == nil {
		a.counts = make(map[string]int)
	}
	key := kind.Key(name)
	a.pending = append(a.pending, revision{sequence, key, at})
	a.counts[key]++
	a.hot = a.hot || a.counts[key] >= auditAsk
}

// loaded says that all so far was stored before the start. How many revisions
// lie behind each is not known, so the log has to reach the last of them.
func (a *auditTrail) loaded() {
	for _, r := range a.pending {
		a.floor = max(a.floor, r.sequence)
	}
	a.hot = a.floor > 0
}

func (a *auditTrail) audited(sequence uint64) {
	a.reached = max(a.reached, sequence)
	n := 0
	for ; n < len(a.pending) && a.pending[n].sequence <= a.reached; n++ {
		r := a.pending[n]
		if a.counts[r.key]--; a.counts[r.key] == 0 {
			delete(a.counts, r.key)
		}
	}
	a.pending = slices.Delete(a.pending, 0, n)
	a.hot = a.reached < a.floor
	for _, c := range a.counts {
		a.hot = a.hot || c >= auditAsk
	}
}

func (a *auditTrail) behind() bool {
	if a.reached < a.floor {
		return true
	}
	for _, c := range a.counts {
		if c >= auditMost {
			return true
		}
	}
	return false
}

// lag says how many records the log lacks, as far as is known, and when the
// oldest of them was written.
func (a *auditTrail) lag() (records int, oldest time.Time) {
	if len(a.pending) == 0 {
		return 0, oldest
	}
	return len(a.pending), a.pending[0].time
}

// watchAudit asks how far the audit log is, where that matters.
func (s *scheduler) watchAudit(ctx context.Context, now time.Time) {
	a := &s.audit
	if !a.hot && len(a.pending) < auditLong || now.Before(a.next) {
		return
	}
	reached, err := auditedUpTo(ctx, s)
	if err != nil {
		s.problem("audit", "the audit log can't be read: "+err.Error())
	} else {
		delete(s.problems, "audit")
		a.audited(reached)
	}
	behind := err != nil || a.behind()
	s.snap.PutAuditBehind(behind)
	s.changed = true
	now = time.Now() // asking took its time
	a.next = now.Add(auditWait)
	if err == nil && a.reached < a.floor {
		a.next = now.Add(50 * time.Millisecond) // at the start: it is seconds behind at most, as a rule
	}
}

// askAudit asks for a scrape's sake how far the audit log is. That it can't be
// told holds nothing: the lag grows, and says so. Where it matters to more than
// the scrape, watchAudit asks.
func (s *scheduler) askAudit(ctx context.Context) {
	if s.audit.hot || len(s.audit.pending) == 0 {
		return
	}
	if reached, err := auditedUpTo(ctx, s); err == nil {
		s.audit.audited(reached)
	}
}

// auditedUpTo is the bucket's sequence of the newest audit record.
func auditedUpTo(ctx context.Context, s *scheduler) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m, err := bus.Last(ctx, s.js, subjects.AuditStream, subjects.AllAudit)
	if errors.Is(err, bus.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return origin(m.Header.Get("Nats-Stream-Source"))
}

// origin is the second field of Nats-Stream-Source: the sequence in the bucket.
func origin(source string) (uint64, error) {
	fields := strings.Fields(source)
	if len(fields) < 2 {
		return 0, errors.New("an audit record names no source")
	}
	return strconv.ParseUint(fields[1], 10, 64)
}
