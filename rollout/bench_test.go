package rollout

import (
	"fmt"
	"testing"
	"time"
)

var benchSizes = []struct {
	name  string
	hosts int
}{{"1k", 1_000}, {"10k", 10_000}, {"100k", 100_000}, {"1M", 1_000_000}}

// benchFleet is a fleet of n hosts in 1 to 500 roles, with a rollout that has
// told none of them yet.
func benchFleet(b *testing.B, n int) *Snapshot {
	s := NewSnapshot(time.Hour)
	s.PutVariable("version", &Variable{Name: "version", Type: String, Value: str("1")})
	roles := min(500, n/20)
	told := map[Name]Told{"version": {Generation: 1, Time: epoch.Add(-time.Hour)}}
	for i := range n {
		h := Host(fmt.Sprintf("host%07d.example.net", i))
		s.PutDesired(h, &Desired{Generation: 1, Values: Document{"version": str("1")}, Told: told})
		s.PutReport(h, &Report{
			Role: Word(fmt.Sprint("role", i%roles)), Labels: map[Word]Word{"zone": Word(fmt.Sprint("z", i%3))},
			Actual: Document{"version": str("1")}, Generation: 1, Boot: "b",
		})
		s.PutPresence(h, Online)
	}
	s.PutLead(0, epoch)
	spec := Spec{Name: "bench", Variable: "version", To: str("2"), Ramp: Ramp{Over: Duration(14 * 24 * time.Hour)}, Spread: []Word{"zone"}, InFlight: InFlight{Max: 100, PerRole: 100}}
	step, err := s.Create(spec, "ann", "seed", epoch)
	if err != nil {
		b.Fatal(err)
	}
	benchCommit(b, s, step)
	return s
}

func benchCommit(b *testing.B, s *Snapshot, step Step) {
	for _, t := range step.Tells {
		s.PutDesired(t.Host, &t.Desired)
	}
	for _, r := range step.Records {
		if err := s.PutRollout(r.ID, &r.Record); err != nil {
			b.Fatal(err)
		}
	}
	if step.Progress != nil {
		s.PutProgress(step.Rollout, *step.Progress)
	}
}

// BenchmarkPlan lists host and time for the whole fleet, from the documents
// that it has: the order of every role included.
func BenchmarkPlan(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			s := benchFleet(b, size.hosts)
			b.ReportAllocs()
			for b.Loop() {
				for _, g := range s.cohorts["bench"].groups {
					g.dirty = true // nothing of the last round is used again
				}
				p, err := s.Plan("bench", PlanOptions{}, epoch)
				if err != nil || len(p.Hosts) != size.hosts {
					b.Fatal(len(p.Hosts), err)
				}
			}
		})
	}
}

// BenchmarkDecide decides when 1,000 hosts (or, in the smallest fleet, half of
// all) have come due since the last decision.
func BenchmarkDecide(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			s := benchFleet(b, size.hosts)
			start := Decide(s, epoch)
			benchCommit(b, s, start.Steps[0])
			Decide(s, epoch) // the order of every role is made once, at the first decision
			due := min(1000, size.hosts/2)
			now := epoch.Add(time.Duration(float64(14*24*time.Hour)*float64(due)/float64(size.hosts)) + 1)
			s.charge = 15 * 24 * time.Hour
			b.ReportAllocs()
			for b.Loop() {
				d := Decide(s, now)
				n := 0
				for _, step := range d.Steps {
					n += len(step.Tells)
				}
				if n < due*9/10 || n > due*11/10 {
					b.Fatalf("%d hosts are told, want about %d", n, due)
				}
			}
		})
	}
}

// BenchmarkDecideNothing is the decision when nothing is due.
func BenchmarkDecideNothing(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			s := benchFleet(b, size.hosts)
			start := Decide(s, epoch)
			benchCommit(b, s, start.Steps[0])
			Decide(s, epoch) // makes the order of every role
			b.ReportAllocs()
			for b.Loop() {
				if d := Decide(s, epoch); len(d.Steps) > 0 {
					b.Fatal("something is due")
				}
			}
		})
	}
}

// BenchmarkExplain answers why one host isn't told yet.
func BenchmarkExplain(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			s := benchFleet(b, size.hosts)
			b.ReportAllocs()
			for b.Loop() {
				e, err := s.Explain("host0000777.example.net", "version", epoch)
				if err != nil || e.Due.IsZero() {
					b.Fatal(e, err)
				}
			}
		})
	}
}
