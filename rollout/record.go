package rollout

import "time"

// State is where a rollout stands in its life. Why a running one isn't moving
// is not a state but a [Reason].
type State string

// The states. Pending, Running, PausedState and FrozenState are live;
// Completed ones go on as layers, the others have ended.
const (
	StatePending    State = "pending"
	StateRunning    State = "running"
	StatePaused     State = "paused"
	StateFrozen     State = "frozen"
	StateCompleted  State = "completed"
	StateCancelled  State = "cancelled"
	StateSuperseded State = "superseded"
)

// Live says whether the rollout may still move its variable by its ramp.
func (s State) Live() bool {
	return s == StatePending || s == StateRunning || s == StatePaused || s == StateFrozen
}

// Record is the value of rollout.<id>: what was asked for, what was drawn at
// the start and stays, and the state. Its size follows the roles, never the
// hosts. It is written on transitions only.
type Record struct {
	Spec  Spec  `json:"spec"`
	State State `json:"state"`
	// Why is the reason of the last transition: "start", what the operator
	// said, or the abort's text.
	Why string `json:"why,omitempty"`
	// By is who made the last transition; Author is who started the rollout.
	By      ID        `json:"by"`
	Author  ID        `json:"author"`
	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"` // of the last transition
	// Salt makes the order of hosts unforeseeable to agents.
	Salt string `json:"salt"`
	// Theta is the phase in [0,1) of each role (or part of one that a limit cuts out), fixed when the ramp's clock first
	// starts; a role that isn't in it gets a hash.
	Theta map[string]float64 `json:"theta,omitzero"`
	// Clock is when the ramp's clock started, after the canary's bake. Length
	// is how long it runs from then: the ramp's Over, or, where there are
	// windows, how much of that they were open. Planned is the end that was
	// foreseen then.
	Clock   time.Time     `json:"clock,omitzero"`
	Length  time.Duration `json:"length,omitempty"` // in nanoseconds
	Planned time.Time     `json:"planned,omitzero"`
	// Advanced is the share, 0 to 1, that an operator let the ramp jump to, and
	// Baked that one ended the canary's bake.
	Advanced  float64    `json:"advanced,omitempty"`
	Baked     bool       `json:"baked,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"`
	// From is what the variable's value was when the rollout was created.
	From Value `json:"from,omitzero"`
	// Acknowledged is the sequence of the newest revision of abort.<id> that a
	// named operator has acknowledged; 0 where there was none.
	Acknowledged uint64 `json:"acknowledged,omitempty"`
	// Abort is the sequence of the revision of abort.<id> that froze it.
	Abort uint64 `json:"abort,omitempty"`
}

// Approval is one operator's word that a rollout, or one of its waves, may
// start.
type Approval struct {
	By   ID        `json:"by"`
	Time time.Time `json:"time"`
	Why  string    `json:"why,omitempty"`
	Wave int       `json:"wave,omitempty"` // from 1; 0: the rollout's start
}

// Progress is the value of progress.<id>, written with every step: under 1 KB.
type Progress struct {
	Step string `json:"step"` // the id of the step that wrote it
	// Elapsed is what the ramp's clock shows as of this step.
	Elapsed time.Duration `json:"elapsed"`
	// Led is what the leaders' clock showed then: the sum of all time in which
	// a scheduler led, charged up to each last renewal. While Running, the
	// ramp's clock advances as it does, so an outage adds nothing.
	Led     time.Duration `json:"led"`
	Running bool          `json:"running"`
	At      time.Time     `json:"at,omitzero"` // of this step
	// CaughtUp is what the ramp's clock showed when an overdue host was last
	// told; the next may be told one gap later. Negative: never yet.
	CaughtUp time.Duration `json:"caughtUp"`
	// Last is when the ramp last told a host; zero: never yet. A layer's tells
	// don't count.
	Last time.Time `json:"last,omitzero"`
	// Baking is what the leaders' clock showed when the last canary confirmed;
	// 0: they haven't all.
	Baking time.Duration `json:"baking,omitempty"`
	// Held is for how long the rollout stood still for each reason, so far.
	Held      map[Code]time.Duration `json:"held,omitempty"`
	Target    int                    `json:"target"`
	Told      int                    `json:"told"`
	Confirmed int                    `json:"confirmed"`
	Failed    int                    `json:"failed"`
	Hold      Reason                 `json:"hold,omitzero"` // what holds the rollout; zero: nothing
}

