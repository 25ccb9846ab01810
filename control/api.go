package control

import (
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Verb names a request. On the wire it is the end of the subject
// tsunami.api.<actor>.<verb>.
type Verb string

// The verbs, with their request and response types.
const (
	Apply            Verb = "apply"             // ApplyRequest → ApplyResponse
	Get              Verb = "get"               // GetRequest → GetResponse
	Delete           Verb = "delete"            // DeleteRequest → DeleteResponse
	VariableList     Verb = "variable.list"     // Empty → []VariableView
	RolloutStart     Verb = "rollout.start"     // StartRequest → RolloutView
	RolloutList      Verb = "rollout.list"      // Empty → []RolloutView
	RolloutShow      Verb = "rollout.show"      // RolloutRequest → RolloutView
	RolloutPlan      Verb = "rollout.plan"      // PlanRequest → PlanView
	RolloutPause     Verb = "rollout.pause"     // RolloutRequest → RolloutView
	RolloutResume    Verb = "rollout.resume"    // RolloutRequest → RolloutView
	RolloutCancel    Verb = "rollout.cancel"    // RolloutRequest → RolloutView
	HostList         Verb = "host.list"         // HostListRequest → HostListResponse
	HostShow         Verb = "host.show"         // HostRequest → HostView
	HostDecommission Verb = "host.decommission" // HostRequest → HostView
	Start            Verb = "start"             // ReleaseRequest → StopView
	Status           Verb = "status"            // Empty → StatusView
	Why              Verb = "why"               // WhyRequest → WhyView
)

// Empty is the request of the verbs that take nothing.
type Empty struct{}

// ApplyRequest asks for documents to be made true, in the order given. All of
// them are checked before the first is written; a fault in one refuses all.
type ApplyRequest struct {
	Documents []Document `json:"documents"`
	DryRun    bool       `json:"dryRun,omitempty"`
}

// ApplyResponse says what applying did, or with DryRun would do, document by
// document.
type ApplyResponse struct {
	Results []ApplyResult `json:"results"`
	DryRun  bool          `json:"dryRun,omitempty"`
}

// ApplyResult is the outcome for one document.
type ApplyResult struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Action string `json:"action"` // created, changed or unchanged
	// Note is a consequence worth knowing: "a later initial changes nothing".
	Note string `json:"note,omitempty"`
}

// GetRequest asks for the documents of one kind ("Variable" or "Rollout"); an
// empty name asks for all.
type GetRequest struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
}

// GetResponse holds the documents as they were applied.
type GetResponse struct {
	Documents []Document `json:"documents"`
}

// DeleteRequest asks for a variable's end. One that hosts carry is refused.
type DeleteRequest struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// DeleteResponse repeats what was deleted.
type DeleteResponse struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// VariableView is a variable and where the fleet stands with it.
type VariableView struct {
	rollout.Variable
	// Hosts counts the hosts by the value that they were told, and Actual by
	// the value that they report; "" counts those without one.
	Hosts  map[string]int `json:"hosts"`
	Actual map[string]int `json:"actual"`
	// Drifted counts hosts whose actual differs from what they were told, or,
	// untold, from the variable's value.
	Drifted   int        `json:"drifted"`
	Unenacted int        `json:"unenacted"`         // told, but without an enactor for it
	Rollout   rollout.ID `json:"rollout,omitempty"` // the live one
}

// StartRequest starts a rollout. Without a name the service makes one of the
// variable and the value: docker-version-1-12-3, then -2. ToText, where To is
// absent, is read as the variable's type.
type StartRequest struct {
	Rollout rollout.Spec `json:"rollout"`
	ToText  string       `json:"toText,omitempty"`
}

// RolloutRequest names a rollout and says why. Acknowledge is, for resuming a
// frozen rollout, the sequence of the abort that the operator has read.
type RolloutRequest struct {
	ID          rollout.ID `json:"id"`
	Why         string     `json:"why,omitempty"`
	Acknowledge uint64     `json:"acknowledge,omitempty"`
}

