package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// lab is a fleet of three roles in which everything happens to a rollout that
// the checker looks at, within three days.
func lab(f *fleet) {
	f.variable(Variable{Name: "version", Type: String, Initial: str("1"), Value: str("1")})
	for i := range 24 {
		f.join(Host(fmt.Sprint("h", i+10)), roles[i%3], map[Word]Word{"zone": zones[i/3%3]}, Document{"version": str("1")})
	}
	f.objective("healthy", 30*time.Minute)
	f.latency = func() time.Duration { return 10 * time.Second }
	f.settle()
	midnight := f.now.Truncate(24 * time.Hour)
	noon := midnight.Add(12 * time.Hour)
	f.blackout("lunch", &Blackout{Name: "lunch", From: noon, Until: noon.Add(10 * time.Minute)})
	f.blackout("lab", &Blackout{Name: "lab", Where: `labels.zone == "a"`, From: noon.Add(-2 * time.Hour), Until: noon.Add(50 * time.Minute)})
	f.pin("h10", &Pin{Host: "h10", Values: Document{"version": str("9")}, Until: noon.Add(40 * time.Minute), By: "bob", Why: "ticket 812"})
	f.mustStart(Spec{
		Name: "r1", Variable: "version", To: str("2"), Ramp: Ramp{Shape: Exponential, Over: Duration(5 * time.Hour), Percent: 75}, Approvals: 1,
		Canary: &Canary{PerRole: 1, Bake: Duration(30 * time.Minute)}, Exclude: []Host{"h11", "h12"}, InFlight: InFlight{Max: 10, PerRole: 20},
		Windows: []Rule{{From: TimeOfDay(9 * time.Hour), To: TimeOfDay(13 * time.Hour)}}, Guard: &Guard{Objectives: []ID{"healthy"}},
	})
	f.advance(19 * time.Minute)
	f.says("r1", Clearance{Why: "no fresh data"})
	f.operate(f.snap.Approve("r1", "bob", "looks good", f.now))
	f.advance(time.Minute)
	f.clear("r1", 24*time.Hour)
	f.advance(4 * time.Hour)
	step, err := f.snap.Rollback("r1", Value{}, Duration(time.Hour), "bob", "bad", fleetSeed, f.now)
	f.operate(step, err)
	f.advance(24 * time.Hour)
	f.want("r1-rollback", StateCompleted)
	f.operate(f.snap.Cancel("r1", "ann", "bad", f.now))
	// Waves; a host is broken, and an abort that nobody has heard of.
	f.agents["h20"].broken = true
	f.mustStart(Spec{
		Name: "r2", Variable: "version", To: str("3"), Settle: Duration(23*time.Hour + 30*time.Minute), InFlight: InFlight{Max: 100, PerRole: 20},
		Ramp: Ramp{Shape: Waves, Waves: []Wave{{Percent: 20, Hold: Duration(time.Hour)}, {Percent: 50, Hold: Duration(time.Hour), Approval: true}, {Percent: 100}}},
	})
	f.advance(90 * time.Minute)
	f.operate(f.snap.Approve("r2", "bob", "looks good", f.now))
	f.see("h15", Offline)
	f.see("h16", Offline)
	f.advance(90 * time.Minute)
	f.see("h15", Online)
	f.see("h16", Online)
	f.advance(3 * time.Hour)
	f.agents["h20"].broken = false
	f.enact("h20")
	f.advance(time.Hour)
	f.want("r2", StateCompleted)
	s := spec("r3", "4", time.Hour)
	s.Guard = &Guard{Objectives: []ID{"healthy"}}
	f.mustStart(s)
	f.clear("r3", 10*time.Minute)
	f.advance(9 * time.Minute)
	f.says("r3", Clearance{Why: "no fresh data"})
	f.advance(6 * time.Minute)
	f.clear("r3", 4*time.Hour)
	f.advance(5 * time.Minute)
	a := f.abort("r3", false)
	f.advance(10 * time.Minute)
	f.operate(f.snap.Resume("r3", "ann", "seen", a.Sequence, f.now))
	f.press(false, false)
	f.advance(10 * time.Minute)
	f.press(true, false)
	f.advance(2 * time.Hour)
}

// step gives a mutation the decided step of one rollout that tells or, with "",
// of any.
func onTell(id ID, change func(*Step)) func(*Decision) {
	return func(d *Decision) {
		for i := range d.Steps {
			if s := &d.Steps[i]; len(s.Tells) > 0 && s.Rollout != "" && (id == "" || s.Rollout == id) {
				change(s)
			}
		}
	}
}

func onRecord(id ID, change func(*Record)) func(*Record) {
	return func(r *Record) {
		if r.Spec.Name == id {
			change(r)
		}
	}
}

