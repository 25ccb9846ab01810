package rollout

// Guard says which objectives are watched while a rollout changes hosts, and
// what follows from a breach.
type Guard struct {
	Objectives []ID     `json:"objectives"`
	OnBreach   OnBreach `json:"onBreach,omitempty"` // default freeze
}

// OnBreach is what follows from a breach.
type OnBreach string

// What follows from a breach.
const (
	BreachFreezes   OnBreach = "freeze"
	BreachRollsBack OnBreach = "rollback" // it freezes, and then takes the hosts back
)
