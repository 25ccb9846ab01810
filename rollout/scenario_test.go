package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// even is a fleet of n hosts a role, all on version 1 and with a document.
func even(t *testing.T, n int, roles ...Word) *fleet {
	t.Helper()
	f := newFleet(t.Fatalf)
	f.variable(Variable{Name: "version", Type: String, Initial: str("1"), Value: str("1")})
	for _, role := range roles {
		for i := range n {
			f.join(Host(fmt.Sprintf("%s%d", role, i)), role, map[Word]Word{"zone": zones[i%3]}, Document{"version": str("1")})
		}
	}
	f.settle()
	return f
}

func spec(id ID, to string, over time.Duration) Spec {
	return Spec{Name: id, Variable: "version", To: str(to), Ramp: Ramp{Over: Duration(over)}, InFlight: InFlight{Max: 100, PerRole: 100}}
}

func (f *fleet) mustStart(s Spec) {
	if err := f.start(s); err != nil {
		f.fail("starting %s: %v", s.Name, err)
	}
	f.settle()
}

// operate makes a transition.
func (f *fleet) operate(step Step, err error) {
	if err != nil {
		f.fail("%v", err)
	}
	if !f.commit(step) {
		f.fail("the step was refused")
	}
	f.settle()
}

func (f *fleet) want(id ID, state State) {
	if got := f.rollouts[id].State; got != state {
		st, _ := f.snap.Status(id, f.now)
		f.fail("%s is %s (%s), want %s", id, got, st.Reason, state)
	}
}

func (f *fleet) count(v string) (n int) {
	for _, d := range f.desired {
		if d.Values["version"] == str(v) {
			n++
		}
	}
	return n
}

func (f *fleet) explain(h Host) Explanation {
	e, err := f.snap.Explain(h, "version", f.now)
	if err != nil {
		f.fail("%v", err)
	}
	return e
}

func blocked(e Explanation) (out []Code) {
	for _, r := range e.Blocked {
		out = append(out, r.Code)
	}
	return out
}

// Undisturbed, every host is told when the plan said beforehand, to the
// nanosecond, and the rollout ends at start + over.
func TestUndisturbedRolloutFollowsItsPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t.Fatalf)
		f.variable(Variable{Name: "version", Type: String, Value: str("1")})
		for i, n := range rapid.SliceOfN(rapid.IntRange(1, 30), 1, 6).Draw(t, "roles") {
			for j := range n {
				f.join(Host(fmt.Sprintf("r%dh%d", i, j)), Word(fmt.Sprint("role", i)), map[Word]Word{"zone": zones[j%3]}, Document{"version": str("1")})
			}
		}
		f.settle()
		s := spec("r", "2", time.Duration(rapid.Int64Range(int64(time.Second), int64(3*time.Hour)).Draw(t, "over")))
		s.Ramp.Percent = rapid.SampledFrom([]Percent{0, 30, 77.7}).Draw(t, "percent")
		s.Spread = []Word{"zone"}
		if rapid.Bool().Draw(t, "later") {
			s.Start = f.now.Add(time.Hour)
		}
		plan, err := f.snap.PlanSpec(s, fleetSeed, PlanOptions{}, f.now)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.start(s); err != nil {
			t.Fatal(err)
		}
		created, err := f.snap.Plan("r", PlanOptions{}, f.now)
		if err != nil || !slices.Equal(created.Hosts, plan.Hosts) {
			t.Fatalf("the plan changed when the rollout was created: %v, %v", created, err)
		}
		f.advance(plan.Ends.Sub(f.now) - 1)
		if f.want("r", StateRunning); f.now.Sub(f.rollouts["r"].Changed) > time.Duration(s.Ramp.Over) {
			t.Fatal("it runs on")
		}
		f.advance(1)
		f.want("r", StateCompleted)
		if want := maxTime(s.Start, epoch).Add(time.Duration(s.Ramp.Over)); !plan.Ends.Equal(want) || !f.rollouts["r"].Changed.Equal(want) {
			t.Fatalf("it ended at %v, the plan said %v, want %v", f.rollouts["r"].Changed, plan.Ends, want)
		}
		due := map[Host]time.Time{}
		for _, h := range plan.Hosts {
			due[h.Host] = h.Due
		}
		tells := f.check.toldBy("r")
		if len(tells) != len(due) || len(due) != plan.Target {
			t.Fatalf("%d hosts were told, the plan has %d, the target is %d", len(tells), len(due), plan.Target)
		}
		for _, x := range tells {
			if !x.at.Equal(due[x.host]) {
				t.Fatalf("%s was told at %v, the plan said %v", x.host, x.at, due[x.host])
			}
		}
		f.replay()
	})
}

