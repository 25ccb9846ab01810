package rollout

import (
	"errors"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Spec is the Rollout document: one variable, from what hosts have to one
// value, across the hosts that it selects, over time.
type Spec struct {
	Name     ID     `json:"name"`
	Variable Name   `json:"variable"`
	To       Value  `json:"to,omitzero"`
	Remove   bool   `json:"remove,omitempty"`  // instead of To: takes the variable out of the hosts' documents
	Where    string `json:"where,omitempty"`   // an expression over role, labels and host; empty: every host
	Exclude  []Host `json:"exclude,omitempty"` // hosts that it doesn't select
	Ramp     Ramp   `json:"ramp"`
	// Limits replace the ramp's percent for those whom they match.
	Limits   []Limit  `json:"limits,omitempty"`
	Canary   *Canary  `json:"canary,omitempty"`
	InFlight InFlight `json:"inFlight,omitzero"`
	// Start is when the rollout leaves pending; the zero time is at once.
	Start time.Time `json:"start,omitzero"`
	// After names a rollout that must have completed first.
	After ID `json:"after,omitempty"`
	// Settle is the least time between two changes of one host.
	Settle Duration `json:"settle,omitempty"`
	// Approvals is how many operators other than the author must approve
	// before it starts.
	Approvals int `json:"approvals,omitempty"`
	// Windows are when hosts may be told; none: always.
	Windows []Rule `json:"windows,omitempty"`
	// Spread names the labels over which every prefix of a role's order is
	// even, the most important first.
	Spread []Word `json:"spread,omitempty"`
	// Supersedes names the live rollout of the same variable that this one
	// replaces, starting from the mixed state that it leaves.
	Supersedes ID `json:"supersedes,omitempty"`
	// Guard says what is watched while hosts are changed; nil: nothing is.
	Guard *Guard `json:"guard,omitempty"`
	// Rollback names the rollout whose hosts this one takes back to what each
	// had before, or to To. Only [Snapshot.Rollback] makes such a one.
	Rollback ID `json:"rollback,omitempty"`
}

// Ramp says how the share of hosts grows.
type Ramp struct {
	Shape   Shape    `json:"shape,omitempty"`   // default linear
	Preset  string   `json:"preset,omitempty"`  // rapid, common or risky: linear, over 24, 48 or 72 h
	Over    Duration `json:"over,omitempty"`    // how long the ramp's clock runs from none to all; waves and points have it from theirs
	Percent Percent  `json:"percent,omitempty"` // of each role's matching hosts; default 100
	// Growth is, of an exponential ramp, how many times as fast as at its start
	// it is at its end: above 1, at most 10,000; default 10.
	Growth float64 `json:"growth,omitempty"`
	Waves  []Wave  `json:"waves,omitempty"`
	Points []Point `json:"points,omitempty"`
}

// Wave is a step of a ramp: at its start all its hosts' places come at once.
type Wave struct {
	Percent  Percent  `json:"percent"`            // of the target, this wave's hosts included
	Hold     Duration `json:"hold,omitempty"`     // on the ramp's clock, until the next wave
	Approval bool     `json:"approval,omitempty"` // an operator must approve before it starts
}

// Point is a corner of a piecewise linear ramp that begins at nothing.
type Point struct {
	At      Duration `json:"at"`      // on the ramp's clock
	Percent Percent  `json:"percent"` // of the target
}

// Limit replaces the ramp's percent for the hosts that it matches; the first
// that matches a host wins. It applies to each role's matching hosts apart.
type Limit struct {
	Where   string  `json:"where,omitempty"`
	Percent Percent `json:"percent,omitempty"` // default: the ramp's
	AtLeast int     `json:"atLeast,omitempty"` // hosts
	AtMost  *int    `json:"atMost,omitempty"`  // hosts; nil: no ceiling
}

// Canary says who goes first. Once they have confirmed and baked the ramp's
// clock starts.
type Canary struct {
	Hosts   int      `json:"hosts,omitempty"`   // so many of the fleet
	PerRole int      `json:"perRole,omitempty"` // or so many of each role
	Where   string   `json:"where,omitempty"`   // who may be one; with neither number, all of them
	Bake    Duration `json:"bake,omitempty"`    // how long they must stay confirmed
}

// InFlight limits the hosts that were told and haven't confirmed: each a
// percentage, rounded down, but never less than one host.
type InFlight struct {
	Max     Percent `json:"max,omitempty"`     // of all hosts of the rollout; default 5
	PerRole Percent `json:"perRole,omitempty"` // of a role's hosts; default 20
}

// Defaults of InFlight.
const (
	DefaultInFlight        Percent = 5
	DefaultInFlightPerRole Percent = 20
)

// Bounds of a document, so that a hostile one costs little.
const (
	maxLimits    = 100
	maxSpread    = 8
	maxExclude   = 500
	maxApprovals = 10
	// MaxOver bounds a ramp: design.md's evidence stream keeps longer than
	// the longest rollout.
	MaxOver = Duration(366 * 24 * time.Hour)
)

// Validate checks the document by itself, without the variable it names. Its
// errors are *FieldError, joined.
func (s *Spec) Validate() error {
	var errs []error
	add := func(path, format string, args ...any) {
		errs = append(errs, field.Errorf(path, format, args...))
	}
	if _, err := ParseID("rollout", string(s.Name)); err != nil {
		add("name", "%v", err)
	}
	if _, err := ParseName(string(s.Variable)); err != nil {
		add("variable", "%v", err)
	}
	switch {
	case s.Remove && !s.To.IsZero():
		add("remove", "takes the variable out of the documents: leave to out")
	case s.To.IsZero() && !s.Remove && s.Rollback == "":
		add("to", "is missing: the value to move to")
	}
	if _, err := ParseWhere(s.Where); err != nil {
		add("where", "%v", err)
	}
	s.Ramp.validate(add)
	if len(s.Limits) > maxLimits {
		add("limits", "%d are too many: at most %d", len(s.Limits), maxLimits)
	}
	for i, l := range s.Limits {
		at := fmt.Sprintf("limits[%d]", i)
		if _, err := ParseWhere(l.Where); err != nil {
			add(at+".where", "%v", err)
		}
		if l.AtLeast < 0 {
			add(at+".atLeast", "%d is below 0", l.AtLeast)
		}
		if l.AtMost != nil && *l.AtMost < 0 {
			add(at+".atMost", "%d is below 0", *l.AtMost)
		}
		if l.AtMost != nil && l.AtLeast > *l.AtMost {
			add(at+".atLeast", "%d is over atMost %d", l.AtLeast, *l.AtMost)
		}
	}
	if s.Settle < 0 {
		add("settle", "%s is below 0", s.Settle)
	}
	if len(s.Exclude) > maxExclude {
		add("exclude", "%d hosts are too many: at most %d; an expression in where can leave out more", len(s.Exclude), maxExclude)
	}
	if s.Approvals < 0 || s.Approvals > maxApprovals {
		add("approvals", "%d is out of range: want 0 to %d", s.Approvals, maxApprovals)
	}
	validateRules("windows", s.Windows, add)
	if s.Guard != nil {
		s.Guard.validate(add)
	}
	if s.Canary != nil {
		s.Canary.validate(add)
	}
	if len(s.Spread) > maxSpread {
		add("spread", "%d labels are too many: at most %d", len(s.Spread), maxSpread)
	}
	if s.After != "" && s.After == s.Name {
		add("after", "a rollout can't wait for itself")
	}
	if s.Supersedes != "" && s.Supersedes == s.Name {
		add("supersedes", "a rollout can't supersede itself: an id is never used again")
	}
	return errors.Join(errs...)
}

func (c *Canary) validate(add func(path, format string, args ...any)) {
	switch {
	case c.Hosts < 0 || c.PerRole < 0:
		add("canary", "a number of hosts is below 0")
	case c.Hosts > 0 && c.PerRole > 0:
		add("canary", "takes hosts (of the fleet) or perRole, not both")
	case c.Hosts == 0 && c.PerRole == 0 && c.Where == "":
		add("canary", "says nobody: want hosts, perRole or where")
	}
	if _, err := ParseWhere(c.Where); err != nil {
		add("canary.where", "%v", err)
	}
	if c.Bake < 0 || c.Bake > MaxOver {
		add("canary.bake", "%s is out of range: want 0s to %s", c.Bake, MaxOver)
	}
}

// Covers says whether the rollout, once completed, has moved every host, so
// that its value becomes the variable's.
func (s *Spec) Covers() bool {
	return s.Where == "" && s.Ramp.Percent.Or(100) == 100 && len(s.Limits) == 0 && len(s.Exclude) == 0 && s.Rollback == ""
}

// Fits says whether the variable, nil where there is none, can take the value
// that the rollout moves it to. Its error is a *FieldError.
func (s *Spec) Fits(v *Variable) error {
	if v == nil {
		return field.Errorf("variable", "there is no variable %s: apply its document first", s.Variable)
	}
	if s.To.IsZero() {
		return nil // it is removed, or taken back
	}
	if err := v.Accept(s.To); err != nil {
		return field.Errorf("to", "%v", err)
	}
	return nil
}
