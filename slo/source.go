package slo

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Per says of what a query, or an alert, speaks.
type Per string

const (
	// PerHost: of single hosts, each of which is weighed as if a check of its own
	// had said so.
	PerHost Per = "host"
	// PerRole: of all hosts of a role, as a gate.
	PerRole Per = "role"
	// PerRollout: of the rollout as a whole, as a gate.
	PerRollout Per = "rollout"
)

// Query is what Prometheus is asked in an objective's stead of a check.
type Query struct {
	// Query is in PromQL. Its result is a vector or a scalar, of which each
	// sample is judged, or a matrix, of whose series the last one is.
	Query string `json:"query"`
	Per   Per    `json:"per,omitempty"` // default host
	// Label names the host, or the role; default instance, without its port, and
	// role.
	Label string `json:"label,omitempty"`
	// Success and Failure are conditions on a sample's value. With one of them
	// all else is the other; with both, what neither holds for is inconclusive.
	Success Condition `json:"success,omitempty"`
	Failure Condition `json:"failure,omitempty"`
	// Every is how often Prometheus is asked, default 15 s: 1 s to 1 h.
	Every field.Duration `json:"every,omitempty"`
	// InconclusiveLimit and ConsecutiveErrorLimit are how many looks in a row may
	// be inconclusive, or end with an error, before the rollout holds; default 3
	// and 4. It holds in any case where the last answer is older than the
	// objective's freshness.
	InconclusiveLimit     *int `json:"inconclusiveLimit,omitempty"`
	ConsecutiveErrorLimit *int `json:"consecutiveErrorLimit,omitempty"`
}

// Alert is which alerts of Alertmanager speak against a rollout.
type Alert struct {
	Name string `json:"name"` // the label alertname
	// Match are labels that an alert has to have beside.
	Match map[string]string `json:"match,omitempty"`
	// Per is what an alert speaks of; default rollout, as a gate: one that names
	// a host, or a role, counts where the rollout has changed that host, or hosts of
	// the role.
	Per Per `json:"per,omitempty"`
	// Label names the host; default instance, without its port.
	Label string `json:"label,omitempty"`
	// Watchdog is the name of an alert that always fires: where it isn't heard for
	// the objective's freshness, Alertmanager can't be relied on and the rollout
	// holds. "" takes silence for good news.
	Watchdog string `json:"watchdog,omitempty"`
}

// Defaults of queries, and their bounds.
const (
	DefaultEvery                 = field.Duration(15 * time.Second)
	DefaultInconclusiveLimit     = 3
	DefaultConsecutiveErrorLimit = 4
	DefaultHostLabel             = "instance"
	DefaultRoleLabel             = "role"

	maxQuery = 8 << 10
	maxEvery = field.Duration(time.Hour)
	maxLimit = 1000
	maxMatch = 20
)

// Outcome is what one look came to.
type Outcome string

// The outcomes. Only a failure speaks against a rollout; an inconclusive look and
// an error are no evidence at all.
const (
	Success      Outcome = "success"
	Failing      Outcome = "failure"
	Inconclusive Outcome = "inconclusive"
	Errored      Outcome = "error"
)

// Condition compares a value: an operator (<, <=, >, >=, == or !=) and a number,
// such as "< 0.05".
type Condition string

var condition = regexp.MustCompile(`^\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*$`)

// parse splits a condition. It returns an error for what isn't one.
func (c Condition) parse() (operator string, number float64, err error) {
	m := condition.FindStringSubmatch(string(c))
	if m != nil {
		number, err = strconv.ParseFloat(m[2], 64)
	}
	if m == nil || err != nil || math.IsNaN(number) {
		return "", 0, fmt.Errorf("%q isn't a condition: want an operator and a number, such as \"< 0.05\"", field.Shorten(string(c)))
	}
	return m[1], number, nil
}

// Check returns an error for what isn't a condition.
func (c Condition) Check() error {
	_, _, err := c.parse()
	return err
}

// Holds says whether a condition, which is valid, holds for a value.
func (c Condition) Holds(value float64) bool {
	operator, number, err := c.parse()
	if err != nil {
		return false
	}
	switch operator {
	case "<":
		return value < number
	case "<=":
		return value <= number
	case ">":
		return value > number
	case ">=":
		return value >= number
	case "==":
		return value == number
	}
	return value != number
}

// Judge says what a sample's value means. NaN is inconclusive.
func (q *Query) Judge(value float64) Outcome {
	success, failure := q.Success != "" && q.Success.Holds(value), q.Failure != "" && q.Failure.Holds(value)
	switch {
	case math.IsNaN(value):
		return Inconclusive
	case failure, q.Failure == "" && !success:
		return Failing
	case success, q.Success == "":
		return Success
	}
	return Inconclusive
}

// Of is what the query's samples speak of.
func (q *Query) Of() Per { return cmp.Or(q.Per, PerHost) }

// Names is the label by which they say of whom.
func (q *Query) Names() string {
	if q.Of() == PerRole {
		return cmp.Or(q.Label, DefaultRoleLabel)
	}
	return cmp.Or(q.Label, DefaultHostLabel)
}

// Interval is how often Prometheus is asked.
func (q *Query) Interval() time.Duration { return time.Duration(cmp.Or(q.Every, DefaultEvery)) }

// Of is what an alert speaks of.
func (a *Alert) Of() Per { return cmp.Or(a.Per, PerRollout) }