// At any moment the answer to why-not-yet is the plan's, for every host.
func TestExplainIsThePlan(t *testing.T) {
	f := even(t, 7, "web", "db", "cache")
	s := spec("r", "2", time.Hour)
	s.InFlight = InFlight{}
	s.Spread = []Word{"zone"}
	s.Ramp.Percent = 80
	f.latency = func() time.Duration { return 20 * time.Minute } // so that places lapse
	f.mustStart(s)
	for range 12 {
		plan, err := f.snap.Plan("r", PlanOptions{}, f.now)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range f.hosts() {
			e := f.explain(h)
			i := slices.IndexFunc(plan.Hosts, func(p Planned) bool { return p.Host == h })
			switch {
			case e.Told.Rollout == "r":
				if i >= 0 || e.Next != "" {
					t.Errorf("%s is told, and planned still: %+v", h, e)
				}
			case i < 0:
				if !slices.Contains(blocked(e), BeyondTarget) {
					t.Errorf("%s isn't planned because of %v", h, e.Blocked)
				}
			case e.Next != "r" || f.progress["r"].Running && !e.Due.Equal(plan.Hosts[i].Due):
				t.Errorf("%s is due at %v, the plan says %v", h, e.Due, plan.Hosts[i].Due)
			}
		}
		f.advance(10 * time.Minute)
	}
}

// A fleet-wide limit stops the clock one nanosecond before the place that
// waits, and the rollout goes on from there, one gap after the other.
func TestInFlightLimitHoldsTheClock(t *testing.T) {
	f := even(t, 10, "web")
	s := spec("r", "2", 100*time.Minute)
	s.InFlight.Max = 10
	f.latency = func() time.Duration { return 25 * time.Minute }
	f.mustStart(s)
	theta := f.rollouts["r"].Theta["web"]
	l := line{10, theta, straight(100 * time.Minute)}
	f.advance(l.due(1))
	if f.count("2") != 1 {
		t.Fatalf("%d hosts told when the first place came", f.count("2"))
	}
	f.advance(24 * time.Minute)
	p := f.progress["r"]
	if p.Running || p.Elapsed != l.due(2)-1 || p.Hold.Code != InFlightLimit || f.count("2") != 1 {
		t.Fatalf("held: %+v, want the clock at %v", p, l.due(2)-1)
	}
	if got := f.explain("web0"); got.Told.Rollout != "r" && !slices.Contains(blocked(got), InFlightLimit) {
		t.Errorf("web0 isn't told because of %v", got.Blocked)
	}
	f.advance(time.Minute)
	if p = f.progress["r"]; !p.Running || p.Elapsed != l.due(2) || f.count("2") != 2 {
		t.Fatalf("let go: %+v, %d told", p, f.count("2"))
	}
	f.advance(10 * time.Hour)
	f.want("r", StateCompleted)
	for _, x := range f.check.toldBy("r") {
		if x.code != ByRamp {
			t.Errorf("%s was told as %s: a hold of the whole rollout makes nobody overdue", x.host, x.code)
		}
	}
}

