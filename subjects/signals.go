package subjects

import (
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// Signal is one look of the guard at what Prometheus says for an objective: the
// query, when it was asked, and what came of it. Of hosts it holds what has changed
// since the look before, so that a fleet that does well costs little.
type Signal struct {
	Query   string      `json:"query"`
	Time    time.Time   `json:"time"` // as of which it was asked, by the guard's clock
	Outcome slo.Outcome `json:"outcome"`
	Why     string      `json:"why,omitempty"` // of an error or what was inconclusive; of a gate what was seen
	// Full says that nothing is known of a host beside what stands here; More,
	// that the look goes on in the next record.
	Full bool `json:"full,omitempty"`
	More bool `json:"more,omitempty"`
	// Failing are hosts that the query says fail, with what it says; Passing,
	// those that don't; Unsaid, those of which it no longer says anything.
	Failing map[rollout.Host]string `json:"failing,omitempty"`
	Passing []rollout.Host          `json:"passing,omitempty"`
	Unsaid  []rollout.Host          `json:"unsaid,omitempty"`
	// Roles are what it says of each role, where the objective is about roles.
	Roles map[rollout.Word]RoleSignal `json:"roles,omitempty"`
}

// RoleSignal is what a query says of a role.
type RoleSignal struct {
	Outcome slo.Outcome `json:"outcome"`
	Why     string      `json:"why,omitempty"`
}

// Alerts are what Alertmanager has sent at once, or a part of it.
type Alerts struct {
	Alerts []Alert `json:"alerts"`
}

// Alert is one alert of Alertmanager.
type Alert struct {
	Fingerprint string            `json:"fingerprint"`
	Firing      bool              `json:"firing"` // or resolved
	Starts      time.Time         `json:"starts"`
	Labels      map[string]string `json:"labels"`
	Summary     string            `json:"summary,omitempty"` // its annotation, bounded
}
