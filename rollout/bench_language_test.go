package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// The fleet of the benchmarks below has 100,000 hosts in 500 roles, and 20
// rollouts at a time, each of a variable of its own.
const (
	manyHosts    = 100_000
	manyRoles    = 500
	manyRollouts = 20
)

// plainSpec is the floor: a straight line.
func plainSpec(i int) Spec {
	return Spec{
		Name: ID(fmt.Sprint("bench", i)), Variable: Name(fmt.Sprint("version", i)), To: str("2"),
		Ramp: Ramp{Over: Duration(14 * 24 * time.Hour)}, Spread: []Word{"zone"}, InFlight: InFlight{Max: 100, PerRole: 100},
	}
}

// wholeSpec uses the whole language.
func wholeSpec(i int) Spec {
	s := plainSpec(i)
	s.Where = `role != "role7" && labels.zone in ["z0", "z1", "z2"]`
	s.Ramp = []Ramp{
		{Shape: Exponential, Over: s.Ramp.Over},
		{Shape: Waves, Waves: []Wave{{1, Duration(3 * 24 * time.Hour), true}, {10, Duration(4 * 24 * time.Hour), false}, {100, 0, false}}},
		{Shape: Points, Points: []Point{{Duration(3 * 24 * time.Hour), 10}, {Duration(14 * 24 * time.Hour), 100}}},
		s.Ramp,
	}[i%4]
	s.Limits = []Limit{{Where: `role in ["role1", "role2"]`, Percent: 30, AtLeast: 1}, {Where: `labels.zone == "z2"`, Percent: 90}}
	s.Canary = &Canary{Hosts: 5, Bake: Duration(time.Hour)}
	s.Settle = Duration(time.Hour)
	s.Spread = []Word{"zone", "rack"}
	s.Exclude = []Host{"host0000001.example.net", "host0000002.example.net"}
	s.Windows = []Rule{
		{Days: []Weekday{"mon", "tue", "wed", "thu"}, From: TimeOfDay(9 * time.Hour), To: TimeOfDay(16 * time.Hour), Zone: "Europe/Stockholm"},
		{Days: []Weekday{"fri"}, From: TimeOfDay(9 * time.Hour), To: TimeOfDay(12 * time.Hour), Zone: "Europe/Stockholm"},
	}
	return s
}

