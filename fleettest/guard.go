package fleettest

import (
	"errors"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// verdict is what the script's guard says of a rollout.
type verdict struct {
	until time.Time
	why   string
}

// guard plays the guard, which writes its lease once: guard clear up [for=2d],
// guard withhold up "why", guard silent, guard abort up "why".
func guard(s *script, words []string) error {
	plain, given := options(words)
	id := rollout.ID("")
	if len(plain) > 1 {
		id = rollout.ID(plain[1])
	}
	switch at(plain, 0) {
	case "clear":
		d, err := duration(take(given, "for", "366d"))
		if err != nil {
			return err
		}
		s.said[id] = verdict{until: time.Now().Add(d)}
	case "withhold":
		s.said[id] = verdict{why: why(plain, 2)}
	case "silent": // as after a clean stop
		clear(s.said)
	case "abort":
		body, err := subjects.Encode(subjects.Abort{Why: why(plain, 2), Actor: string(subjects.SloGuard), Time: time.Now()})
		if err == nil {
			_, err = s.Put(subjects.KindAbort, string(id), string(body))
		}
		return err
	default:
		return errors.New("want clear, withhold, silent or abort")
	}
	if err := nothingLeft(given); err != nil {
		return err
	}
	lease := subjects.Guard{Name: "script", Since: s.Began, Renewed: time.Now(), Rollouts: map[rollout.ID]*subjects.Clearance{}}
	for id, v := range s.said {
		lease.Rollouts[id] = &subjects.Clearance{For: rollout.Duration(max(0, time.Until(v.until))), Why: v.why}
	}
	body, err := subjects.Encode(lease)
	if err != nil {
		return err
	}
	_, err = s.Put(subjects.KindGuard, "", string(body))
	return err
}

// clearances notes until when the guard's lease clears each rollout.
func (c *Checker) clearances(m bus.Msg) {
	g, err := subjects.Decode[subjects.Guard](m.Data)
	if err != nil {
		return // put by hand: what was said before runs out
	}
	clear(c.clear)
	for id, said := range g.Rollouts {
		c.clear[id] = m.Time.Add(time.Duration(said.For))
	}
}

// evidence checks that a rollout which names objectives may tell a host now.
func (c *Checker) evidence(r *seenRollout, name rollout.Host, m bus.Msg) {
	if spec := &r.record.Spec; spec.Guard != nil && spec.Rollback == "" && m.Time.After(c.clear[r.id]) {
		c.violation(NoEvidence, m, "%s is told by %s without fresh evidence", name, r.id)
	}
}