// Hosts whose places lapsed while they were offline come one a gap, and never
// all at once.
func TestOverdueHostsComeOneAGap(t *testing.T) {
	f := even(t, 20, "web")
	f.mustStart(spec("r", "2", 100*time.Minute))
	for i := range 20 {
		f.see(Host(fmt.Sprint("web", i)), Offline)
	}
	f.advance(50 * time.Minute)
	if f.count("2") > 1 {
		t.Fatalf("%d offline hosts were told", f.count("2"))
	}
	if got := f.progress["r"].Elapsed; got < 40*time.Minute {
		t.Errorf("the places that lapsed aren't on record: the clock shows %v", got)
	}
	for i := range 20 {
		f.see(Host(fmt.Sprint("web", i)), Online)
	}
	f.advance(0)
	if n := f.count("2"); n > 2 {
		t.Fatalf("%d hosts were told at once", n)
	}
	f.lead() // and another leader tells no more of them
	f.advance(0)
	if n := f.count("2"); n > 2 {
		t.Fatalf("%d hosts were told at once by a new leader", n)
	}
	f.advance(25 * time.Minute) // 5 gaps: at most 5 on time, 5 overdue, 1 for rounding each
	if n := f.count("2"); n < 10 || n > 13 {
		t.Errorf("%d hosts were told 5 gaps later", n)
	}
	f.advance(100 * time.Minute)
	f.want("r", StateCompleted)
}

func TestOutageAddsNothing(t *testing.T) {
	f := even(t, 50, "web")
	f.mustStart(spec("r", "2", 50*time.Minute))
	f.advance(20 * time.Minute)
	before := f.count("2")
	f.outage(48 * time.Hour)
	f.advance(0)
	if n := f.count("2"); n > before {
		t.Errorf("%d hosts were told right after an outage", n-before)
	}
	f.advance(time.Minute)
	if n := f.count("2"); n > before+2 {
		t.Errorf("%d hosts were told in the minute after an outage", n-before)
	}
	f.advance(30 * time.Minute)
	f.want("r", StateCompleted)
}

// A change that kills hosts stops by itself, and a week later, when they don't
// count any more, it still stands.
func TestDeadHostsKeepTheirPlaces(t *testing.T) {
	f := even(t, 20, "web")
	s := spec("r", "2", time.Hour)
	s.InFlight = InFlight{Max: 10, PerRole: 100}
	f.latency = func() time.Duration { return 1000 * time.Hour }
	f.mustStart(s)
	f.advance(2 * time.Hour)
	var dead []Host
	for _, x := range f.check.toldBy("r") {
		dead = append(dead, x.host)
	}
	if len(dead) != 2 {
		t.Fatalf("%d hosts were told, the limit is 2", len(dead))
	}
	for _, h := range dead {
		f.see(h, Gone)
	}
	f.advance(240 * time.Hour)
	if n := f.count("2"); n > 2 {
		t.Errorf("%d more hosts were told when the dead ones were gone", n-2)
	}
	if flights := f.snap.Flights("r", 10); len(flights) != 2 {
		t.Errorf("in flight are %v", flights)
	}
	if got := blocked(f.explain(dead[0])); !slices.Contains(got, HostGone) {
		t.Errorf("the gone host is explained by %v", got)
	}
	// Decommissioning frees the places.
	f.decommission(dead[0])
	f.decommission(dead[1])
	f.advance(time.Hour)
	if f.count("2") == 0 {
		t.Error("nothing moves after the dead hosts were decommissioned")
	}
}

