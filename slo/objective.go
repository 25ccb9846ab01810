package slo

import (
	"errors"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Objective is the document that says what hosts must go on doing while a
// rollout changes them: a check of the agent's, or what Prometheus or Alertmanager
// say, and how many hosts may fail it.
type Objective struct {
	Name field.ID `json:"name"`
	// Check is a check of the agents, by the name that it has in their files;
	// PromQL is a query to Prometheus; Alert is an alert of Alertmanager. One of
	// these is given,
	Check  field.ID `json:"check,omitempty"`
	PromQL *Query   `json:"promql,omitempty"`
	Alert  *Alert   `json:"alert,omitempty"`
	Ratio  *Ratio   `json:"ratio,omitempty"` // or a service level objective
	// FailureLimit is how many failures are tolerated, whatever their weight: of
	// changed hosts, where the objective is about hosts, and nil is without limit;
	// of looks where it is about a role or the rollout, and nil is none.
	FailureLimit *int `json:"failureLimit,omitempty"`
	// WithinOfChange and Steady are the budgets. Without either, changed hosts
	// are compared with those that haven't been changed yet, and with nothing
	// else.
	WithinOfChange *Within `json:"withinOfChange,omitempty"`
	Steady         *Steady `json:"steady,omitempty"`
	// For is how long the check must fail to count; nil is a minute, and nothing for
	// an alert.
	For *field.Duration `json:"for,omitempty"`
	// Grace is how long a host may be silent, beyond three heartbeats: for the
	// restart that the change itself causes. Nil is three minutes.
	Grace *field.Duration `json:"grace,omitempty"`
	// Alpha is the chance, over the whole of a rollout, that one which does no
	// harm is frozen. Default 1 %.
	Alpha field.Percent `json:"alpha,omitempty"`
	// Tolerate is ρ, the hazard ratio to the hosts not yet changed that is still
	// fine: 1 to 100, default 1.
	Tolerate float64 `json:"tolerate,omitempty"`
	// Freshness is how old evidence may be, default 2 m.
	Freshness field.Duration `json:"freshness,omitempty"`
	// Domain is the label of what fails as one: of the changed hosts that have the
	// same value of it one failure counts against the budgets, within the longest
	// of their times. Default rack; a host without the label is one by itself.
	Domain field.Word `json:"domain,omitempty"`
	// NoData says what it means that no host of a rollout has the check: hold,
	// the default, or pass.
	NoData NoData `json:"noData,omitempty"`
}

// Within is a budget for the time after a change: at most so many of the
// changed hosts fail within Window of it.
type Within struct {
	AtMost field.Percent  `json:"atMost"`
	Window field.Duration `json:"window"`
}

// Steady is a budget for later: at most so many of the changed hosts fail per
// Per.
type Steady struct {
	AtMost field.Percent  `json:"atMost"`
	Per    field.Duration `json:"per"`
}

// NoData says what missing data means.
type NoData string

// What missing data means. Either way it never speaks against a rollout.
const (
	NoDataHold NoData = "hold"
	NoDataPass NoData = "pass"
)

// Defaults of an objective, and its bounds.
const (
	DefaultFor       = field.Duration(time.Minute)
	DefaultGrace     = field.Duration(3 * time.Minute)
	DefaultFreshness = field.Duration(2 * time.Minute)
	DefaultAlpha     = field.Percent(1)
	DefaultDomain    = field.Word("rack")

	minPercent   = field.Percent(0.0001)
	minFreshness = field.Duration(time.Second)
	maxFor       = field.Duration(24 * time.Hour)
	maxWindow    = field.Duration(90 * 24 * time.Hour)
	maxAlpha     = field.Percent(20)
	maxTolerate  = 100
)

// Validate checks the document by itself. Its errors are *field.Error, joined.
func (o *Objective) Validate() error {
	var errs []error
	add := func(path, format string, args ...any) { errs = append(errs, field.Errorf(path, format, args...)) }
	if _, err := field.ParseID("objective", string(o.Name)); err != nil {
		add("name", "%v", err)
	}
	o.sourceFaults(add)
	within := func(path string, d, least, most field.Duration) {
		if d < least || d > most {
			add(path, "%s is out of range: want %s to %s", d, least, most)
		}
	}
	budget := func(path string, p field.Percent, name string, d field.Duration) {
		switch {
		case p <= 0:
			add(path+".atMost", "is missing: how many of the changed hosts may fail, such as 1%%")
		case p < minPercent || p > 50:
			add(path+".atMost", "%s is out of range: want %s to 50%%", p, minPercent)
		}
		if d == 0 {
			add(path+"."+name, "is missing: over how long, such as 1d")
		} else {
			within(path+"."+name, d, field.Duration(time.Second), maxWindow)
		}
	}
	if w := o.WithinOfChange; w != nil {
		budget("withinOfChange", w.AtMost, "window", w.Window)
	}
	if s := o.Steady; s != nil {
		budget("steady", s.AtMost, "per", s.Per)
	}
	if o.For != nil {
		within("for", *o.For, 0, maxFor)
	}
	if o.Grace != nil {
		within("grace", *o.Grace, 0, maxFor)
	}
	if o.Freshness != 0 {
		within("freshness", o.Freshness, minFreshness, maxFor)
	}
	if o.Alpha != 0 && (o.Alpha < minPercent || o.Alpha > maxAlpha) {
		add("alpha", "%s is out of range: want %s to %s", o.Alpha, minPercent, maxAlpha)
	}
	if o.Tolerate != 0 && (o.Tolerate < 1 || o.Tolerate > maxTolerate) {
		add("tolerate", "%v is out of range: want 1 (no worse than the hosts that aren't changed) to %d", o.Tolerate, maxTolerate)
	}
	if o.Domain != "" {
		if _, err := field.ParseWord("label", string(o.Domain)); err != nil {
			add("domain", "%v", err)
		}
	}
	switch o.NoData {
	case "", NoDataHold, NoDataPass:
	default:
		add("noData", "%q isn't allowed: want hold or pass", field.Shorten(string(o.NoData)))
	}
	return errors.Join(errs...)
}

// Window is for how long after its last change a rollout is watched before it
// can have completed.
func (o *Objective) Window() time.Duration {
	if o.WithinOfChange == nil {
		return o.latency()
	}
	return max(time.Duration(o.WithinOfChange.Window), o.latency())
}

// latency is how long after it happened a failure counts.
func (o *Objective) latency() time.Duration { return max(o.failing(), o.silence()) }

// failing is how long a host must fail. An alert has waited already, by its own
// rule.
func (o *Objective) failing() time.Duration {
	if o.Alert != nil {
		return time.Duration(or(o.For, 0))
	}
	return time.Duration(or(o.For, DefaultFor))
}

func (o *Objective) silence() time.Duration { return time.Duration(or(o.Grace, DefaultGrace)) }

// Fresh is how old evidence may be.
func (o *Objective) Fresh() time.Duration {
	if o.Freshness == 0 {
		return time.Duration(DefaultFreshness)
	}
	return time.Duration(o.Freshness)
}

func or[T any](v *T, otherwise T) T {
	if v == nil {
		return otherwise
	}
	return *v
}

func (o *Objective) domain() field.Word {
	if o.Domain == "" {
		return DefaultDomain
	}
	return o.Domain
}

func (o *Objective) alpha() float64 { return float64(o.Alpha.Or(DefaultAlpha)) / 100 }

func (o *Objective) tolerate() float64 {
	if o.Tolerate == 0 {
		return 1
	}
	return o.Tolerate
}
