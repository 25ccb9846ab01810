package scheduler

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	// guardSilent is for how long the guard may renew nothing before a person is
	// told.
	guardSilent = 30 * time.Second
	// maxEvidence bounds what is shown of an abort's evidence, in bytes.
	maxEvidence = 64 << 10
)

// guardian is what the guard said last.
type guardian struct {
	said     map[rollout.ID]*subjects.Clearance
	heard    time.Time // when, by our clock; or since when we have listened
	verdicts map[rollout.ID]*slo.Verdict
}

// applyGuard takes in the guard's lease. How old what it says is can be told by
// our clock alone, and only of a revision that we see appear: one that was
// stored at the start says nothing until it is renewed.
func (s *scheduler) applyGuard(m bus.Msg) error {
	g, err := subjects.Decode[subjects.Guard](m.Data)
	if err == nil && (m.Header.Deleted() || g.Renewed.IsZero()) {
		err = subjects.ErrForeign
	}
	if err != nil {
		return fmt.Errorf("the guard's lease was overwritten or deleted by hand; what it said before runs out: %w", err)
	}
	if !s.loaded {
		return nil
	}
	now := time.Now()
	s.guard.said, s.guard.heard = g.Rollouts, now
	clear := make(map[rollout.ID]rollout.Clearance, len(g.Rollouts))
	for id, c := range g.Rollouts {
		switch {
		case c == nil:
		case c.For > 0:
			clear[id] = rollout.Clearance{Until: now.Add(time.Duration(c.For))}
		default:
			clear[id] = rollout.Clearance{Why: c.Why}
		}
	}
	s.snap.PutClearances(clear)
	return nil
}

// judged notes the evidence of an abort, where the guard made it.
func (s *scheduler) judged(id rollout.ID, a subjects.Abort) {
	delete(s.guard.verdicts, id)
	v := new(slo.Verdict)
	if a.Actor == string(subjects.SloGuard) && len(a.Evidence) <= maxEvidence && json.Unmarshal(a.Evidence, v) == nil && v.Rollout == id {
		s.guard.verdicts[id] = v
	}
}

// guardView is what the guard says of a rollout; nil of one that names no
// objectives.
func (s *scheduler) guardView(id rollout.ID, spec *rollout.Spec, now time.Time) *control.GuardView {
	if spec.Guard == nil {
		return nil
	}
	unclear := s.snap.Unclear(id, now)
	v := &control.GuardView{Clear: unclear.Code == "", Why: unclear.Detail, OnBreach: cmp.Or(spec.Guard.OnBreach, rollout.BreachFreezes)}
	if c := s.guard.said[id]; c != nil {
		v.Standings = c.Standings
		if v.Clear && c.For > 0 {
			v.Until = s.guard.heard.Add(time.Duration(c.For)).UTC()
		}
	}
	return v
}

// unguarded warns of a guard that is silent while a rollout waits for it.
func (s *scheduler) unguarded(now time.Time) string {
	if now.Sub(s.guard.heard) <= guardSilent {
		return ""
	}
	var waiting []rollout.ID
	for _, id := range s.snap.Rollouts() {
		if st, err := s.snap.Status(id, now); err == nil && st.Record.State.Live() && st.Record.Spec.Guard != nil {
			waiting = append(waiting, id)
		}
	}
	if len(waiting) == 0 {
		return ""
	}
	return fmt.Sprintf("the guard has renewed nothing for %s, is sloguard running? Rollouts that name objectives: %s",
		rollout.Duration(now.Sub(s.guard.heard).Truncate(time.Second)), list(waiting))
}
