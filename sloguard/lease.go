package sloguard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// lease is the key guard, and what is said in it.
type lease struct {
	leases    <-chan bus.Msg
	holder    string
	record    subjects.Guard
	revision  uint64
	changedAt time.Time // when the revision was seen to change, by our clock
	leading   bool

	saidAt   time.Time             // when it was last renewed
	triedAt  time.Time             // or should have been
	unclear  map[rollout.ID]string // what was said of each rollout then: why it may not go on
	reach    uint64                // a sequence of the stream that was its last
	reachAt  time.Time             // then
	caughtAt time.Time             // as of which the fold has all evidence
	behind   string                // why the evidence isn't all there
}

func newLease() lease { return lease{holder: random()} }

// renewed takes a revision of the lease.
func (g *guard) renewed(m bus.Msg) {
	if m.Subject == "" || m.Sequence <= g.revision {
		return
	}
	g.revision, g.changedAt = m.Sequence, time.Now()
	record := subjects.Guard{}
	if err := subjects.DecodeInto(m.Data, &record); err != nil || m.Header.Deleted() {
		record = subjects.Guard{} // put or deleted by hand: it is nobody's
	}
	g.record = record
	if g.leading && record.Holder != g.holder {
		g.leading = false
		g.log.Warn("another guard has taken over, or the lease was changed by hand", "holder", record.Name)
	}
	g.m.lease(g.leading, g.changedAt)
}

// candidate takes the lease if nobody holds it, and says when to try again.
func (g *guard) candidate(ctx context.Context, now time.Time) time.Time {
	free := g.record.Holder == "" || g.record.Holder == g.holder || g.o.TakeAtOnce
	if at := g.changedAt.Add(g.o.Lease); !free && now.Before(at) {
		return at
	}
	if at := g.triedAt.Add(g.o.Renew / 5); now.Before(at) {
		return at
	}
	g.triedAt = now
	g.o.TakeAtOnce = false
	if err := g.publish(ctx, now); err != nil {
		g.log.Info("the guard's lease isn't taken", "err", err)
		return now.Add(g.o.Renew / 5)
	}
	g.leading = true
	g.m.lease(true, g.changedAt)
	g.log.Info("guarding", "name", g.o.Name, "rollouts", len(g.fold.Rollouts()), "sequence", g.fold.Sequence())
	g.freeze(ctx)
	return now
}

// renew renews the lease when it is time, or at once when a rollout appears, or
// becomes clear or unclear. It says when to come back.
func (g *guard) renew(ctx context.Context, now time.Time) time.Time {
	why := g.reasons(now)
	due := g.saidAt.Add(g.o.Renew)
	if !maps.Equal(why, g.unclear) {
		due = g.saidAt.Add(renewGap)
	}
	if due = later(due, g.triedAt.Add(renewGap)); now.Before(due) {
		return due
	}
	g.triedAt = now
	if err := g.publish(ctx, now); err != nil && ctx.Err() == nil {
		g.log.Warn("the guard's lease isn't renewed", "err", err)
		if errors.Is(err, bus.ErrRefused) {
			g.leading = false // somebody else's revision is on its way here
			g.m.lease(false, g.changedAt)
		}
	}
	return now.Add(renewGap)
}

// renewGap is between two renewals at the least.
const renewGap = 200 * time.Millisecond

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// mostLag is by how many records the evidence may be behind its sources: two
// steps of a rollout. What a host says for itself doesn't come that way.
const mostLag = 1000

