package rollout

import (
	"fmt"
	"strings"
	"time"
)

// Code says in one word why something happened, or why it didn't yet.
type Code string

// Why a host was told something.
const (
	ByRamp     Code = "ramp"           // its place on the ramp came
	ByCatchUp  Code = "catch_up"       // its place had come, but something stood in the way then
	ByLayer    Code = "layer"          // a completed rollout covers it
	ByFirst    Code = "first_document" // it had no document
	ByAdoption Code = "adopted"        // it already runs the variable's value
	ByRestore  Code = "restored"       // its document had been overwritten or deleted by hand
	ByOperator Code = "operator"       // an operator did it
	ByRollout  Code = "completed"      // a rollout has completed with full coverage
	ByCanary   Code = "canary"         // it is one of the hosts that go first
	ByPin      Code = "pin"            // a pin holds the variable at this value
	ByRollback Code = "rollback"       // a rollback takes it back
	ByRelease  Code = "release"        // an operator freed its place in flight
)

// Why a rollout isn't moving, or a host isn't told.
const (
	Paused            Code = "paused"
	Frozen            Code = "frozen"
	Ended             Code = "ended"
	NotStarted        Code = "not_started"
	WaitingForRollout Code = "waiting_for_rollout"
	Stopped           Code = "stop"
	Aborted           Code = "abort"
	AuditBehind       Code = "audit_behind"
	InFlightLimit     Code = "in_flight_limit"
	RoleInFlightLimit Code = "role_in_flight_limit"
	HostOffline       Code = "host_offline"
	HostUnheard       Code = "host_unheard"
	HostSettling      Code = "host_settling"
	HostGone          Code = "host_gone"
	NotDueYet         Code = "not_due_yet"
	CatchingUp        Code = "catching_up"
	Unconfirmed       Code = "unconfirmed"
	BeyondTarget      Code = "beyond_target"
	NotSelected       Code = "not_selected"
	NoRollout         Code = "no_rollout"
	Drifted           Code = "drifted"
	RecordDamaged     Code = "record_damaged"
	Decommissioned    Code = "decommissioned"
	OutsideWindow     Code = "outside_window"
	InBlackout        Code = "blackout"
	CanaryBake        Code = "canary_bake"
	NoFreshEvidence   Code = "no_fresh_evidence"
	ObjectiveWindow   Code = "objective_window"
	AwaitingApproval  Code = "awaiting_approval"
	Pinned            Code = "pinned"
	RolledBack        Code = "rolled_back"
	NoScheduler       Code = "no_scheduler" // nobody led: only in the account of where a rollout's time went
)

// Reason is a typed reason with its numbers. Fields that don't apply to its
// Code are zero. Its JSON stands in Tsunami-Reason headers and records.
type Reason struct {
	Code     Code      `json:"code"`
	Role     Word      `json:"role,omitempty"`
	Host     Host      `json:"host,omitempty"`
	Rollout  ID        `json:"rollout,omitempty"`
	Position int       `json:"position,omitempty"` // the host's place in its role's order, from 1
	Target   int       `json:"target,omitempty"`   // of the role
	Told     int       `json:"told,omitempty"`     // in the role, before this
	Share    float64   `json:"share,omitempty"`    // of the ramp, 0 to 1
	InFlight int       `json:"inFlight,omitempty"`
	Limit    int       `json:"limit,omitempty"`
	Sequence uint64    `json:"sequence,omitempty"` // of the abort or stop
	Until    time.Time `json:"until,omitzero"`     // when it ends by itself, as far as is known
	Blackout ID        `json:"blackout,omitempty"`
	Wave     int       `json:"wave,omitempty"`   // from 1
	Detail   string    `json:"detail,omitempty"` // what a person said, or what was found
}

