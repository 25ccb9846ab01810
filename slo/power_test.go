package slo

import (
	"reflect"
	"testing"
	"time"
)

func TestPower(t *testing.T) {
	plan := func(hosts int) (arrivals []Arrival) {
		for i := range hosts {
			arrivals = append(arrivals, Arrival{Stratum: i % 2, Due: simEpoch.Add(time.Duration(i) * simLength / time.Duration(hosts))})
		}
		return arrivals
	}
	objectives := []*Objective{simObjective()}
	p := PowerOf(plan(2000), []int{1000, 1000}, objectives)
	if len(p) != len(powerBreaks) || !reflect.DeepEqual(p, PowerOf(plan(2000), []int{1000, 1000}, objectives)) {
		t.Fatalf("%+v, and not the same twice", p)
	}
	all := p[len(p)-1]
	if all.Breaks != 100 || all.Stopped != 1 || all.Failed != 2 || all.Hosts > 3 || time.Duration(all.After) > simDay {
		t.Fatalf("of a change that breaks all: %+v", all)
	}
	if p[0].Stopped < 0.9 || p[1].Stopped < p[0].Stopped || p[1].Hosts > p[0].Hosts || p[0].Failed < 2 || p[0].Failed > 6 {
		t.Fatalf("%+v", p)
	}
	// Of one host that is told there is nothing to be seen at the usual alpha,
	// and the strata may lack those whom the plan names.
	for _, p := range PowerOf(plan(1), []int{1, 0}, objectives) {
		if p.Stopped != 0 || p.Hosts != 0 || p.After != 0 {
			t.Fatalf("of one host: %+v", p)
		}
	}
	if p := PowerOf(plan(10), []int{1, 1}, objectives); p[2].Hosts > 2 {
		t.Fatalf("more hosts than there are: %+v", p)
	}
	if PowerOf(nil, nil, objectives) != nil || PowerOf(plan(1), []int{1, 0}, nil) != nil {
		t.Fatal("power of nothing")
	}
	// With two objectives each has half of the alpha.
	if two := PowerOf(plan(2000), []int{1000, 1000}, append(objectives, dockerObjective())); two[0].Failed < p[0].Failed {
		t.Fatalf("two objectives stop sooner than one: %+v", two)
	}
}
