package control

import (
	"encoding/json"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
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
	RolloutApprove   Verb = "rollout.approve"   // RolloutRequest → RolloutView
	RolloutAdvance   Verb = "rollout.advance"   // AdvanceRequest → RolloutView
	RolloutRelease   Verb = "rollout.release"   // HostReleaseRequest → RolloutView
	RolloutRollback  Verb = "rollout.rollback"  // RollbackRequest → RolloutView, of the rollback
	HostList         Verb = "host.list"         // HostListRequest → HostListResponse
	HostShow         Verb = "host.show"         // HostRequest → HostView
	HostDecommission Verb = "host.decommission" // HostRequest → HostView
	HostPin          Verb = "host.pin"          // PinRequest → HostView
	HostUnpin        Verb = "host.unpin"        // PinRequest → HostView
	BlackoutList     Verb = "blackout.list"     // Empty → []BlackoutView
	ObjectiveList    Verb = "objective.list"    // Empty → []ObjectiveView
	Start            Verb = "start"             // ReleaseRequest → StopView
	Status           Verb = "status"            // Empty → StatusView
	Why              Verb = "why"               // WhyRequest → WhyView
)

// Empty is the request of the verbs that take nothing.
type Empty struct{}

// ApplyRequest asks for documents to be made true, whatever order they stand
// in: variables and objectives come first, then blackouts, pins, and rollouts. All of them are
// checked before the first is written; a fault in one refuses all.
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
	// Changes are the fields that differ, by path; of a document that is
	// created, all that are set.
	Changes []FieldChange `json:"changes,omitempty"`
	// Plan says how the plan of a rollout changes, or what it is.
	Plan *PlanChange `json:"plan,omitempty"`
}

// FieldChange is one field of a document that differs. Values are JSON; From is
// absent where the field wasn't set, To where it no longer is.
type FieldChange struct {
	Field string          `json:"field"`
	From  json.RawMessage `json:"from,omitempty"`
	To    json.RawMessage `json:"to,omitempty"`
}

// PlanChange compares a rollout's plan before and after a change. Told hosts
// stay told.
type PlanChange struct {
	EndsBefore   time.Time `json:"endsBefore,omitzero"` // zero for one that is created
	Ends         time.Time `json:"ends,omitzero"`
	TargetBefore int       `json:"targetBefore,omitempty"`
	Target       int       `json:"target"`
	Told         int       `json:"told"` // hosts that stay told
}

// GetRequest asks for the documents of one kind; an empty name asks for all.
type GetRequest struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
}

// GetResponse holds the documents as they were applied.
type GetResponse struct {
	Documents []Document `json:"documents"`
}

// DeleteRequest asks for the end of a variable, an objective, a blackout or a pin
// (by its host). A variable that hosts carry is refused, and so is an objective
// that a rollout names which may still tell hosts.
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

// AdvanceRequest lets a rollout go on faster than its ramp: to the share To of
// its target, or, without To, past the canary's bake or to the next wave.
type AdvanceRequest struct {
	ID  rollout.ID      `json:"id"`
	To  rollout.Percent `json:"to,omitempty"`
	Why string          `json:"why,omitempty"`
}

// HostReleaseRequest frees a host's place in flight. Why can't be left out.
type HostReleaseRequest struct {
	ID   rollout.ID   `json:"id"`
	Host rollout.Host `json:"host"`
	Why  string       `json:"why"`
}

// RollbackRequest takes a rollout's hosts back: to what each had before, or to
// To. ToText, where To is absent, is read as the variable's type. Over is by
// default a tenth of the time that its ramp has run. Why can't be left out.
type RollbackRequest struct {
	ID     rollout.ID       `json:"id"`
	To     rollout.Value    `json:"to,omitzero"`
	ToText string           `json:"toText,omitempty"`
	Over   rollout.Duration `json:"over,omitempty"`
	Why    string           `json:"why"`
}

// RolloutView is a rollout as it stands.
type RolloutView struct {
	ID       rollout.ID    `json:"id"`
	Variable rollout.Name  `json:"variable"`
	To       rollout.Value `json:"to,omitzero"`      // absent: it removes the variable, or takes it back to what each host had
	Remove   bool          `json:"remove,omitempty"` // it takes the variable out of documents
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
	// now on, or, where only its objectives are watched, when that ends; absent
	// where something holds it or it has ended.
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
	NotEnacted int  `json:"toldNotEnacted,omitempty"`
	Layer      bool `json:"layer,omitempty"` // completed, and still covers joins
	// Started is when the ramp's clock started, after the canary; PlannedEnd the
	// end that was foreseen then.
	Started    time.Time `json:"started,omitzero"`
	PlannedEnd time.Time `json:"plannedEnd,omitzero"`
	// Held is for how long it stood still for each reason, the longest first;
	// Late is by how much it ends, or ended, after PlannedEnd.
	Held []HeldView       `json:"held,omitempty"`
	Late rollout.Duration `json:"late,omitempty"`
	// ApprovalsNeeded counts the approvals that it waits for or will wait for.
	ApprovalsNeeded int                `json:"approvalsNeeded,omitempty"`
	Approvals       []rollout.Approval `json:"approvals,omitempty"`
	RollbackOf      rollout.ID         `json:"rollbackOf,omitempty"`
	Rollback        rollout.ID         `json:"rollback,omitempty"` // the rollback that takes its hosts back
	Pinned          int                `json:"pinned,omitempty"`   // hosts that it selects and that a pin holds elsewhere; in show only
	Guard           *GuardView         `json:"guard,omitempty"`    // of one that names objectives; in show only
	Spec            *rollout.Spec      `json:"spec,omitempty"`     // in show only
}