// Told says, for one variable of a host's document, who told it and why.
type Told struct {
	Rollout    ID        `json:"rollout,omitempty"`
	Generation uint64    `json:"generation"` // of the document that first carried it
	Time       time.Time `json:"time"`
	Checks     []ID      `json:"checks,omitempty"` // that were green on the host when it was told
	// File says that being in the host's files is all there is to the variable.
	File bool `json:"file,omitempty"`
	// Previous is the value before a rollout changed it.
	Previous Value `json:"previous,omitzero"`
	Released bool  `json:"released,omitempty"` // an operator freed its place in flight
	Pin      bool  `json:"pin,omitempty"`      // a pin told it
}

// Desired is what a host was last told: the body of desired.<host> and, from
// its headers, the generation and who told each variable.
type Desired struct {
	Values     Document
	Generation uint64
	Told       map[Name]Told
}

// Report is the value of a host's key in the inventory: what the host is, has
// and runs, written by its agent alone.
type Report struct {
	Role   Word           `json:"role"`
	Labels map[Word]Word  `json:"labels,omitempty"`
	Actual Document       `json:"actual,omitempty"` // what observe said; a variable that can't be observed is absent
	Enact  map[Name]Enact `json:"enact,omitempty"`  // for each variable of the document
	Checks map[ID]Check   `json:"checks,omitempty"`
	// Generation is that of the newest document that the host has taken and
	// put on its disk.
	Generation uint64 `json:"generation"`
	Version    string `json:"version,omitempty"` // of the agent
	Boot       string `json:"boot"`              // drawn at each start of the agent
	// Event is the sequence of the newest health event when the report was made:
	// what it says of checks is older than a later event.
	Event uint64 `json:"event,omitempty"`
	// Held says why the host changes nothing, for people; empty: it isn't held.
	Held string `json:"held,omitempty"`
}

// EnactStatus says how far a host is with making a variable true.
type EnactStatus string

// The statuses.
const (
	Enacted   EnactStatus = "enacted"   // observe says the value (or the enactor exited 0 where nothing observes)
	Enacting  EnactStatus = "enacting"  // the enactor runs
	Retrying  EnactStatus = "retrying"  // it failed and will be tried again
	EnactFail EnactStatus = "failed"    // it failed for good; tried again at the longest interval
	Unenacted EnactStatus = "unenacted" // no enactor is configured
	// Unobserved: the host wasn't told the variable, and its observer fails, so
	// nobody knows what it runs.
	Unobserved EnactStatus = "unobserved"
	DriftedOff EnactStatus = "drifted" // enacted once, and observe says something else now
)

// Enact is the status of one variable on a host.
type Enact struct {
	Status     EnactStatus `json:"status"`
	Generation uint64      `json:"generation,omitempty"` // of the document that asked for it
	Attempts   int         `json:"attempts,omitempty"`
	Error      string      `json:"error,omitempty"`  // of the last attempt, bounded
	Pinned     bool        `json:"pinned,omitempty"` // a pin told it
}

// CheckStatus is what a check says.
type CheckStatus string

// The statuses of a check. Pending: it passes, but not yet for its `for`.
const (
	Passing CheckStatus = "passing"
	Pending CheckStatus = "pending"
	Failing CheckStatus = "failing"
)

// Check is the status of one check on a host.
type Check struct {
	Status CheckStatus `json:"status"`
	// Generation is the document's at which the check last started anew: a
	// check that is Passing with Generation g has passed for its `for` since
	// the document g was enacted, without a break.
	Generation uint64 `json:"generation,omitempty"`
	Output     string `json:"output,omitempty"` // of the last failure, bounded
}
