package slo

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

func duration(d time.Duration) *field.Duration { return new(field.Duration(d)) }

func TestObjectiveIsValidated(t *testing.T) {
	day := field.Duration(24 * time.Hour)
	for _, c := range []struct {
		field  string // "": it is fine
		change func(o *Objective)
	}{
		{"", func(o *Objective) {}},
		{"", func(o *Objective) { *o = *simObjective() }},
		{"", func(o *Objective) { o.For, o.Grace, o.Tolerate = duration(0), duration(0), 1 }},
		{"name", func(o *Objective) { o.Name = "Not One" }},
		{"check", func(o *Objective) { o.Check = "" }},
		{"check", func(o *Objective) { o.Check = "a.b" }},
		{"withinOfChange.atMost", func(o *Objective) { o.WithinOfChange = &Within{Window: day} }},
		{"withinOfChange.atMost", func(o *Objective) { o.WithinOfChange = &Within{AtMost: 51, Window: day} }},
		{"withinOfChange.atMost", func(o *Objective) { o.WithinOfChange = &Within{AtMost: 1e-323, Window: day} }},
		{"withinOfChange.window", func(o *Objective) { o.WithinOfChange = &Within{AtMost: 1} }},
		{"withinOfChange.window", func(o *Objective) { o.WithinOfChange = &Within{AtMost: 1, Window: 91 * day} }},
		{"steady.atMost", func(o *Objective) { o.Steady = &Steady{AtMost: 1e-323, Per: day} }},
		{"steady.per", func(o *Objective) { o.Steady = &Steady{AtMost: 1, Per: 1} }},
		{"for", func(o *Objective) { o.For = duration(-1) }},
		{"grace", func(o *Objective) { o.Grace = duration(25 * time.Hour) }},
		{"freshness", func(o *Objective) { o.Freshness = 1 }},
		{"alpha", func(o *Objective) { o.Alpha = 21 }},
		{"alpha", func(o *Objective) { o.Alpha = 1e-320 }},
		{"tolerate", func(o *Objective) { o.Tolerate = 0.5 }},
		{"tolerate", func(o *Objective) { o.Tolerate = 101 }},
		{"", func(o *Objective) { o.Domain = "power_feed" }},
		{"domain", func(o *Objective) { o.Domain = "Rack!" }},
		{"noData", func(o *Objective) { o.NoData = "panic" }},
	} {
		o := dockerObjective()
		c.change(o)
		err := o.Validate()
		var f *field.Error
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%+v: %v", o, err)
		case c.field != "" && (!errors.As(err, &f) || f.Field != c.field):
			t.Errorf("%s: %v", c.field, err)
		case err == nil && math.IsInf(1/o.alpha(), 0):
			t.Errorf("%+v has no bar", o)
		}
	}
	o := &Objective{Alpha: 50, NoData: NoData(strings.Repeat("x", 1000))}
	for _, want := range []string{"name", "check", "alpha", "noData"} {
		if err := o.Validate(); !strings.Contains(err.Error(), want+":") || len(err.Error()) > 1000 {
			t.Errorf("%v doesn't say %s, or says too much", err, want)
		}
	}
}

func TestObjectiveDefaults(t *testing.T) {
	o := dockerObjective()
	if o.Fresh() != 2*time.Minute || o.failing() != time.Minute || o.silence() != 3*time.Minute || o.alpha() != 0.01 || o.tolerate() != 1 || o.Window() != 3*time.Minute {
		t.Fatalf("%v %v %v %v %v %v", o.Fresh(), o.failing(), o.silence(), o.alpha(), o.tolerate(), o.Window())
	}
	o.For, o.Grace, o.Freshness = duration(10*time.Minute), duration(0), field.Duration(time.Minute)
	o.WithinOfChange = &Within{AtMost: 1, Window: field.Duration(time.Hour)}
	if o.Fresh() != time.Minute || o.silence() != 0 || o.Window() != time.Hour {
		t.Fatalf("%v %v %v", o.Fresh(), o.silence(), o.Window())
	}
}
