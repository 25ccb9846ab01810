package hostagent

import (
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Drift says what is done about a variable that was enacted and isn't what
// observe says any more.
type Drift string

// What can be done about drift. Empty is DriftReport.
const (
	DriftReport Drift = "report" // it is reported, and left to a rollout
	DriftEnact  Drift = "enact"  // the value is enacted again
)

// repair is what is done about drift. Of one variable, since its newest order.
type repair struct {
	repairing bool      // it drifted, and is enacted until observe says the value
	unstuck   bool      // it drifted as often as an enactment may fail
	enactedAt time.Time // when observe last came to say the value
}

func (v *variable) repairs() bool { return v.executes() && v.enactor.Drift == DriftEnact }

// drifted takes note that observe says something else than was enacted. A
// repair counts as an attempt like one that failed, and waits as long, until
// the value has stuck: what is reverted time and again ends as failed.
func (a *agent) drifted(v *variable, o order) {
	if v.repairing {
		return // and goes on
	}
	why := fmt.Sprintf("it was enacted, and observe says %q now", v.actual.Text())
	if !v.repairs() {
		a.setStatus(v, o, rollout.DriftedOff, why, why)
		return
	}
	v.repairing = true
	if v.unstuck = v.unstuck || v.attempts >= v.enactor.Retry.Attempts; v.unstuck {
		a.doesntStick(v, o)
	} else {
		a.setStatus(v, o, rollout.DriftedOff, why, why)
	}
}

// stuck takes note that observe says the value. It has stuck if it still does
// after the longest wait; what was before is forgotten then.
func (a *agent) stuck(now time.Time, v *variable) {
	if v.repairs() && v.attempts > 0 && !now.Before(v.enactedAt.Add(time.Duration(v.enactor.Retry.Max))) {
		v.attempts, v.next, v.repair = 0, time.Time{}, repair{}
	}
}

// doesntStick reports a value that is there, but drifted too often to be
// trusted.
func (a *agent) doesntStick(v *variable, o order) {
	why := fmt.Sprintf("it doesn't stick: it was enacted and drifted again, %d attempts in a row", v.enactor.Retry.Attempts)
	a.setStatus(v, o, rollout.EnactFail, why, why)
}
