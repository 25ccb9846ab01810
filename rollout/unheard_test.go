package rollout

import (
	"testing"
	"time"
)

// A place whose host may be online, as far as a scheduler knows that has only
// just begun to listen, stops the clock: nobody loses a place to a restart.
func TestUnheardHostsStopTheClock(t *testing.T) {
	s := NewSnapshot(time.Hour)
	s.PutVariable("v", &Variable{Name: "v", Type: String, Value: str("1")})
	hosts := []Host{"a", "b"}
	for _, h := range hosts {
		s.PutDesired(h, &Desired{Generation: 1, Values: Document{"v": str("1")}, Told: map[Name]Told{"v": {Generation: 1, Time: epoch}}})
		s.PutReport(h, &Report{Role: "web", Boot: "b", Generation: 1, Actual: Document{"v": str("1")}})
		s.PutPresence(h, Unheard)
	}
	s.PutLead(0, epoch)
	commit := func(d Decision) {
		t.Helper()
		for _, step := range d.Steps {
			for _, tell := range step.Tells {
				s.PutDesired(tell.Host, &tell.Desired)
			}
			for _, r := range step.Records {
				if err := s.PutRollout(r.ID, &r.Record); err != nil {
					t.Fatal(err)
				}
			}
			if step.Progress != nil {
				s.PutProgress(step.Rollout, *step.Progress)
			}
		}
	}
	step, err := s.Create(Spec{
		Name: "up", Variable: "v", To: str("2"), Ramp: Ramp{Over: Duration(10 * time.Minute)}, InFlight: InFlight{Max: 100, PerRole: 100},
	}, "ann", "seed", epoch)
	if err != nil {
		t.Fatal(err)
	}
	commit(Decision{Steps: []Step{step}})
	commit(Decide(s, epoch))
	plan, err := s.Plan("up", PlanOptions{}, epoch)
	if err != nil || len(plan.Hosts) != 2 {
		t.Fatal(plan, err)
	}
	first, second := plan.Hosts[0], plan.Hosts[1]

	late := first.Due.Add(20 * time.Second)
	commit(Decide(s, late))
	st, err := s.Status("up", late)
	if err != nil || st.Told != 0 || st.Reason.Code != HostUnheard || st.Elapsed != first.Due.Sub(epoch)-1 {
		t.Fatalf("told %d, reason %q, clock %s; want the clock at the place, %s (%v)", st.Told, st.Reason.Code, st.Elapsed, first.Due.Sub(epoch), err)
	}
	if d := Decide(s, late); len(d.Steps) != 0 {
		t.Fatalf("the same hold is written again: %+v", d.Steps)
	}

	s.PutPresence(first.Host, Online)
	d := Decide(s, late)
	if len(d.Steps) != 1 || len(d.Steps[0].Tells) != 1 || d.Steps[0].Tells[0].Host != first.Host || d.Steps[0].Tells[0].Reason.Code != ByRamp {
		t.Fatalf("the host was heard: %+v", d.Steps)
	}
	commit(d)

	// The other one turns out to be offline: its place goes by.
	late = late.Add(second.Due.Sub(first.Due) + time.Second)
	commit(Decide(s, late))
	s.PutPresence(second.Host, Offline)
	commit(Decide(s, late))
	if st, err = s.Status("up", late); err != nil || st.Told != 1 || st.Reason.Code == HostUnheard {
		t.Errorf("told %d, reason %q (%v)", st.Told, st.Reason.Code, err)
	}
	s.PutPresence(second.Host, Online)
	if d := Decide(s, late); len(d.Steps) != 1 || len(d.Steps[0].Tells) != 1 || d.Steps[0].Tells[0].Reason.Code != ByCatchUp {
		t.Errorf("it is back: %+v", d.Steps)
	}
}

// A host whose observer fails may run anything: its first document leaves the
// variable out. One that reports no value is told it.
func TestUnobservedHostIsNotTold(t *testing.T) {
	s := NewSnapshot(time.Hour)
	s.PutVariable("v", &Variable{Name: "v", Type: String, Value: str("1")})
	s.PutReport("blind", &Report{Role: "web", Boot: "b", Enact: map[Name]Enact{"v": {Status: Unobserved, Error: "observing failed"}}})
	s.PutReport("empty", &Report{Role: "web", Boot: "b"})
	for _, h := range []Host{"blind", "empty"} {
		s.PutPresence(h, Online)
	}
	d := Decide(s, epoch)
	if len(d.Steps) != 1 || len(d.Steps[0].Tells) != 2 {
		t.Fatalf("%+v", d.Steps)
	}
	for _, tell := range d.Steps[0].Tells {
		if _, told := tell.Desired.Values["v"]; told != (tell.Host == "empty") {
			t.Errorf("%s: told %v", tell.Host, told)
		}
	}
}
