package slo

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// nullFleet is a small fleet in which everything but the failures is fixed:
// who enters where, and who is treated before the how manyth failure.
type nullFleet struct {
	name   string
	rho    float64
	hosts  []int       // their strata
	treat  map[int]int // host → the number of failures before it is treated
	hazard []float64   // of a stratum's control
	ratio  float64     // the hazard of a treated host to that of its control
	later  float64     // the same, longer than a window ago
	exact  bool        // the expected value is 1, and not less
}

// expect goes through every order in which hosts may fail, so many of them, and
// returns the expected E_C. The next to fail is any that is at risk, in
// proportion to its hazard: that is all that C goes by.
func (f *nullFleet) expect(depth int, failed []int) float64 {
	if len(failed) == depth {
		e, _, _ := f.play(failed)
		return math.Exp(e.Harm())
	}
	e, hosts, now := f.play(failed)
	total, expected := 0.0, 0.0
	for h := range hosts {
		s := &hosts[h]
		if !s.atRisk {
			continue
		}
		hazard := f.hazard[s.stratum]
		switch window := e.contrast.windows[1]; {
		case s.treated && window != 0 && s.at+window <= now.UnixNano():
			hazard *= f.later
		case s.treated:
			hazard *= f.ratio
		}
		total += hazard
		expected += hazard * f.expect(depth, append(failed[:len(failed):len(failed)], h))
	}
	return expected / total
}

// play lets the hosts fail in this order, an hour each, and whoever is treated
// in between be treated.
func (f *nullFleet) play(failed []int) (*Evidence, []Subject, time.Time) {
	e := NewEvidence(&Objective{Name: "o", Check: "c", Tolerate: f.rho}, false, simEpoch)
	for range f.hazard {
		e.Stratum(simEpoch)
	}
	hosts := make([]Subject, len(f.hosts))
	for h, s := range f.hosts {
		e.Enter(&hosts[h], s, false, simEpoch)
	}
	e.Plan(simEpoch, 15*time.Hour) // a window of 1½ hours, one of 9 minutes, and start points between
	for i := 0; ; i++ {
		now := simEpoch.Add(time.Duration(i) * time.Hour)
		for h := range hosts {
			if before, ok := f.treat[h]; ok && before == i {
				e.Treat(&hosts[h], now)
			}
		}
		// Half of the failures come while the newest are in the shortest window.
		now = now.Add(time.Duration(5+30*(i%2)) * time.Minute)
		if i == len(failed) {
			e.advance(now)
			return e, hosts, now
		}
		e.Fail(&hosts[failed[i]], now)
	}
}

// TestExpectationUnderTheNull enumerates: in a rollout that does no harm the
// expected E_C is at most 1, and exactly 1 where the treated fail just as often
// as is tolerated.
func TestExpectationUnderTheNull(t *testing.T) {
	two := []int{0, 0, 0, 0, 1, 1, 1}
	early := map[int]int{0: 0, 4: 0, 1: 1, 5: 2}
	for _, f := range []nullFleet{
		{"alike", 1, two, early, []float64{1, 7}, 1, 1, true},
		{"tolerated", 2, two, early, []float64{1, 7}, 2, 2, true},
		{"tolerated and alike", 2, two, early, []float64{1, 7}, 1, 1, false},
		{"better", 1, two, early, []float64{3, 1}, 0.3, 0.3, false},
		{"better soon, alike later", 1, two, early, []float64{1, 1}, 0.1, 1, false},
		{"alike soon, better later", 1, two, early, []float64{1, 1}, 1, 0.1, false},
		{"nobody is left", 1, []int{0, 0, 0}, map[int]int{0: 0, 1: 0, 2: 0}, []float64{1}, 1, 1, true},
		{"one stratum is never treated", 1, two, map[int]int{0: 0, 1: 1}, []float64{1, 4}, 1, 1, true},
	} {
		for depth := range 5 {
			if depth > len(f.hosts) {
				break
			}
			t.Run(fmt.Sprint(f.name, " ", depth), func(t *testing.T) {
				got := f.expect(depth, nil)
				if got > 1+1e-12 || f.exact && got < 1-1e-12 {
					t.Fatalf("%.15f, want 1", got)
				}
			})
		}
	}
}