// manyFleet has started the rollouts, each up to where its ramp's clock runs.
func manyFleet(b *testing.B, spec func(int) Spec) (*Snapshot, time.Time) {
	s := NewSnapshot(1000 * time.Hour)
	told, values := map[Name]Told{}, Document{}
	for i := range manyRollouts {
		name := Name(fmt.Sprint("version", i))
		s.PutVariable(name, &Variable{Name: name, Type: String, Value: str("1")})
		told[name], values[name] = Told{Generation: 1, Time: epoch.Add(-100 * time.Hour)}, str("1")
	}
	if spec(0).Canary != nil {
		for _, bl := range []*Blackout{
			{Name: "christmas", From: epoch.AddDate(0, 0, 19), Until: epoch.AddDate(0, 0, 34)},
			{Name: "quarter", Every: []Rule{{Months: []Month{"mar", "jun", "sep", "dec"}, MonthDays: []MonthDays{{-5, -1}}}}},
			{Name: "lab", Every: []Rule{{Days: []Weekday{"tue"}, From: TimeOfDay(10 * time.Hour), To: TimeOfDay(11 * time.Hour)}}, Where: `role == "role9"`},
		} {
			if err := s.PutBlackout(bl.Name, bl); err != nil {
				b.Fatal(err)
			}
		}
		for i := range 1000 {
			h := Host(fmt.Sprintf("host%07d.example.net", 97*i))
			s.PutPin(h, &Pin{Host: h, Values: Document{"version3": str("1")}, By: "ann"})
		}
	}
	for i := range manyHosts {
		h := Host(fmt.Sprintf("host%07d.example.net", i))
		s.PutDesired(h, &Desired{Generation: 1, Values: values, Told: told})
		s.PutReport(h, &Report{
			Role: Word(fmt.Sprint("role", i%manyRoles)), Labels: map[Word]Word{"zone": Word(fmt.Sprint("z", i%3)), "rack": Word(fmt.Sprint("r", i%40))},
			Actual: values, Generation: 1, Boot: "b",
		})
		s.PutPresence(h, Online)
	}
	s.PutLead(0, epoch)
	now := epoch
	for i := range manyRollouts {
		step, err := s.Create(spec(i), "ann", "seed", now)
		if err != nil {
			b.Fatal(err)
		}
		benchCommit(b, s, step)
		if step, err = s.Approve(spec(i).Name, "bob", "", now); err == nil {
			benchCommit(b, s, step)
		}
	}
	// Canaries are told, confirm and bake.
	for range 100 {
		for range 1000 {
			d := Decide(s, now)
			if len(d.Steps) == 0 {
				break
			}
			for _, step := range d.Steps {
				benchCommit(b, s, step)
				for _, t := range step.Tells {
					r := *s.hosts[t.Host].report
					r.Generation, r.Actual, r.Enact = t.Desired.Generation, t.Desired.Values, map[Name]Enact{t.Variable: {Status: Enacted, Generation: t.Desired.Generation}}
					s.PutReport(t.Host, &r)
				}
			}
		}
		running := 0
		for _, c := range s.ordered {
			if c.progress.Running {
				running++
			}
		}
		if running == manyRollouts {
			return s, now
		}
		now = now.Add(15 * time.Minute)
		s.PutLead(now.Sub(epoch), now)
	}
	b.Fatal("the rollouts don't start")
	return nil, now
}

var languages = []struct {
	name string
	spec func(int) Spec
}{{"plain", plainSpec}, {"whole", wholeSpec}}

// BenchmarkLanguagePlan plans one rollout anew, the order of every role
// included.
func BenchmarkLanguagePlan(b *testing.B) {
	for _, l := range languages {
		b.Run(l.name, func(b *testing.B) {
			s, now := manyFleet(b, l.spec)
			b.ReportAllocs()
			for b.Loop() {
				for _, g := range s.cohorts["bench3"].groups {
					g.dirty = true
				}
				p, err := s.Plan("bench3", PlanOptions{}, now)
				if err != nil || len(p.Hosts) < manyHosts/2 {
					b.Fatal(len(p.Hosts), err)
				}
			}
		})
	}
}

// BenchmarkLanguageDecide decides for 20 rollouts, of which the first has about
// 1,000 hosts due or, with quiet, none has.
func BenchmarkLanguageDecide(b *testing.B) {
	for _, l := range languages {
		s, now := manyFleet(b, l.spec)
		b.Run(l.name+"/quiet", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := Decide(s, now); len(d.Steps) > 0 {
					b.Fatal("something is due")
				}
			}
		})
		c := s.ordered[3]
		at := now
		for g := c.target() / 100; ; at = at.Add(time.Minute) {
			sum := 0
			for _, group := range c.groups {
				sum += max(0, group.line(c).quota(s.elapsed(c, at))-group.told)
			}
			if sum >= g {
				break
			}
		}
		for _, o := range slices.Clone(s.ordered) { // alone: steps are of one rollout at a time
			if o != c {
				o.active = false
			}
		}
		b.Run(l.name+"/due", func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = 0
				for _, step := range Decide(s, at).Steps {
					n += len(step.Tells)
				}
			}
			b.ReportMetric(float64(n), "hosts")
		})
		for _, o := range s.ordered {
			o.active = true
		}
	}
}

// BenchmarkLanguageExplain answers why one host isn't told yet.
func BenchmarkLanguageExplain(b *testing.B) {
	for _, l := range languages {
		b.Run(l.name, func(b *testing.B) {
			s, now := manyFleet(b, l.spec)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Explain("host0000777.example.net", "version3", now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
