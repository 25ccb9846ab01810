package hostagent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// intake is how the desired state comes in.
type intake struct {
	sub          *nats.Subscription
	underway     bool // a read is
	readAt       time.Time
	readFailures int
	staleReads   int    // in a row
	staleNoted   uint64 // the generation of an old record that was logged
	goneNoted    bool   // that the record is a delete marker
	refused      uint64 // what was refused last

	// pending is the newest document that isn't taken yet, because the disk
	// refused it, the host is held, or no epoch is fresh.
	pending    *subjects.Change
	pendingErr error
	// offered is the newest document that an agent with a damaged state file
	// left alone.
	offered *subjects.Change
}

const maxStaleReads = 6

// reading is the outcome of a read.
type reading struct {
	msg   *bus.Msg // nil: there is none
	epoch *bus.Msg // likewise; read only where records are sealed
	err   error
}

// startRead subscribes, once, and reads the record itself when that is due.
func (a *agent) startRead(now time.Time) {
	if a.sub == nil {
		sub, err := a.nc.ChanSubscribe(subjects.KindDesired.Echo(string(a.host)), a.echoes)
		if err != nil {
			// Only a closed connection does this, and then everything ends.
			a.Logger.Error("the desired state can't be subscribed to", "host", a.host, "err", err)
			return
		}
		a.sub = sub
		a.readAt = now
	}
	if a.underway || now.Before(a.readAt) {
		return
	}
	a.readAt = now.Add(a.jittered(a.Reread))
	if !a.nc.IsConnected() {
		return // connecting starts a read
	}
	a.underway = true
	nc, verified := a.nc, a.keyring != nil
	a.begin(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, readBound)
		defer cancel()
		get := func(subject string) (*bus.Msg, error) {
			m, err := bus.DirectGet(ctx, nc, subject)
			if errors.Is(err, bus.ErrNotFound) {
				return nil, nil
			}
			return m, err
		}
		// The flush makes sure that the broker knows the subscription, so that
		// no change falls between the read and the first echo.
		var r reading
		if r.err = nc.FlushWithContext(ctx); r.err == nil {
			r.msg, r.err = get(subjects.DirectGetDesired(a.host))
		}
		if r.err == nil && verified {
			r.epoch, r.err = get(subjects.DirectGetEpoch)
		}
		a.reads <- r
	})
}

func (a *agent) readDue() time.Time {
	if !a.started || a.stopping || a.underway {
		return never
	}
	return a.readAt
}

// read takes the outcome of a read.
func (a *agent) read(r reading) {
	a.underway = false
	now := time.Now()
	if r.err != nil {
		if a.readFailures == 0 && a.nc.IsConnected() {
			a.Logger.Warn("the desired state can't be read; trying on", "host", a.host, "err", r.err)
		}
		a.readAt = earliest(a.readAt, now.Add(wait(a.readFailures, time.Second, time.Minute, a.Random)))
		a.readFailures++
		return
	}
	a.readFailures = 0
	if a.keyring != nil {
		a.learnEpoch(r.epoch, now)
	}
	a.weigh(r.msg, now)
	a.retryUnproven(now)
}

// weigh offers what was read, and asks again where it is older than what the
// agent knows.
func (a *agent) weigh(m *bus.Msg, now time.Time) {
	if m == nil {
		return
	}
	generation := a.offer(m.Subject, subjects.KindDesired.Subject(string(a.host)), m.Header, m.Data)
	if generation == 0 || generation >= a.newest() {
		a.staleReads = 0
		return
	}
	// A follower that is a little behind is asked again at once. If the record
	// stays older, the bucket itself is: it was restored from a backup, say.
	// The report then tells the scheduler from where to count on.
	if a.staleReads < maxStaleReads {
		a.readAt = now.Add(wait(a.staleReads, 50*time.Millisecond, time.Second, a.Random))
		a.staleReads++
		return
	}
	if a.staleNoted != generation {
		a.staleNoted = generation
		a.Logger.Warn("the broker's desired state is older than what this host took; it is left alone",
			"host", a.host, "generation", generation, "taken", a.state.Generation)
		a.event(subjects.HealthEvent{
			Kind: subjects.HealthRefused, Generation: generation, Status: string(rollout.EnactFail),
			Output: fmt.Sprintf("the broker's generation %d is older than %d, of which this host knows: its store was rolled back; the host keeps what it has", generation, a.newest()),
		})
		a.changed(now)
	}
}

// heard takes an echo.
func (a *agent) heard(m *nats.Msg) {
	a.offer(m.Subject, subjects.KindDesired.Echo(string(a.host)), subjects.Header(m.Header), m.Data)
	a.askEpoch(time.Now())
}

// newest is the highest generation that the agent took, or wants to.
func (a *agent) newest() uint64 {
	if a.pending != nil {
		return max(a.state.Generation, a.pending.Desired.Generation)
	}
	return a.state.Generation
}

