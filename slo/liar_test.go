package slo

import (
	"fmt"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// liars is how many hosts freeze a harmless rollout of 10,000 hosts if they claim,
// at that part of the ramp, to have been changed, and fail. Hosts that have been
// changed already and fail then are no fewer.
func liars(t *testing.T, o *Objective, part float64) int {
	f := newFleet(simRoles, simLength, 1)
	s := newStage(t, o)
	for h, r := range f.role {
		s.Join(hostName(h), "web", nil, fmt.Sprint(r), time.Time{})
		s.passes(h)
	}
	s.Plan(s.now, simLength)
	for _, ev := range f.events() {
		if ev.at > time.Duration(part*float64(simLength)) {
			break
		}
		s.Told(hostName(ev.host), simEpoch.Add(ev.at))
	}
	s.now = simEpoch.Add(time.Duration(part * float64(simLength)))
	n := 0
	for i := 0; s.Verdict() == nil; i++ {
		if i == simRoles[0] {
			return 0
		}
		if h := simRoles[0] - 1 - i; f.told[h].Seconds() > part*simLength.Seconds() { // of the largest role, still to come
			n++
			s.Told(hostName(h), s.now)
			s.fails(h)
			s.pass(time.Minute)
		}
	}
	return n
}

// TestLiars holds docs/guard.md to how many hosts can fool the guard, and when.
func TestLiars(t *testing.T) {
	budget := simObjective()
	budget.Steady = nil
	tiny := dockerObjective()
	tiny.WithinOfChange = &Within{AtMost: 0.01, Window: field.Duration(simDay)}
	loose := dockerObjective()
	loose.Alpha = 20
	for _, c := range []struct {
		name string
		o    *Objective
		want [5]int // at the parts of the ramp below
	}{
		{"no budget", dockerObjective(), [5]int{2, 2, 3, 3, 4}},
		{"1 % within a day", budget, [5]int{2, 2, 3, 3, 3}},
		{"0.01 % within a day", tiny, [5]int{1, 2, 2, 2, 2}},
		{"alpha 20 %", loose, [5]int{1, 1, 2, 2, 2}},
	} {
		for i, part := range []float64{0, 0.01, 0.1, 0.5, 0.9} {
			if got := liars(t, c.o, part); got != c.want[i] {
				t.Errorf("%s: at %v of the ramp it takes %d, want %d", c.name, part, got, c.want[i])
			}
		}
	}
}
