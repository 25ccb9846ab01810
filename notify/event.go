package notify

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Kind says what happened.
type Kind string

// The kinds of events.
const (
	Started         Kind = "started"
	WaveDone        Kind = "wave_done"
	Held            Kind = "held"   // it has stood still for a while
	Moving          Kind = "moving" // a hold that was told is over
	Paused          Kind = "paused"
	Aborted         Kind = "aborted"
	Resumed         Kind = "resumed"
	Completed       Kind = "completed"
	Cancelled       Kind = "cancelled"
	Superseded      Kind = "superseded"
	RollbackStarted Kind = "rollback_started"
	RolledBack      Kind = "rolled_back"
	Stopped         Kind = "stopped"  // the red button
	Released        Kind = "released" // of the red button
)

// Kinds are all kinds, in the order in which they are listed to people.
var Kinds = []Kind{
	Started, WaveDone, Held, Moving, Paused, Aborted, Resumed, Completed, Cancelled, Superseded,
	RollbackStarted, RolledBack, Stopped, Released,
}

func (k Kind) known() bool { return slices.Contains(Kinds, k) }

// Event is what a receiver is told. Its JSON is documented in
// docs/notifications.md.
type Event struct {
	// ID is the same each time that the event is sent: receivers tell by it what
	// they have had.
	ID   string    `json:"id"`
	Kind Kind      `json:"event"`
	Time time.Time `json:"time"` // when it happened, by the broker's clock
	// Test says that nothing happened: somebody tries the receivers.
	Test bool `json:"test,omitempty"`

	Rollout    rollout.ID    `json:"rollout,omitempty"` // absent of the red button
	Variable   rollout.Name  `json:"variable,omitempty"`
	To         rollout.Value `json:"to,omitzero"`
	State      rollout.State `json:"state,omitempty"`
	RollbackOf rollout.ID    `json:"rollbackOf,omitempty"`

	What   string       `json:"what"`             // a sentence without its full stop
	Why    string       `json:"why,omitempty"`    // what a person, the guard or the scheduler says
	Reason rollout.Code `json:"reason,omitempty"` // of a hold
	Actor  string       `json:"actor,omitempty"`  // as the record has it
	// Sequence is that of the abort or stop, which has to be acknowledged.
	Sequence uint64          `json:"sequence,omitempty"`
	Evidence json.RawMessage `json:"evidence,omitempty"` // the guard's
	Wave     int             `json:"wave,omitempty"`     // that is done, from 1
	Waves    int             `json:"waves,omitempty"`    // that there are
	Hosts    *Hosts          `json:"hosts,omitempty"`    // absent where nobody has counted them yet

	Next string   `json:"next"`           // the command to type next
	Then []string `json:"then,omitempty"` // what may come after a look
}

// Hosts counts the rollout's hosts, as they were at its last step.
type Hosts struct {
	Target    int `json:"target"`
	Told      int `json:"told"`
	Confirmed int `json:"confirmed"`
	Failed    int `json:"failed"`
}

// Example is an event of a kind that never happened.
func Example(k Kind, now time.Time) Event {
	const id = "docker-1-12-3"
	to, _ := rollout.StringValue("1.12.3") // which is one
	r := rollout.Record{
		Spec:   rollout.Spec{Name: id, Variable: "docker_version", To: to, Ramp: rollout.Ramp{Shape: rollout.Waves, Waves: []rollout.Wave{{Percent: 10}, {Percent: 100, Approval: true}}}},
		Author: "ada", By: "ada", Why: "an example",
	}
	if k == RollbackStarted || k == RolledBack {
		r.Spec.Name, r.Spec.Rollback = id+"-rollback", id
	}
	r.State = exampleStates[k]
	t := &tracked{record: &r, progress: &rollout.Progress{Target: 200, Told: 20, Confirmed: 17, Failed: 3}}
	e := Event{ID: "test." + string(k) + "." + now.UTC().Format("20060102T150405.000Z"), Kind: k, Time: now.UTC(), Test: true, Actor: "ada", Why: "an example"}
	switch k {
	case Stopped, Released:
		e.Sequence = 4711
		brake(&e)
		return e
	case Aborted, Resumed:
		e.Sequence = 4711
	case WaveDone:
		e.Wave, e.Waves = 1, 2
	case Held, Moving:
		e.Reason = rollout.InFlightLimit
		e.Why = rollout.Reason{Code: rollout.InFlightLimit, InFlight: 3, Limit: 3}.String()
	}
	t.describe(&e)
	return e
}

var exampleStates = map[Kind]rollout.State{
	Started: rollout.StateRunning, WaveDone: rollout.StateRunning, Held: rollout.StateRunning, Moving: rollout.StateRunning,
	Paused: rollout.StatePaused, Aborted: rollout.StateFrozen, Resumed: rollout.StateRunning, Completed: rollout.StateCompleted,
	Cancelled: rollout.StateCancelled, Superseded: rollout.StateSuperseded,
	RollbackStarted: rollout.StatePending, RolledBack: rollout.StateCompleted,
}