func TestAHostileReportHarmsNobody(t *testing.T) {
	f := even(t, 4, "web")
	r := f.reports["web0"]
	r.Generation = 1<<64 - 1
	f.report("web0", r)
	r = f.reports["web1"]
	r.Checks = map[ID]Check{}
	for i := range 5000 {
		r.Checks[ID(fmt.Sprint("check", i))] = Check{Status: Passing}
	}
	f.report("web1", r)
	step, err := f.snap.Create(spec("r", "2", time.Minute), "ann", fleetSeed, f.now)
	if err != nil || !f.commit(step) {
		t.Fatal(err)
	}
	for range 200 { // not advance: the checker takes reports at their word
		f.now = f.now.Add(time.Second)
		for _, step := range Decide(f.snap, f.now).Steps {
			for _, x := range step.Tells {
				if g := x.Desired.Generation; g == 0 || g > 10 {
					t.Fatalf("%s is told generation %d", x.Host, g)
				}
				if n := len(x.Desired.Told["version"].Checks); n > 64 {
					t.Fatalf("%s's document remembers %d checks", x.Host, n)
				}
				f.desired[x.Host] = x.Desired
				f.put(func(s *Snapshot) { s.PutDesired(x.Host, &x.Desired) })
			}
			for _, r := range step.Records {
				f.put(func(s *Snapshot) { err = errors.Join(err, s.PutRollout(r.ID, &r.Record)) })
			}
			if p := step.Progress; p != nil {
				f.put(func(s *Snapshot) { s.PutProgress("r", *p) })
			}
		}
		f.renew()
	}
	if err != nil || f.count("2") != 4 {
		t.Errorf("%d of 4 hosts were told, %v", f.count("2"), err)
	}
}

func TestNewestWinsWhateverTheClockSays(t *testing.T) {
	f := even(t, 10, "web")
	f.mustStart(spec("b", "2", time.Minute))
	f.advance(30 * time.Second)
	s := spec("a", "3", time.Minute) // comes first by name
	s.Supersedes = "b"
	f.now = f.now.Add(-10 * time.Second) // another leader, whose clock is behind
	f.lead()
	f.mustStart(s)
	if ids := f.snap.Rollouts(); !slices.Equal(ids, []ID{"b", "a"}) {
		t.Errorf("by age: %v", ids)
	}
	f.want("b", StateSuperseded)
	f.advance(5 * time.Minute)
	f.want("a", StateCompleted)
	if f.count("3") != 10 {
		t.Errorf("%d of 10 hosts are on 3", f.count("3"))
	}
}

// A role that everybody left before the start doesn't shift the phases of a
// leader that has seen it.
func TestRolesThatEverybodyLeft(t *testing.T) {
	f := even(t, 3, "web", "db", "cache", "old")
	s := spec("r", "2", time.Minute)
	s.Start = f.now.Add(time.Hour)
	f.mustStart(s)
	for i := range 3 {
		h := Host(fmt.Sprint("old", i))
		r := f.reports[h]
		r.Role = "web"
		f.report(h, r)
	}
	f.now = s.Start
	f.renew()
	f.reload()
	f.settle()
	if got := len(f.rollouts["r"].Theta); got != 3 {
		t.Errorf("%d roles have a phase", got)
	}
}

func TestFirstDocumentsAndDrift(t *testing.T) {
	f := newFleet(t.Fatalf)
	f.variable(Variable{Name: "version", Type: String, Initial: str("1"), Value: str("1")})
	f.join("same", "web", nil, Document{"version": str("1")})
	f.join("absent", "web", nil, nil)
	f.join("other", "web", nil, Document{"version": str("9")})
	f.see("off", Offline) // not even a report
	f.settle()
	for h, want := range map[Host]string{"same": "1", "absent": "1", "other": "(none)"} {
		d, ok := f.desired[h]
		if got := d.Values["version"].String(); !ok || d.Generation != 1 || got != want {
			t.Errorf("%s's first document is %+v, want %s", h, d, want)
		}
	}
	if _, ok := f.desired["off"]; ok {
		t.Error("a host that never reported itself has a document")
	}
	hs, err := f.snap.Host("other")
	v, err2 := f.snap.Variable("version")
	if err != nil || err2 != nil || !hs.Drifted(v) {
		t.Errorf("the other host hasn't drifted: %v %v", err, err2)
	}
	if got := blocked(f.explain("other")); !slices.Equal(got, []Code{NoRollout, Drifted}) {
		t.Errorf("the drifted host is explained by %v", got)
	}
	// Adoption: it comes to run the variable's value by itself.
	r := f.reports["other"]
	r.Actual = Document{"version": str("1")}
	f.report("other", r)
	f.settle()
	if d := f.desired["other"]; d.Values["version"] != str("1") || d.Generation != 2 {
		t.Errorf("not adopted: %+v", d)
	}
	// A new variable tells only those who run its value already.
	f.variable(Variable{Name: "colour", Type: String, Initial: str("red"), Value: str("red")})
	r = f.reports["same"]
	r.Actual = Document{"version": str("1"), "colour": str("red")}
	f.report("same", r)
	f.settle()
	if f.desired["same"].Values["colour"] != str("red") || !f.desired["absent"].Values["colour"].IsZero() {
		t.Errorf("same: %v, absent: %v", f.desired["same"].Values, f.desired["absent"].Values)
	}
	f.replay()
}