// String gives the reason as a sentence without its full stop.
func (r Reason) String() string {
	switch r.Code {
	case "":
		return ""
	case ByRamp:
		return fmt.Sprintf("the ramp is at %.2f%%: host %d of %d in role %s", 100*r.Share, r.Position, r.Target, r.Role)
	case ByCatchUp:
		return fmt.Sprintf("overdue, its place on the ramp had come before: host %d of %d in role %s", r.Position, r.Target, r.Role)
	case ByLayer:
		return fmt.Sprintf("%s has completed and covers it: host %d of %d in role %s", r.Rollout, r.Position, r.Target, r.Role)
	case ByRollout:
		return fmt.Sprintf("%s has completed: it is the fleet's value now", r.Rollout)
	case ByFirst:
		return "the host's first document"
	case ByAdoption:
		return "the host already runs the variable's value"
	case ByRestore:
		return "its document was overwritten or deleted by hand; this is the last good one"
	case Paused:
		return withDetail("paused", r.Detail)
	case Frozen, Aborted:
		return withDetail(fmt.Sprintf("frozen by abort %d", r.Sequence), r.Detail)
	case Stopped:
		return withDetail(fmt.Sprintf("everything is stopped by stop %d", r.Sequence), r.Detail)
	case NotStarted:
		return withDetail("its start has not come", r.Detail)
	case WaitingForRollout:
		return withDetail(fmt.Sprintf("waits for %s to complete", r.Rollout), r.Detail)
	case AuditBehind:
		return "the audit log is behind; nothing is told until it has caught up"
	case InFlightLimit:
		return fmt.Sprintf("%s told and not confirmed, the limit is %d", are(r.InFlight, ""), r.Limit)
	case RoleInFlightLimit:
		return fmt.Sprintf("%s told and not confirmed, the limit is %d", are(r.InFlight, " of role "+string(r.Role)), r.Limit)
	case HostUnheard:
		return "the scheduler hasn't listened for long enough to know whether the host is online"
	case HostOffline:
		return "the host is offline; it is told when it is back"
	case HostSettling:
		return r.until("the host was changed a short time ago; it settles")
	case OutsideWindow:
		return r.until("outside its windows")
	case InBlackout:
		return withDetail(r.until(fmt.Sprintf("in the blackout %s", r.Blackout)), r.Detail)
	case CanaryBake:
		return withDetail(r.until("the canary bakes"), r.Detail)
	case NoFreshEvidence:
		return withDetail("no fresh evidence", r.Detail)
	case ObjectiveWindow:
		return r.until("all is told and confirmed; its objectives are watched")
	case AwaitingApproval:
		return withDetail("waits for an approval", r.Detail)
	case ByCanary:
		return fmt.Sprintf("a canary: host %d of %d in role %s", r.Position, r.Target, r.Role)
	case ByPin:
		return withDetail(r.until("pinned"), r.Detail)
	case ByRollback:
		return fmt.Sprintf("%s takes it back: host %d of %d in role %s", r.Rollout, r.Position, r.Target, r.Role)
	case ByRelease:
		return withDetail(fmt.Sprintf("%s doesn't wait for it any more", r.Rollout), r.Detail)
	case Pinned:
		return withDetail(r.until("the host is pinned"), r.Detail)
	case RolledBack:
		return fmt.Sprintf("%s has taken it back", r.Rollout)
	case HostGone:
		return "the host was not seen for 7 days and doesn't count"
	case NotDueYet:
		return fmt.Sprintf("its place on the ramp comes later: host %d of %d in role %s", r.Position, r.Target, r.Role)
	case CatchingUp:
		return fmt.Sprintf("its place on the ramp has come; overdue hosts are told one by one, the oldest first (host %d of %d in role %s)", r.Position, r.Target, r.Role)
	case Unconfirmed:
		return withDetail("told and not confirmed yet", r.Detail)
	case BeyondTarget:
		return fmt.Sprintf("the target of role %s is %d hosts and this one is number %d in its order", r.Role, r.Target, r.Position)
	case NotSelected:
		return fmt.Sprintf("%s doesn't select it", r.Rollout)
	case NoRollout:
		return "no rollout of this variable is under way"
	default:
		return withDetail(strings.ReplaceAll(string(r.Code), "_", " "), r.Detail)
	}
}

func withDetail(s, detail string) string {
	if detail == "" {
		return s
	}
	return s + ": " + detail
}

// are begins a sentence about so many hosts.
func are(n int, of string) string {
	if n == 1 {
		return "1 host" + of + " is"
	}
	return fmt.Sprintf("%d hosts%s are", n, of)
}

// until adds when it ends.
func (r Reason) until(s string) string {
	if r.Until.IsZero() {
		return s
	}
	return s + " until " + r.Until.Format(time.RFC3339)
}