// RolloutView is a rollout as it stands.
type RolloutView struct {
	ID       rollout.ID    `json:"id"`
	Variable rollout.Name  `json:"variable"`
	To       rollout.Value `json:"to"`
	State    rollout.State `json:"state"`
	// Reason says why it is not moving, or why it ended; "" while it moves.
	Reason     string       `json:"reason"`
	ReasonCode rollout.Code `json:"reasonCode,omitempty"`
	Target     int          `json:"target"`
	Told       int          `json:"told"` // hosts of the target that were told the value or had it before
	Confirmed  int          `json:"confirmed"`
	Failed     int          `json:"failed"`
	InFlight   int          `json:"inFlight"`
	Limit      int          `json:"inFlightLimit"`
	Fraction   float64      `json:"fraction"` // told of target, 0 to 1
	Planned    int          `json:"planned"`  // hosts that the straight line has told by now, by the ramp's clock
	// Ends is when the ramp's clock comes to its end if nothing holds it from
	// now on; absent where something holds it or it has ended.
	Ends    time.Time        `json:"ends,omitzero"`
	Elapsed rollout.Duration `json:"elapsed"` // of the ramp's clock
	Over    rollout.Duration `json:"over"`
	Next    time.Time        `json:"next,omitzero"` // when the next host is due
	Author  rollout.ID       `json:"author"`
	By      rollout.ID       `json:"by"`
	Created time.Time        `json:"created"`
	Changed time.Time        `json:"changed"`
	Why     string           `json:"why,omitempty"`
	Roles   []RoleView       `json:"roles,omitempty"`   // in show only
	Waiting []FlightView     `json:"waiting,omitempty"` // told and not confirmed, the longest first, at most 100; in show only
	Abort   *AbortView       `json:"abort,omitempty"`   // the unacknowledged or last abort
	// NotEnacted counts, after a freeze, hosts that were told and may yet enact.
	NotEnacted int           `json:"toldNotEnacted,omitempty"`
	Layer      bool          `json:"layer,omitempty"` // completed, and still covers joins
	Spec       *rollout.Spec `json:"spec,omitempty"`  // in show only
}

// RoleView is one role of a rollout.
type RoleView struct {
	Role      rollout.Word `json:"role"`
	Hosts     int          `json:"hosts"`
	Target    int          `json:"target"`
	Told      int          `json:"told"`
	Confirmed int          `json:"confirmed"`
	Failed    int          `json:"failed"`
	InFlight  int          `json:"inFlight"`
	Next      time.Time    `json:"next,omitzero"`
}

// FlightView is one host in flight.
type FlightView struct {
	Host   rollout.Host        `json:"host"`
	Role   rollout.Word        `json:"role"`
	Since  time.Time           `json:"since"`
	Status rollout.EnactStatus `json:"status,omitempty"`
	Error  string              `json:"error,omitempty"`
	Online bool                `json:"online"`
}

// AbortView is an abort or a stop.
type AbortView struct {
	Sequence uint64    `json:"sequence"`
	Why      string    `json:"why"`
	Actor    string    `json:"actor,omitempty"`
	Time     time.Time `json:"time,omitzero"`
}

// PlanRequest asks for the plan of a rollout by its id, or of a document that
// has not been started. The times of a document's plan count from now or from
// its start.
type PlanRequest struct {
	ID      rollout.ID    `json:"id,omitempty"`
	Rollout *rollout.Spec `json:"rollout,omitempty"`
	// First and Last bound how many hosts come back from either end; both 0
	// asks for all, of which at most 20,000 are sent: an answer of several
	// messages' length, which Client takes in parts.
	First int `json:"first,omitempty"`
	Last  int `json:"last,omitempty"`
}

// PlanView is what will happen to which host when, if nothing holds it.
type PlanView struct {
	ID rollout.ID `json:"id"`
	// Refused says why the document couldn't be started now; "" if it could.
	Refused string     `json:"refused,omitempty"`
	Starts  time.Time  `json:"starts"`
	Ends    time.Time  `json:"ends"`
	Target  int        `json:"target"`
	Hosts   []PlanHost `json:"hosts"`
	// Omitted counts hosts between the first and the last ones that aren't
	// listed.
	Omitted int        `json:"omitted,omitempty"`
	Roles   []RoleView `json:"roles"`
}

// PlanHost is one host's place in a plan.
type PlanHost struct {
	Host     rollout.Host `json:"host"`
	Role     rollout.Word `json:"role"`
	Position int          `json:"position"` // in its role, from 1
	Due      time.Time    `json:"due"`
}

// HostListRequest pages through the inventory in the order of names.
type HostListRequest struct {
	Where string       `json:"where,omitempty"`
	After rollout.Host `json:"after,omitempty"` // the last host of the page before
	Limit int          `json:"limit,omitempty"` // at most and by default 1,000
}