// Matches says whether an alert with these labels is one of the objective's.
func (a *Alert) Matches(labels map[string]string) bool {
	if labels["alertname"] != a.Name {
		return false
	}
	for name, value := range a.Match {
		if labels[name] != value {
			return false
		}
	}
	return true
}

// Host is the host that an alert with these labels names; "" for none.
func (a *Alert) Host(labels map[string]string) string {
	return HostLabel(labels[cmp.Or(a.Label, DefaultHostLabel)])
}

// HostLabel is the host that a label's value names: without a port.
func HostLabel(value string) string {
	if host, port, found := strings.Cut(value, ":"); found && !strings.Contains(port, ":") {
		return host
	}
	return value
}

// Gate says whether the objective isn't about single hosts: nothing is weighed
// then, a failure freezes.
func (o *Objective) Gate() bool {
	return o.Ratio != nil || o.PromQL != nil && o.PromQL.Of() != PerHost || o.Alert != nil && o.Alert.Of() != PerHost
}

// Signal says whether what hosts do is looked at from outside rather than by a
// check of their agents.
func (o *Objective) Signal() bool { return o.Check == "" }

// Asked is what Prometheus is asked for the objective; nil: nothing.
func (o *Objective) Asked() *Query {
	if o.Ratio != nil {
		return o.Ratio.Query()
	}
	return o.PromQL
}

// Source says in a few words by what hosts are judged.
func (o *Objective) Source() string {
	switch {
	case o.PromQL != nil:
		return "promql per " + string(o.PromQL.Of())
	case o.Alert != nil:
		return "alert " + o.Alert.Name
	case o.Ratio != nil:
		return "ratio of " + o.Ratio.Target.String()
	}
	return "check " + string(o.Check)
}

// sourceFaults says what is wrong with where the objective gets its evidence.
func (o *Objective) sourceFaults(add func(path, format string, args ...any)) {
	var sources []string
	for _, each := range []struct {
		name  string
		there bool
	}{{"check", o.Check != ""}, {"promql", o.PromQL != nil}, {"alert", o.Alert != nil}, {"ratio", o.Ratio != nil}} {
		if each.there {
			sources = append(sources, each.name)
		}
	}
	switch len(sources) {
	case 0:
		add("check", "is missing: the name of a check of the agents; or promql, alert or ratio")
	case 1:
	default:
		add(sources[1], "comes beside %s: an objective has one of check, promql, alert and ratio", sources[0])
	}
	if o.Check != "" {
		if _, err := field.ParseID("check", string(o.Check)); err != nil {
			add("check", "%v", err)
		}
	}
	if q := o.PromQL; q != nil {
		q.faults(add)
	}
	if a := o.Alert; a != nil {
		a.faults(add)
	}
	if r := o.Ratio; r != nil {
		r.faults(add)
	}
	if o.FailureLimit != nil && (*o.FailureLimit < 0 || *o.FailureLimit > maxLimit) {
		add("failureLimit", "%d is out of range: want 0 (the first failure freezes) to %d", *o.FailureLimit, maxLimit)
	}
	if o.Gate() && (o.WithinOfChange != nil || o.Steady != nil) {
		add("failureLimit", "an objective about all hosts of a role or of the rollout has no budgets of hosts: leave withinOfChange and steady out; failureLimit says how many failures are tolerated")
	}
}

func (q *Query) faults(add func(path, format string, args ...any)) {
	switch {
	case strings.TrimSpace(q.Query) == "":
		add("promql.query", "is missing: what to ask Prometheus, such as up{job=\"api\"}")
	case len(q.Query) > maxQuery:
		add("promql.query", "%d bytes are too many: at most %d", len(q.Query), maxQuery)
	}
	if q.Success == "" && q.Failure == "" {
		add("promql.success", "is missing: which values are good, such as \"< 0.05\"; or failure, which are bad")
	}
	for path, c := range map[string]Condition{"promql.success": q.Success, "promql.failure": q.Failure} {
		if c == "" {
			continue
		}
		if err := c.Check(); err != nil {
			add(path, "%v", err)
		}
	}
	perFault(q.Per, "promql.per", add)
	labelFault(q.Label, "promql.label", add)
	if q.Every != 0 && (q.Every < minFreshness || q.Every > maxEvery) {
		add("promql.every", "%s is out of range: want %s to %s", q.Every, minFreshness, maxEvery)
	}
	for path, n := range map[string]*int{"promql.inconclusiveLimit": q.InconclusiveLimit, "promql.consecutiveErrorLimit": q.ConsecutiveErrorLimit} {
		if n != nil && (*n < 0 || *n > maxLimit) {
			add(path, "%d is out of range: want 0 to %d", *n, maxLimit)
		}
	}
}

func (a *Alert) faults(add func(path, format string, args ...any)) {
	if a.Name == "" {
		add("alert.name", "is missing: the alert's name, its label alertname")
	}
	if len(a.Match) > maxMatch {
		add("alert.match", "%d labels are too many: at most %d", len(a.Match), maxMatch)
	}
	perFault(a.Per, "alert.per", add)
	labelFault(a.Label, "alert.label", add)
}

func perFault(p Per, path string, add func(path, format string, args ...any)) {
	switch p {
	case "", PerHost, PerRole, PerRollout:
	default:
		add(path, "%q isn't allowed: want host, role or rollout", field.Shorten(string(p)))
	}
}

var label = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func labelFault(l, path string, add func(path, format string, args ...any)) {
	if l != "" && (!label.MatchString(l) || len(l) > 100) {
		add(path, "%q isn't the name of a label in Prometheus", field.Shorten(l))
	}
}
