package slo

import (
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Power is what the guard would make of a change that breaks a share of the
// hosts that it is made on.
type Power struct {
	Breaks  field.Percent  `json:"breaks"`  // of the changed hosts, at once
	Stopped float64        `json:"stopped"` // the share of simulated rollouts that are frozen, 0 to 1
	Hosts   int            `json:"hosts"`   // told by then, median of those that are frozen
	Failed  int            `json:"failed"`  // of them
	After   field.Duration `json:"after"`   // since the first host was told
}

// Arrival is one host of a plan.
type Arrival struct {
	Stratum int // as an index of the strata
	Due     time.Time
}