// HostListResponse is one page. More says that hosts follow.
type HostListResponse struct {
	Hosts []HostView `json:"hosts"`
	More  bool       `json:"more,omitempty"`
}

// HostRequest names a host and says why.
type HostRequest struct {
	Host rollout.Host `json:"host"`
	Why  string       `json:"why,omitempty"`
}

// HostView is one host.
type HostView struct {
	Host       rollout.Host                   `json:"host"`
	Role       rollout.Word                   `json:"role"`
	Labels     map[rollout.Word]rollout.Word  `json:"labels"`
	Desired    rollout.Document               `json:"desired"`
	Actual     rollout.Document               `json:"actual"`
	Online     bool                           `json:"online"`
	Checks     map[rollout.ID]rollout.Check   `json:"checks"`
	Enact      map[rollout.Name]rollout.Enact `json:"enact,omitempty"`
	Generation uint64                         `json:"generation"` // of the document it was last told
	Applied    uint64                         `json:"applied"`    // of the newest document it has taken
	LastSeen   time.Time                      `json:"lastSeen,omitzero"`
	Version    string                         `json:"version,omitempty"`
	// Problems are in plain words: drifted, overwritten by hand, …
	Problems []string `json:"problems,omitempty"`
}

// ReleaseRequest releases the stop whose sequence the operator has read.
type ReleaseRequest struct {
	Why         string `json:"why"`
	Acknowledge uint64 `json:"acknowledge"`
}

// StopView says whether everything is stopped.
type StopView struct {
	Stopped bool       `json:"stopped"`
	Stop    *AbortView `json:"stop,omitempty"`
}

// StatusView is the scheduler at a glance.
type StatusView struct {
	StopView
	Leader  string    `json:"leader"`
	Since   time.Time `json:"since"`
	Version string    `json:"version"`
	Hosts   int       `json:"hosts"`
	Online  int       `json:"online"`
	// Unheard counts hosts that a scheduler that has just begun to listen can't
	// know to be online or offline yet.
	Unheard int `json:"unheard,omitempty"`
	// Warnings are in plain words: what a person has to see to.
	Warnings []string `json:"warnings,omitempty"`
}

// WhyRequest asks why a host has a variable's value, and why not another.
type WhyRequest struct {
	Host     rollout.Host `json:"host"`
	Variable rollout.Name `json:"variable"`
}

// WhyView is the answer: what the host was told, when, by which rollout and
// why; and, where a rollout has yet to reach it, when that is due and what
// stands in the way.
type WhyView struct {
	Host      rollout.Host  `json:"host"`
	Variable  rollout.Name  `json:"variable"`
	Value     rollout.Value `json:"value,omitzero"`
	Actual    rollout.Value `json:"actual,omitzero"`
	Told      time.Time     `json:"told,omitzero"`
	Rollout   rollout.ID    `json:"rollout,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Actor     rollout.ID    `json:"actor,omitempty"`
	Confirmed bool          `json:"confirmed"`
	// Next is the rollout that has yet to reach the host, To its value.
	Next    rollout.ID    `json:"next,omitempty"`
	To      rollout.Value `json:"to,omitzero"`
	Due     time.Time     `json:"due,omitzero"`
	Blocked []string      `json:"blocked,omitempty"`
}

// AuditRecord is one change that was made, as the audit log has it: for a
// host's first document one a variable.
type AuditRecord struct {
	Sequence uint64        `json:"sequence"` // in the audit log
	Time     time.Time     `json:"time"`
	Kind     string        `json:"kind"`
	Name     string        `json:"name,omitempty"` // of the rollout, variable, …
	Host     rollout.Host  `json:"host,omitempty"`
	Variable rollout.Name  `json:"variable,omitempty"`
	Value    rollout.Value `json:"value,omitzero"`
	Previous rollout.Value `json:"previous,omitzero"`
	Rollout  rollout.ID    `json:"rollout,omitempty"`
	Reason   string        `json:"reason"`
	Actor    string        `json:"actor,omitempty"`
	// Origin is the record's sequence in the bucket.
	Origin     uint64 `json:"origin"`
	Generation uint64 `json:"generation,omitempty"`
}

// Reason is what the operator says.
func (r RolloutRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r HostRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r ReleaseRequest) Reason() string { return r.Why }
