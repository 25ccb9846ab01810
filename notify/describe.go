package notify

import (
	"fmt"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// describe says of whom an event is, where that one stands, what happened, and
// what to type next.
func (t *tracked) describe(e *Event) {
	if t.record == nil { // an abort of what there isn't
		e.What = fmt.Sprintf("abort.%s was written, and there is no rollout %s: it stops nothing", e.Rollout, e.Rollout)
		e.Next = "tsunamictl rollout list"
		return
	}
	r := t.record
	e.Rollout, e.Variable, e.To, e.State, e.RollbackOf = r.Spec.Name, r.Spec.Variable, r.Spec.To, r.State, r.Spec.Rollback
	if p := t.progress; p != nil {
		e.Hosts = &Hosts{p.Target, p.Told, p.Confirmed, p.Failed}
	}
	id := string(e.Rollout)
	ctl := func(format string, args ...any) string { return "tsunamictl rollout " + fmt.Sprintf(format, args...) }
	show, back := ctl("show %s", id), ctl("rollback %s --why …", id)
	e.Next = show
	switch e.Kind {
	case Started:
		e.What = id + " has started: " + t.aim()
		e.Next, e.Then = ctl("watch %s", id), []string{ctl("abort %s --why …", id)}
	case WaveDone:
		t.describeWave(e, id)
	case Held:
		t.describeHold(e, id)
	case Moving:
		e.What = id + " moves again"
	case Paused:
		e.What, e.Then = id+" is paused", []string{ctl("resume %s", id)}
	case Aborted:
		e.What, e.Then = id+" is frozen: no more hosts are told", []string{ctl("resume %s --acknowledge %d --why …", id, e.Sequence)}
		if r.State == rollout.StateCompleted {
			e.What = id + ", which has completed, is aborted: hosts that join aren't told any more"
		}
		if r.Spec.Rollback == "" {
			e.Then = append(e.Then, back)
		}
	case Resumed:
		e.What, e.Next = id+" goes on", ctl("watch %s", id)
		if e.Sequence > 0 {
			e.What += fmt.Sprintf(": abort %d is acknowledged", e.Sequence)
		}
	case Completed:
		e.What, e.Then = id+" is complete", []string{back}
	case Cancelled:
		e.What = id + " is cancelled: its hosts keep what they have"
	case Superseded:
		e.What, e.Next = id+" is superseded", ctl("list")
	case RollbackStarted:
		e.What = fmt.Sprintf("%s takes back what %s told", id, r.Spec.Rollback)
		e.Next, e.Then = ctl("watch %s", id), []string{ctl("abort %s --why …", id)}
	case RolledBack:
		e.What = fmt.Sprintf("%s is complete: what %s told is taken back", id, r.Spec.Rollback)
	}
}

// aim says what a rollout is to do.
func (t *tracked) aim() string {
	s := fmt.Sprintf("%s goes to %s", t.record.Spec.Variable, t.record.Spec.To)
	if t.record.Spec.Remove {
		s = fmt.Sprintf("%s is taken out", t.record.Spec.Variable)
	}
	if t.progress != nil && t.progress.Target > 0 {
		s += fmt.Sprintf(", target: %d hosts", t.progress.Target)
	}
	return s
}

func (t *tracked) describeWave(e *Event, id string) {
	waves := t.record.Spec.Ramp.Waves
	next := waves[e.Wave]
	e.What = fmt.Sprintf("wave %d of %d (%s) of %s is done", e.Wave, e.Waves, waves[e.Wave-1].Percent, id)
	given := false
	for _, a := range t.record.Approvals {
		given = given || a.Wave == e.Wave+1
	}
	if next.Approval && !given {
		e.What += fmt.Sprintf("; wave %d (%s) waits for an approval", e.Wave+1, next.Percent)
		e.Next, e.Then = approve(id), []string{e.Next}
		return
	}
	e.What += fmt.Sprintf("; wave %d (%s) follows", e.Wave+1, next.Percent)
}

func (t *tracked) describeHold(e *Event, id string) {
	if e.What == "" {
		e.What = id + " stands still"
	}
	switch e.Reason {
	case rollout.AwaitingApproval:
		e.What = id + " waits for an approval"
		e.Next, e.Then = approve(id), []string{e.Next}
	case rollout.NoFreshEvidence, rollout.AuditBehind, rollout.HostUnheard:
		e.Then = []string{"tsunamictl status"}
	case rollout.InFlightLimit, rollout.Unconfirmed, rollout.CanaryBake:
		e.Then = []string{fmt.Sprintf("tsunamictl rollout release %s HOST --why …", id)}
	}
}

func approve(id string) string { return "tsunamictl rollout approve " + id + " --why …" }

// brake describes what was done with the red button.
func brake(e *Event) {
	if e.Kind == Released {
		e.What, e.Next = "the stop is released: rollouts go on", "tsunamictl rollout list"
		return
	}
	e.What, e.Next = "everything is stopped: no host is told anything", "tsunamictl status"
	e.Then = []string{fmt.Sprintf("tsunamictl start --acknowledge %d --why …", e.Sequence)}
}