func TestDamagedDocumentsArePutBack(t *testing.T) {
	f := even(t, 2, "web")
	old := f.desired["web0"]
	f.damaged["web0"] = true
	f.put(func(s *Snapshot) { s.PutDamaged("web0") })
	f.press(false, false)
	f.settle()
	if f.desired["web0"].Generation != old.Generation {
		t.Error("put back while everything is stopped")
	}
	f.press(true, false)
	f.settle()
	d := f.desired["web0"]
	if d.Generation != old.Generation+1 || d.Values["version"] != str("1") || f.damaged["web0"] {
		t.Errorf("put back as %+v", d)
	}
}

// Joins to completed rollouts: the newest layer whose where matches wins, and
// an older one takes nobody back.
func TestLayers(t *testing.T) {
	f := even(t, 4, "web", "db")
	all := spec("all", "2", time.Minute)
	f.mustStart(all)
	f.advance(2 * time.Minute)
	f.want("all", StateCompleted)
	if v := f.variables["version"]; v.Value != str("2") {
		t.Errorf("after full coverage the variable is %v", v.Value)
	}
	web := spec("web", "3", time.Minute)
	web.Where = `role == "web"`
	f.mustStart(web)
	f.advance(2 * time.Minute)
	f.want("web", StateCompleted)
	if v := f.variables["version"]; v.Value != str("2") {
		t.Errorf("after part of the coverage the variable is %v", v.Value)
	}
	f.join("web9", "web", nil, Document{"version": str("1")})
	f.join("db9", "db", nil, Document{"version": str("1")})
	f.join("web8", "web", nil, nil)
	f.advance(10 * time.Minute)
	for h, want := range map[Host]string{"web9": "3", "db9": "2", "web8": "3", "web0": "3", "db0": "2"} {
		if got := f.desired[h].Values["version"].Text(); got != want {
			t.Errorf("%s is on %s, want %s", h, got, want)
		}
	}
	if d := f.desired["web9"].Told["version"]; d.Rollout != "web" {
		t.Errorf("web9 was told by %q", d.Rollout)
	}
	// An abort stops a layer until it is acknowledged.
	a := f.abort("web", false)
	f.join("web7", "web", nil, Document{"version": str("1")})
	f.advance(10 * time.Minute)
	if v := f.desired["web7"].Values["version"]; !v.IsZero() {
		t.Errorf("an aborted layer told web7 %v", v)
	}
	if got := blocked(f.explain("web7")); !slices.Contains(got, Aborted) {
		t.Errorf("web7 is explained by %v", got)
	}
	f.operate(f.snap.Resume("web", "ann", "seen", a.Sequence, f.now))
	f.advance(time.Minute)
	if v := f.desired["web7"].Values["version"]; v != str("3") {
		t.Errorf("a resumed layer told web7 %v", v)
	}
	f.replay()
}