// TestTheCheckerSeesFaults puts one fault after the other between the store and
// the scheduler, or between the scheduler and the store.
func TestTheCheckerSeesFaults(t *testing.T) {
	waves := func(change func([]Wave)) func(*Record) {
		return onRecord("r2", func(r *Record) {
			ws := append([]Wave(nil), r.Spec.Ramp.Waves...)
			change(ws)
			r.Spec.Ramp.Waves = ws
		})
	}
	for _, m := range []struct {
		name string
		bend bend
		want string // of what the checker says
	}{
		{"nothing", bend{}, ""},
		{"no windows", bend{record: onRecord("r1", func(r *Record) { r.Spec.Windows = nil })}, "the clock of r1"},
		{"no blackout", bend{blackout: func(b *Blackout) *Blackout {
			if b.Where == "" {
				return nil
			}
			return b
		}}, "the clock of r1"},
		{"no blackout of some", bend{blackout: func(b *Blackout) *Blackout {
			if b.Where != "" {
				return nil
			}
			return b
		}}, "by a blackout true"},
		{"no pin", bend{pin: func(*Pin) *Pin { return nil }}, "pinned"},
		{"a pin that ends early", bend{pin: func(p *Pin) *Pin { q := *p; q.Until = q.Until.Add(-time.Hour); return &q }}, "is unpinned at"},
		{"nobody is excluded", bend{record: onRecord("r1", func(r *Record) { r.Spec.Exclude = nil })}, "for the reason|counted anew"},
		{"no approvals", bend{record: onRecord("r1", func(r *Record) { r.Spec.Approvals = 0 })}, "in the way: awaiting_approval"},
		{"no bake", bend{record: onRecord("r1", func(r *Record) { c := *r.Spec.Canary; c.Bake = 0; r.Spec.Canary = &c })}, "canaries have baked for"},
		{"more canaries", bend{record: onRecord("r1", func(r *Record) { c := *r.Spec.Canary; c.PerRole = 2; r.Spec.Canary = &c })}, "its canaries are"},
		{"no canary", bend{record: onRecord("r1", func(r *Record) { r.Spec.Canary = nil })}, "canaries"},
		{"a wave that needs nobody", bend{record: waves(func(ws []Wave) { ws[1].Approval = false })}, "nobody has approved|nobody approved"},
		{"a larger wave", bend{record: waves(func(ws []Wave) { ws[0].Percent = 30 })}, "of its ramp"},
		{"a faster wave", bend{record: waves(func(ws []Wave) { ws[0].Hold /= 2 })}, "runs for"},
		{"another growth", bend{record: onRecord("r1", func(r *Record) { r.Spec.Ramp.Growth = 3 })}, "next are"},
		{"a larger percent", bend{record: onRecord("r1", func(r *Record) { r.Spec.Ramp.Percent = 100 })}, "for the reason|counted anew"},
		{"more in flight", bend{record: onRecord("r1", func(r *Record) { r.Spec.InFlight.Max = 50 })}, "in flight of|counted anew"},
		{"more in a role", bend{record: onRecord("r2", func(r *Record) { r.Spec.InFlight.PerRole = 100 })}, "in flight of"},
		{"no settling", bend{record: onRecord("r2", func(r *Record) { r.Spec.Settle = 0 })}, "next are"},
		{"another order", bend{record: onRecord("r2", func(r *Record) { r.Salt = "salt" })}, "next are|salt"},
		{"evidence that is withheld", bend{clearance: func(c Clearance) Clearance {
			if c.Why != "" {
				c.Until = epoch.AddDate(1, 0, 0)
			}
			return c
		}}, "without evidence"},
		{"nothing is watched", bend{record: onRecord("r3", func(r *Record) { r.Spec.Guard = nil })}, "no_fresh_evidence"},
		{"no window", bend{objective: func(time.Duration) time.Duration { return 0 }}, "completes at"},
		{"an abort and a stop that nobody hears", bend{unfenced: true}, "after abort|everything is held"},
		{"no reason", bend{decision: onTell("", func(s *Step) { s.Tells[0].Reason = Reason{} })}, "without a reason"},
		{"another reason", bend{decision: onTell("", func(s *Step) { s.Tells[0].Reason.Position++ })}, "for the reason"},
		{"another value", bend{decision: onTell("r1-rollback", func(s *Step) {
			s.Tells[0].Desired.Values = Document{"version": str("7")}
		})}, "want 1"},
		{"told twice", bend{decision: onTell("r2", func(s *Step) { s.Tells = append(s.Tells, s.Tells[0]) })}, "next are"},
		{"a generation too many", bend{decision: onTell("", func(s *Step) { s.Tells[0].Desired.Generation++ })}, "generation"},
		{"a fast clock", bend{decision: onTell("r3", func(s *Step) { s.Progress.Elapsed += time.Minute })}, "the clock of r3"},
		{"idleness", bend{decision: func(d *Decision) {
			if len(d.Steps) > 0 && len(d.Steps[0].Tells) > 0 && d.Steps[0].Rollout == "r3" {
				d.Steps = nil
			}
		}}, "could tell|place 1 of"},
		{"sleep", bend{decision: func(d *Decision) { d.Next = time.Time{} }}, "is to be asked at"},
		{"an early end", bend{decision: onTell("r3", func(s *Step) {
			s.Records = append(s.Records, RecordChange{"r3", Record{State: StateCompleted, By: Scheduler, Why: "done"}})
		})}, "completes|shouldn't"},
	} {
		t.Run(m.name, func(t *testing.T) {
			said := found(m.bend)
			if m.want == "" && said != "" {
				t.Fatal(said)
			}
			for want := range strings.SplitSeq(m.want, "|") {
				if strings.Contains(said, want) && (said != "" || m.want == "") {
					return
				}
			}
			t.Fatalf("the checker says %q, want %s", said, m.want)
		})
	}
}

// found goes through the lab, and returns what the checker says first.
func found(b bend) (said string) {
	type fault string
	defer func() {
		switch f := recover().(type) {
		case nil:
		case fault:
			said = string(f)
		default:
			panic(f)
		}
	}()
	f := newFleetAt(func(format string, args ...any) { panic(fault(fmt.Sprintf(format, args...))) }, epoch.Add(-time.Minute), time.Minute)
	f.bend = b
	lab(f)
	return ""
}