// TestExpectationOfHarm is the other side: what it is for grows.
func TestExpectationOfHarm(t *testing.T) {
	f := nullFleet{"", 1, []int{0, 0, 0, 0, 0, 0}, map[int]int{0: 0, 1: 1, 2: 1}, []float64{1}, 50, 50, false}
	before := 1.0
	for depth := 1; depth < 4; depth++ {
		got := f.expect(depth, nil)
		if got < 1.3*before {
			t.Fatalf("the expected evidence after %d failures is %v, before it %v", depth, got, before)
		}
		before = got
	}
}

// TestExpectationWithinOfChange goes through who of five hosts fails within the
// window, each with the chance that the budget allows. Failures come after
// every charge, or as soon as they can.
func TestExpectationWithinOfChange(t *testing.T) {
	const p0 = 0.08
	o := &Objective{Name: "o", Check: "c", WithinOfChange: &Within{AtMost: 100 * p0, Window: field.Duration(4 * time.Hour)}}
	const n = 5
	for _, p := range []float64{p0, p0 / 3} {
		expected := make([]float64, 12) // hour by hour
		for who := range 1 << n {
			e := NewEvidence(o, false, simEpoch)
			e.Stratum(simEpoch)
			var hosts [n]Subject
			chance := 1.0
			for i := range hosts {
				e.Enter(&hosts[i], 0, false, simEpoch)
				if who>>i&1 == 1 {
					chance *= p
				} else {
					chance *= 1 - p
				}
			}
			e.Plan(simEpoch, 10*time.Hour)
			for hour := range expected {
				now := simEpoch.Add(time.Duration(hour) * time.Hour)
				if hour < n {
					e.Treat(&hosts[hour], now)
				}
				if i := hour - 2; i >= 0 && i < n && who>>i&1 == 1 {
					e.Fail(&hosts[i], now.Add(time.Duration(17*i)*time.Minute))
				}
				expected[hour] += chance * math.Exp(e.Breach())
			}
		}
		for hour, got := range expected {
			if got > 1+1e-12 || p == p0 && hour == len(expected)-1 && got < 1-1e-12 {
				t.Errorf("with a chance of %v the expected E_A1 at hour %d is %.15f", p, hour, got)
			}
		}
	}
}

// TestExpectationSteady integrates over when one host fails, at the rate that
// the budget allows: two, so that the exposure changes with the first failure.
func TestExpectationSteady(t *testing.T) {
	const (
		horizon = 12 // hours
		steps   = 80
		lambda  = 0.03 // an hour
	)
	o := &Objective{Name: "o", Check: "c", Steady: &Steady{AtMost: 100 * lambda, Per: field.Duration(time.Hour)}}
	// at is the middle of a slice of time in which a host fails; the last is
	// never.
	at := func(i int) (time.Duration, float64) {
		if i == steps {
			return math.MaxInt64, math.Exp(-lambda * horizon)
		}
		width := float64(horizon) / steps
		middle := (float64(i) + 0.5) * width
		return time.Duration(middle * float64(time.Hour)), math.Exp(-lambda*float64(i)*width) - math.Exp(-lambda*float64(i+1)*width)
	}
	expected := 0.0
	for i := range steps + 1 {
		for k := range steps + 1 {
			e := NewEvidence(o, false, simEpoch)
			e.Stratum(simEpoch)
			var a, b Subject
			e.Enter(&a, 0, true, simEpoch)
			e.Enter(&b, 0, true, simEpoch)
			e.Plan(simEpoch, horizon*time.Hour)
			first, p := at(i)
			second, q := at(k)
			one, other := &a, &b
			if second < first {
				first, second, one, other = second, first, &b, &a
			}
			if first != math.MaxInt64 {
				e.Fail(one, simEpoch.Add(first))
			}
			if second != math.MaxInt64 {
				e.Fail(other, simEpoch.Add(second))
			}
			e.advance(simEpoch.Add(horizon * time.Hour))
			expected += p * q * math.Exp(e.Breach())
		}
	}
	// The slices make the sum a little rough: the steepest alternative falls by a
	// third within one of them.
	if math.Abs(expected-1) > 0.01 {
		t.Fatalf("the expected E_A2 is %v, want about 1", expected)
	}
}
