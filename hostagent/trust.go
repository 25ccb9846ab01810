package hostagent

import (
	"errors"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// trust is whose word the agent takes for what, beside the broker's.
type trust struct {
	keyring *access.Keyring // nil: desired state isn't verified

	epoch      time.Time // the newest that was fresh when it was read, and so the least that counts
	epochFault error     // why what was read then doesn't count; nil: it does
	// unproven is why the pending document waits for a fresh epoch; nil: it
	// doesn't.
	unproven      error
	unprovenNoted uint64 // the generation that was reported as waiting
}

// sealed says why a record isn't the scheduler's word for this host, whatever
// brought it.
func (a *agent) sealed(h subjects.Header, body []byte) error {
	if a.keyring == nil {
		return nil
	}
	return a.keyring.Verify(subjects.KindDesired.Subject(string(a.host)), h, body)
}

// learnEpoch takes note of the epoch as it was read; nil: there is none.
func (a *agent) learnEpoch(m *bus.Msg, now time.Time) {
	told, err := a.judgeEpoch(m, now)
	a.epochFault = err
	if err == nil {
		a.epoch = told
	}
}

// judgeEpoch says what time the scheduler tells, or why that doesn't count.
func (a *agent) judgeEpoch(m *bus.Msg, now time.Time) (time.Time, error) {
	if m == nil {
		return time.Time{}, errors.New("the broker has no epoch, which a scheduler with identities writes every minute")
	}
	want := subjects.KindEpoch.Subject("")
	if m.Subject != want {
		return time.Time{}, fmt.Errorf("the broker answered with %q for the epoch", printable(m.Subject, 256))
	}
	if err := a.keyring.Verify(want, m.Header, m.Data); err != nil {
		return time.Time{}, fmt.Errorf("the broker's epoch isn't the scheduler's: %w", err)
	}
	e, err := subjects.DecodeEpoch(m.Data)
	if err != nil {
		return time.Time{}, fmt.Errorf("the broker's epoch can't be read: %w", err)
	}
	if err := fresh(e.Time, now); err != nil {
		return time.Time{}, err
	}
	if e.Time.Before(a.epoch) && fresh(a.epoch, now) != nil {
		return time.Time{}, fmt.Errorf("the broker's epoch of %s is older than that of %s, which this host has seen: the broker's store was rolled back, or this host's clock put back",
			stamp(e.Time), stamp(a.epoch))
	}
	return latest(e.Time, a.epoch), nil
}

// fresh says why a scheduler's time is too far from this host's.
func fresh(epoch, now time.Time) error {
	switch off := now.Sub(epoch); {
	case off > subjects.EpochFresh:
		return fmt.Errorf("the newest epoch is of %s, and here it is %s: the broker is cut off from its scheduler, or this host's clock is fast",
			stamp(epoch), stamp(now))
	case off < -subjects.EpochFresh:
		return fmt.Errorf("the newest epoch is of %s, and here it is only %s: this host's clock is slow, or the scheduler's is fast", stamp(epoch), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unfresh says why new state can't be taken at this time; nil: it can.
func (a *agent) unfresh(now time.Time) error {
	switch {
	case a.keyring == nil:
		return nil
	case a.epochFault != nil && fresh(a.epoch, now) != nil:
		return a.epochFault
	case a.epoch.IsZero():
		return errors.New("no epoch was read yet")
	}
	return fresh(a.epoch, now)
}

// await leaves a document pending until there is a fresh epoch.
func (a *agent) await(c *subjects.Change, why error, now time.Time) {
	a.pending, a.pendingErr, a.unproven = c, nil, why
	a.changed(now)
}

// askEpoch reads at once where a document waits for a fresh epoch: it may have
// come since the last read.
func (a *agent) askEpoch(now time.Time) {
	if a.unproven != nil {
		a.readAt = now
	}
}

// retryUnproven takes the document that waits for a fresh epoch, or says, once,
// why it waits on.
func (a *agent) retryUnproven(now time.Time) {
	if a.unproven == nil {
		return
	}
	why, c := a.unfresh(now), a.pending
	if why == nil {
		a.take(c, now)
		return
	}
	a.unproven = why
	if generation := c.Desired.Generation; generation != a.unprovenNoted {
		a.unprovenNoted = generation
		a.changed(now)
		a.Logger.Warn("a new desired state isn't taken without a fresh epoch; trying on", "host", a.host, "generation", generation, "rollout", c.Rollout, "taken", a.state.Generation, "err", why)
		a.event(subjects.HealthEvent{
			Kind: subjects.HealthRefused, Generation: generation, Rollout: c.Rollout, Variable: c.Variable,
			Status: string(rollout.Retrying), Output: printable("it waits for a fresh epoch: "+why.Error(), maxOutput),
		})
	}
}
