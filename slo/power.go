package slo

import (
	"math"
	"slices"
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

// The changes that are tried, and how often; of long plans less often, so that
// the work is bounded.
var powerBreaks = [...]field.Percent{1, 5, 100}

const (
	mostRuns  = 100
	leastRuns = 10
	powerWork = 1_000_000 // hosts told, in all runs of one kind of change
)

// PowerOf says what the guard would see of a plan: its hosts in the order in
// which they are told; how many hosts there are in each stratum, those included
// that are never told; and the objectives, of which a broken host fails the
// first. It simulates the evidence with hosts that fail right after they are
// told, and nobody else. The same plan gives the same answer. It is nil where
// there is nothing to simulate.
func PowerOf(arrivals []Arrival, strata []int, objectives []*Objective) []Power {
	if len(arrivals) == 0 || len(objectives) == 0 {
		return nil
	}
	out := make([]Power, len(powerBreaks))
	runs := max(leastRuns, min(mostRuns, powerWork/len(arrivals)))
	for i, breaks := range powerBreaks {
		var hosts, failed []int
		var after []time.Duration
		for run := range runs {
			t := trial{arrivals: arrivals, strata: strata, objective: objectives[0], objectives: len(objectives), chance: chance(run) + 1}
			if t.run(float64(breaks) / 100) {
				hosts, failed, after = append(hosts, t.told), append(failed, t.failed), append(after, t.after)
			}
		}
		out[i] = Power{
			Breaks: breaks, Stopped: float64(len(hosts)) / float64(runs),
			Hosts: median(hosts), Failed: median(failed), After: field.Duration(median(after)),
		}
	}
	return out
}

func median[T int | time.Duration](all []T) T {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// trial is one simulated rollout.
type trial struct {
	arrivals   []Arrival
	strata     []int
	objective  *Objective
	objectives int
	chance     chance

	told, failed int
	after        time.Duration
}

// run says whether the rollout is frozen.
func (t *trial) run(breaks float64) bool {
	first, last := t.arrivals[0].Due, t.arrivals[len(t.arrivals)-1].Due
	e := NewEvidence(t.objective, false, first)
	e.Plan(first, last.Sub(first))
	control := make([][]Subject, len(t.strata))
	for i, n := range t.strata {
		e.Stratum(first)
		control[i] = make([]Subject, n)
		for k := range control[i] {
			e.Enter(&control[i][k], i, false, first)
		}
	}
	type failure struct {
		s  *Subject
		at time.Time
	}
	var broken []failure // in the order in which they come to count
	bar := math.Log(float64(t.objectives) / t.objective.alpha())
	count := func(until time.Time) bool {
		for len(broken) > 0 && !broken[0].at.After(until) {
			e.Fail(broken[0].s, broken[0].at)
			t.failed++
			if e.E() >= bar {
				t.after = broken[0].at.Sub(first)
				return true
			}
			broken = broken[1:]
		}
		return false
	}
	for _, a := range t.arrivals {
		if count(a.Due) {
			return true
		}
		if len(control[a.Stratum]) == 0 {
			continue // the caller counted wrong: a host that isn't in its stratum
		}
		s := &control[a.Stratum][0]
		control[a.Stratum] = control[a.Stratum][1:]
		e.Treat(s, a.Due)
		t.told++
		if t.chance.next() < breaks {
			broken = append(broken, failure{s, a.Due.Add(t.objective.failing())})
		}
	}
	return count(last.Add(t.objective.Window() + t.objective.failing()))
}

// chance is a source of numbers that are as good as random and always the same:
// SplitMix64 (Steele, Lea, Flood 2014).
type chance uint64

// next is a number in [0,1).
func (c *chance) next() float64 {
	*c += 0x9e3779b97f4a7c15
	z := uint64(*c)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}