func TestPartialRolloutGrowsWithItsRole(t *testing.T) {
	f := even(t, 10, "web")
	s := spec("r", "2", time.Minute)
	s.Ramp.Percent = 30
	f.mustStart(s)
	f.advance(2 * time.Minute)
	f.want("r", StateCompleted)
	if f.count("2") != 3 {
		t.Fatalf("%d of 10 hosts told, want 30 %%", f.count("2"))
	}
	for i := range 10 {
		f.join(Host(fmt.Sprint("new", i)), "web", nil, Document{"version": str("1")})
	}
	f.advance(10 * time.Minute)
	if f.count("2") != 6 {
		t.Errorf("%d of 20 hosts told, want 30 %%", f.count("2"))
	}
}

func TestFileVariablesConfirmByBeingTaken(t *testing.T) {
	for _, enact := range []string{"file", ""} {
		f := newFleet(t.Fatalf)
		f.variable(Variable{Name: "version", Type: String, Enact: enact})
		f.join("h", "web", nil, nil)
		f.settle()
		f.latency = func() time.Duration { return 1000 * time.Hour }
		f.mustStart(spec("r", "2", time.Minute))
		f.advance(2 * time.Minute)
		r := f.reports["h"]
		r.Generation = f.desired["h"].Generation
		r.Enact = map[Name]Enact{"version": {Status: Unenacted}}
		f.put(func(s *Snapshot) { s.PutReport("h", &r) })
		st, err := f.snap.Status("r", f.now)
		if err != nil || (st.Confirmed == 1) != (enact == "file") {
			t.Errorf("enact %q: %d confirmed, %v", enact, st.Confirmed, err)
		}
	}
}

func TestPendingWaitsForItsStartAndForAnother(t *testing.T) {
	f := even(t, 4, "web")
	f.variable(Variable{Name: "colour", Type: String, Value: str("red")})
	first := spec("first", "2", time.Hour)
	first.Start = f.now.Add(time.Hour)
	f.mustStart(first)
	second := spec("second", "blue", time.Minute)
	second.Variable, second.After = "colour", "first"
	f.mustStart(second)
	for id, code := range map[ID]Code{"first": NotStarted, "second": WaitingForRollout} {
		if st, err := f.snap.Status(id, f.now); err != nil || st.Reason.Code != code {
			t.Errorf("%s isn't moving because of %v, %v", id, st.Reason, err)
		}
	}
	f.advance(time.Hour)
	f.want("first", StateRunning)
	f.advance(time.Hour - 1)
	f.want("second", StatePending)
	f.advance(1)
	f.want("first", StateCompleted)
	f.want("second", StateRunning)
	f.advance(time.Minute)
	f.want("second", StateCompleted)
}

func TestSettleKeepsTwoChangesApart(t *testing.T) {
	f := even(t, 4, "web")
	f.mustStart(spec("one", "2", time.Minute))
	f.advance(time.Minute)
	two := spec("two", "3", time.Minute)
	two.Settle = Duration(time.Hour)
	f.mustStart(two)
	f.advance(5 * time.Minute)
	if f.count("3") > 0 {
		t.Fatal("told before it had settled")
	}
	if got := blocked(f.explain("web0")); !slices.Contains(got, HostSettling) {
		t.Errorf("web0 is explained by %v", got)
	}
	f.advance(2 * time.Hour)
	f.want("two", StateCompleted)
}

func TestCompletionRules(t *testing.T) {
	f := even(t, 5, "web")
	f.see("web0", Offline) // untold targets that are offline don't block
	f.agents["web1"].broken = true
	f.mustStart(spec("r", "2", time.Minute))
	f.advance(time.Hour)
	f.want("r", StateRunning) // told and unconfirmed ones do
	st, err := f.snap.Status("r", f.now)
	if err != nil || st.Reason.Code != Unconfirmed || st.Failed != 1 {
		t.Errorf("it waits for %v, %d failed, %v", st.Reason, st.Failed, err)
	}
	f.agents["web1"].broken = false
	f.enact("web1")
	f.settle()
	f.want("r", StateCompleted)
	if got := blocked(f.explain("web0")); !slices.Contains(got, HostOffline) {
		t.Errorf("web0 is explained by %v", got)
	}
	f.see("web0", Online)
	f.advance(time.Minute)
	if f.count("2") != 5 {
		t.Error("the host that came back isn't told")
	}
}