// offer looks at a record and takes it if it is to be taken. It returns its
// generation, or 0 where it says nothing that counts.
func (a *agent) offer(subject, want string, h subjects.Header, body []byte) uint64 {
	if subject != want {
		a.refuse(subject, h, body, 0, fmt.Errorf("it came on subject %q, which isn't this host's", printable(subject, 256)))
		return 0
	}
	// An echo and a read of the same record are one refusal.
	subject = subjects.KindDesired.Subject(string(a.host))
	if h.Deleted() || len(body) == 0 {
		if !a.goneNoted {
			a.goneNoted = true
			a.Logger.Info("the desired state was deleted, or the host decommissioned; the host keeps what it has", "host", a.host, "generation", a.state.Generation)
		}
		return 0
	}
	if err := a.sealed(h, body); err != nil {
		a.refuse(subject, h, body, 0, err)
		return 0
	}
	c, err := subjects.DecodeChange(a.host, h, body)
	if err != nil {
		a.refuse(subject, h, body, 0, err)
		return 0
	}
	generation := c.Desired.Generation
	for name, v := range c.Desired.Values {
		if v.IsZero() { // null, which a scheduler never writes
			a.refuse(subject, h, body, generation, fmt.Errorf("variable %s has no value", name))
			return 0
		}
	}
	switch {
	case a.damaged != nil:
		a.refuse(subject, h, body, generation, a.damaged)
		if a.offered == nil || generation > a.offered.Desired.Generation {
			a.offered = c
			a.changed(time.Now())
		}
		return 0
	case generation < a.newest():
		a.Logger.Debug("an older desired state is left alone", "host", a.host, "generation", generation, "taken", a.state.Generation)
	case generation == a.state.Generation:
		if !sameValues(c.Desired.Values, a.state.Values) {
			a.refuse(subject, h, body, generation, fmt.Errorf("generation %d was taken before, with another document", generation))
		}
	case a.pending != nil && generation == a.pending.Desired.Generation:
		if !sameValues(c.Desired.Values, a.pending.Desired.Values) {
			a.refuse(subject, h, body, generation, fmt.Errorf("generation %d was heard before, with another document", generation))
		}
	default:
		a.goneNoted, a.staleReads = false, 0
		a.take(c, time.Now())
	}
	return generation
}

func sameValues(a, b rollout.Document) bool {
	if len(a) != len(b) {
		return false
	}
	for name, v := range a {
		if w, ok := b[name]; !ok || v != w {
			return false
		}
	}
	return true
}

// refuse says, once for each record, that it isn't taken and why.
func (a *agent) refuse(subject string, h subjects.Header, body []byte, generation uint64, why error) {
	hash := fnv.New64a()
	for _, s := range []string{subject, h.Get(subjects.HeaderGeneration), h.Get(subjects.HeaderTime), h.Get(subjects.HeaderSeal), why.Error(), string(body)} {
		fmt.Fprintf(hash, "%d:%s", len(s), s)
	}
	if sum := hash.Sum64(); sum != a.refused {
		a.refused = sum
		a.Logger.Warn("a desired state is refused", "host", a.host, "offered", generation, "taken", a.state.Generation, "err", why)
		a.event(subjects.HealthEvent{
			Kind: subjects.HealthRefused, Generation: generation, Status: string(rollout.EnactFail), Output: printable(why.Error(), maxOutput),
		})
	}
}

// take puts a higher generation on disk and starts to make it true. Where the
// disk refuses, the host is held, or no epoch is fresh, the document stays
// pending.
func (a *agent) take(c *subjects.Change, now time.Time) {
	a.unproven = nil
	if !a.mayChange(now) {
		a.Logger.Info("a new desired state is held back", "host", a.host, "generation", c.Desired.Generation, "rollout", c.Rollout, "why", a.held)
		a.pending, a.pendingErr = c, nil
		a.changed(now)
		return
	}
	if err := a.unfresh(now); err != nil {
		a.await(c, err, now)
		return
	}
	n := a.state.with(c)
	n.Epoch = a.epoch
	if err := a.save(n); err != nil {
		first := a.pendingErr == nil
		a.pending, a.pendingErr = c, err
		a.diskFailed(now)
		a.changed(now)
		if first {
			a.Logger.Error("the desired state can't be put on disk, so it isn't taken; trying on", "host", a.host, "generation", c.Desired.Generation, "err", err)
			a.event(subjects.HealthEvent{
				Kind: subjects.HealthRefused, Generation: c.Desired.Generation, Rollout: c.Rollout, Variable: c.Variable,
				Status: string(rollout.Retrying), Output: printable("it can't be put on disk: "+err.Error(), maxOutput),
			})
		}
		return
	}
	before := a.state
	a.state, a.pending, a.pendingErr, a.unsaved = n, nil, nil, false
	attrs := []any{"host", a.host, "generation", n.Generation, "rollout", c.Rollout, "reason", c.Reason.Code}
	if c.Variable != "" {
		attrs = append(attrs, "variable", c.Variable, "value", n.Values[c.Variable].String(), "previous", before.Values[c.Variable].String())
	}
	a.Logger.Info("took a new desired state", attrs...)
	a.writeOutlets(now)

	var fresh []*variable
	for name := range n.Values {
		v := a.variable(name)
		if o, ok := before.Orders[name]; !ok || o.Generation != n.Orders[name].Generation || before.Values[name] != n.Values[name] {
			v.begin()
			fresh = append(fresh, v)
		}
	}
	slices.SortFunc(fresh, a.byOrder)
	for _, v := range fresh {
		a.refresh(now, v)
	}
	for name, v := range a.variables {
		if _, ok := n.Values[name]; !ok {
			v.begin()
			if v.enactor == nil {
				delete(a.variables, name)
			}
		}
	}
	a.settle(now, false)
	a.changed(now)
}
