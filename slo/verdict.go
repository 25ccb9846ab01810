package slo

import (
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Standing is the evidence for one objective of a rollout as it stands.
type Standing struct {
	Objective field.ID `json:"objective"`
	// E is how much more probable what was seen is if the change does harm than
	// if it does none: in the mean of Harm, against the hosts not yet changed,
	// and Breach, against the budgets. It starts at 1, and at Bar it freezes the
	// rollout; of several objectives the sum of each one's E/Bar counts, at 1.
	E      float64 `json:"e"`
	Harm   float64 `json:"harm"`
	Breach float64 `json:"breach,omitempty"` // 0: it has no budgets
	Bar    float64 `json:"bar"`
	// Hosts that are watched: changed ones and those not yet changed, with those
	// among them that have failed.
	Treated       int `json:"treated"`
	TreatedFailed int `json:"treatedFailed"`
	Control       int `json:"control"`
	ControlFailed int `json:"controlFailed"`
	// Needs is how many more changed hosts would freeze the rollout if they
	// failed now, one after the other, and 0 where no number would.
	Needs int `json:"needs"`
	// Unwatched counts the rollout's hosts that aren't watched: they were never
	// seen to pass the check since the rollout was created.
	Unwatched int `json:"unwatched,omitempty"`
}

// Kind says what a verdict means.
type Kind string

// The kinds of verdicts. Both freeze the rollout.
const (
	// Harm: hosts that were changed fail more than those that weren't.
	Harm Kind = "harm"
	// Breach: more of them fail than the objective allows, whatever the cause.
	Breach Kind = "breach"
)

// Verdict is that the evidence against a rollout suffices. As the evidence of
// an abort it stands in the bucket.
type Verdict struct {
	Rollout   field.ID   `json:"rollout"`
	Kind      Kind       `json:"kind"`
	Objective field.ID   `json:"objective"` // of several the one that weighs most
	Sequence  uint64     `json:"sequence"`  // of the evidence at which it fell
	Time      time.Time  `json:"time"`      // of that
	Standings []Standing `json:"standings"`
	// Failed are the changed hosts that failed, the oldest first, at most 20; of
	// more the newest. Of counts them all.
	Failed []Failure `json:"failed"`
	Of     int       `json:"of"`
	// RuledOut says in plain words what else it could have been and wasn't.
	RuledOut []string `json:"ruledOut,omitempty"`
}

// Failure is the first failure of a host in a rollout.
type Failure struct {
	Host field.Host `json:"host"`
	Role field.Word `json:"role"`
	How  How        `json:"how"`
	// Treated says that the host had been changed; Told is when it was told.
	Treated bool      `json:"treated,omitempty"`
	Told    time.Time `json:"told,omitzero"`
	Time    time.Time `json:"time"`             // when it began to fail
	Output  string    `json:"output,omitempty"` // what the host reported, bounded
}

// How says in which way a host failed.
type How string

// The ways in which a host fails.
const (
	FailedCheck   How = "check"   // the check failed for its `for`
	FailedEnact   How = "enact"   // it gave up making the value true
	FailedSilence How = "silence" // it was silent for longer than its grace
)