// HeldView is for how long a rollout stood still for one reason.
type HeldView struct {
	Reason rollout.Code     `json:"reason"`
	For    rollout.Duration `json:"for"`
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
	// Evidence is the guard's, where it was the guard; in show only.
	Evidence *slo.Verdict `json:"evidence,omitempty"`
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
	// Confirm is how long a host is assumed to take from being told to
	// confirming; 0: no time.
	Confirm rollout.Duration `json:"confirm,omitempty"`
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
	// Clock is when the ramp's clock starts, or did: after the canary. Length is
	// how long it runs from then.
	Clock  time.Time        `json:"clock,omitzero"`
	Length rollout.Duration `json:"length"`
	Told   int              `json:"told"` // hosts that have had their turn already
	// Days counts the hosts told on each day on which there are any, and Zones
	// by the label zone, of which there is none where no host has it.
	Days  []PlanDay  `json:"days"`
	Zones []PlanZone `json:"zones,omitempty"`
	// Curve samples how many hosts have been told by when, first to last.
	Curve []PlanPoint `json:"curve"`
	// Closed are the stretches in which nobody is told, at most 1,000.
	Closed []PlanClosure `json:"closed,omitempty"`
	// Costs is how much later it ends because of each reason, if hosts take
	// Confirm to confirm.
	Costs []HeldView `json:"costs,omitempty"`
	// Conflicts are in plain words: blackouts, other rollouts of the same hosts,
	// pins, hosts that are offline.
	Conflicts []string `json:"conflicts,omitempty"`
	// Power says what the guard would make of changes that break hosts; absent
	// where the rollout names no objectives.
	Power []slo.Power `json:"power,omitempty"`
}

// PlanDay is one day of a plan, in UTC.
type PlanDay struct {
	Day   string `json:"day"` // 2026-12-01
	Hosts int    `json:"hosts"`
	Total int    `json:"total"` // by the day's end
}

// PlanZone is a zone in a plan.
type PlanZone struct {
	Zone  rollout.Word `json:"zone,omitempty"` // "" for hosts without the label
	Hosts int          `json:"hosts"`
	First time.Time    `json:"first"`
	Last  time.Time    `json:"last"`
}

// PlanPoint is how many hosts have been told by a time.
type PlanPoint struct {
	Time  time.Time `json:"time"`
	Hosts int       `json:"hosts"`
}

// PlanClosure is a stretch in which nobody is told.
type PlanClosure struct {
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// PlanHost is one host's place in a plan.
type PlanHost struct {
	Host     rollout.Host `json:"host"`
	Role     rollout.Word `json:"role"`
	Position int          `json:"position"` // in its role, from 1
	Due      time.Time    `json:"due"`
	Canary   bool         `json:"canary,omitempty"`
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

// PinRequest holds a variable of a host at a value, beside what is pinned
// there already; the value may be left out, which means the one that the host
// was last told. ValueText, where Value is absent, is read as the variable's
// type. For unpin, without a variable, it ends all pins of the host. Why can't
// be left out.
type PinRequest struct {
	Host      rollout.Host  `json:"host"`
	Variable  rollout.Name  `json:"variable,omitempty"`
	Value     rollout.Value `json:"value,omitzero"`
	ValueText string        `json:"valueText,omitempty"`
	Until     time.Time     `json:"until,omitzero"`
	Why       string        `json:"why"`
}

// BlackoutView is a blackout and whether it is in force.
type BlackoutView struct {
	rollout.Blackout
	InForce bool `json:"inForce"`
	// Next is when it ends if it is in force, else when it begins; absent where
	// it never does again.
	Next time.Time `json:"next,omitzero"`
	// Holds are the live rollouts that it holds now.
	Holds []rollout.ID `json:"holds,omitempty"`
}

// ObjectiveView is an objective and where it is in use.
type ObjectiveView struct {
	slo.Objective
	// Rollouts are those that name it and may still tell hosts: live ones and
	// layers.
	Rollouts []rollout.ID `json:"rollouts,omitempty"`
}

// GuardView is what the guard says of a rollout that names objectives.
type GuardView struct {
	// Clear says that the evidence is fresh enough to go on; Until until when, if
	// no more comes. Why says why it isn't.
	Clear    bool             `json:"clear"`
	Until    time.Time        `json:"until,omitzero"`
	Why      string           `json:"why,omitempty"`
	OnBreach rollout.OnBreach `json:"onBreach"`
	// Standings are the evidence against the rollout, an objective each; absent
	// where the guard has said nothing of it.
	Standings []slo.Standing `json:"standings,omitempty"`
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
	Pin        *rollout.Pin                   `json:"pin,omitempty"`
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
func (r AdvanceRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r HostReleaseRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r RollbackRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r PinRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r HostRequest) Reason() string { return r.Why }

// Reason is what the operator says.
func (r ReleaseRequest) Reason() string { return r.Why }