// look asks how far the stream is, and notes when the fold was as far.
func (g *guard) look(ctx context.Context, now time.Time) {
	if g.reach > 0 && g.fold.Sequence() >= g.reach {
		g.caughtAt, g.reach = g.reachAt, 0
	}
	if g.reach > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTime)
	defer cancel()
	last, lag, err := bus.Reach(ctx, g.js, subjects.EvidenceStream)
	switch {
	case err != nil:
		g.behind = "how far the evidence has come can't be read: " + err.Error()
	case lag > mostLag:
		g.behind = fmt.Sprintf("the evidence is %d records behind the bucket", lag)
	default:
		g.behind = ""
		if g.reach, g.reachAt = last, now; g.fold.Sequence() >= last {
			g.caughtAt, g.reach = now, 0
		}
	}
	g.m.behind.Set(float64(max(0, int64(last)-int64(g.fold.Sequence()))))
}

// reasons says of each rollout that is watched why it may not go on; "" if it
// may.
func (g *guard) reasons(now time.Time) map[rollout.ID]string {
	why := make(map[rollout.ID]string)
	for _, id := range g.fold.Rollouts() {
		why[id] = g.reason(id, now)
	}
	return why
}

func (g *guard) reason(id rollout.ID, now time.Time) string {
	unclear, fresh := g.fold.Clear(id)
	switch {
	case now.Sub(g.listening) <= missed*g.o.Heartbeat:
		return "the guard has only just begun to listen to hosts"
	case g.caughtAt.IsZero() || now.Sub(g.caughtAt) >= fresh:
		if g.behind != "" {
			return g.behind
		}
		return "the guard is behind the evidence"
	}
	return unclear
}

// publish writes the lease with what is to be said now, expecting the revision that
// was seen last.
func (g *guard) publish(ctx context.Context, now time.Time) error {
	g.look(ctx, now)
	why := g.reasons(now)
	record := subjects.Guard{
		Holder: g.holder, Name: g.o.Name, Since: g.record.Since, Renewed: now.UTC(), Sequence: g.fold.Sequence(),
		Rollouts: make(map[rollout.ID]*subjects.Clearance, len(why)),
	}
	if g.record.Holder != g.holder {
		record.Since = now.UTC()
	}
	for id, w := range why {
		view, _ := g.fold.View(id)
		c := &subjects.Clearance{Why: w, Standings: view.Standings}
		if w == "" {
			left := view.Fresh - now.Sub(g.caughtAt)
			c.For, c.Until = rollout.Duration(left), now.Add(left).UTC()
		}
		record.Rollouts[id] = c
	}
	g.m.show(record.Rollouts, g.caughtAt)
	if err := g.writeLease(ctx, record); err != nil {
		g.m.lease(g.leading, g.changedAt)
		return err
	}
	g.m.lease(true, g.changedAt)
	g.saidAt, g.unclear = now, why
	return nil
}

// leaseTime bounds one exchange with the broker.
const leaseTime = 2 * time.Second

// writeLease writes even while the guard ends: a renewal that was written but not
// heard of would make the broker refuse to take the lease back.
func (g *guard) writeLease(ctx context.Context, record subjects.Guard) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTime)
	defer cancel()
	body, err := subjects.Encode(record)
	if err == nil && len(body) > subjects.MaxBody {
		// What each rollout may do matters more than how it stands.
		for _, c := range record.Rollouts {
			c.Standings = nil
		}
		body, err = subjects.Encode(record)
	}
	if err != nil {
		return err
	}
	subject := subjects.KindGuard.Subject("")
	sequence, err := bus.Commit(ctx, g.js, []bus.Message{{
		Subject: subject, Data: body, Expect: &bus.Expect{Subject: subject, Sequence: g.revision},
	}})
	if err != nil {
		return err
	}
	g.record, g.revision, g.changedAt = record, sequence, time.Now()
	return nil
}

// quit gives the lease back. It says nothing of any rollout, so that those that
// name objectives hold.
func (g *guard) quit() {
	if !g.leading {
		return
	}
	record := subjects.Guard{Name: g.o.Name, Since: g.record.Since, Renewed: time.Now().UTC(), Sequence: g.fold.Sequence()}
	if err := g.writeLease(context.Background(), record); err != nil {
		g.log.Info("the guard's lease isn't given back; it runs out by itself", "err", err)
	}
}