func TestFreezeAndResume(t *testing.T) {
	f := even(t, 10, "web")
	f.mustStart(spec("r", "2", 10*time.Minute))
	f.advance(3 * time.Minute)
	a := f.abort("r", true) // the mirror hasn't heard it: the broker refuses
	n := f.count("2")
	f.advance(5 * time.Minute)
	f.want("r", StateFrozen)
	if f.count("2") != n {
		t.Error("told after the abort")
	}
	for _, ack := range []uint64{0, a.Sequence - 1, a.Sequence + 1} {
		if _, err := f.snap.Resume("r", "ann", "", ack, f.now); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), fmt.Sprint(a.Sequence)) {
			t.Errorf("resumed with %d: %v", ack, err)
		}
	}
	f.operate(f.snap.Resume("r", "ann", "fixed", a.Sequence, f.now))
	f.want("r", StateRunning)
	f.advance(7*time.Minute + time.Second)
	f.want("r", StateCompleted)
	if _, err := f.snap.Pause("r", "ann", "", f.now); !errors.Is(err, ErrRefused) {
		t.Errorf("a completed rollout was paused: %v", err)
	}
	if _, err := f.snap.Cancel("nobody", "ann", "", f.now); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown rollout was cancelled: %v", err)
	}
}

func TestReasonsAreSentences(t *testing.T) {
	for _, c := range []Code{
		ByRamp, ByCatchUp, ByLayer, ByFirst, ByAdoption, ByRestore, ByOperator, Paused, Frozen, Ended, NotStarted, WaitingForRollout, Stopped, Aborted,
		AuditBehind, InFlightLimit, RoleInFlightLimit, HostOffline, HostSettling, HostGone, NotDueYet, CatchingUp, Unconfirmed, BeyondTarget, NotSelected,
		NoRollout, Drifted, RecordDamaged, Decommissioned, "some_new_code",
	} {
		r := Reason{Code: c, Role: "web", Host: "h", Rollout: "r", Position: 3, Target: 7, Told: 2, Share: 0.25, InFlight: 4, Limit: 5, Sequence: 9, Detail: "ticket 4711"}
		s := r.String()
		if s == "" || strings.Contains(s, "_") || strings.Contains(s, "%!") || strings.HasSuffix(s, ".") {
			t.Errorf("%s: %q", c, s)
		}
		var back Reason
		if b, err := json.Marshal(r); err != nil || json.Unmarshal(b, &back) != nil || back != r {
			t.Errorf("%s came back as %+v", c, back)
		}
	}
	if s := (Reason{}).String(); s != "" {
		t.Errorf("no reason is %q", s)
	}
	if s := (Reason{Code: ByRamp, Role: "web", Position: 3, Target: 7, Share: 0.25}).String(); s != "the ramp is at 25.00%: host 3 of 7 in role web" {
		t.Errorf("%q", s)
	}
}

// After the bucket was restored from an old copy a host has applied more than
// the bucket knows of; its next document is newer still.
func TestGenerationsGoOnFromWhatTheHostApplied(t *testing.T) {
	f := even(t, 2, "web")
	r := f.reports["web0"]
	r.Generation = 41
	f.report("web0", r)
	f.mustStart(spec("r", "2", time.Minute))
	f.advance(2 * time.Minute)
	f.want("r", StateCompleted)
	if got := f.desired["web0"].Generation; got != 42 {
		t.Errorf("web0 goes on with generation %d", got)
	}
}
