package slo

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// The simulated rollouts: hosts of four roles, which fail by themselves at four
// rates, over two weeks.
const (
	simDay    = 24 * time.Hour
	simLength = 14 * simDay
)

var (
	simRoles   = []int{4000, 3000, 2000, 1000}
	simHazards = []float64{0.0002, 0.0005, 0.001, 0.002} // failures a host-day
)

func simObjective() *Objective {
	return &Objective{
		Name: "docker-healthy", Check: "docker", Alpha: 1,
		WithinOfChange: &Within{AtMost: 1, Window: field.Duration(simDay)},
		Steady:         &Steady{AtMost: 0.5, Per: field.Duration(simDay)},
	}
}

// simEvent is something that happens to a host: it is treated, or fails.
type simEvent struct {
	at   time.Duration
	host int
	fail bool
}

// fleet is one simulated rollout: who is told when, and who fails when.
type fleet struct {
	roles  []int // sizes
	role   []int // of each host
	told   []time.Duration
	fails  []time.Duration // math.MaxInt64: never
	length time.Duration
	random *rand.Rand
	racks  []string // of each host, where they are known; nil: they aren't
}

const simNever = time.Duration(math.MaxInt64)

func newFleet(roles []int, length time.Duration, seed uint64) *fleet {
	f := &fleet{roles: roles, length: length, random: rand.New(rand.NewPCG(seed, 17))}
	for r, n := range roles {
		theta := f.random.Float64()
		for i := range n {
			at := time.Duration((float64(i+1) - theta) / float64(n) * float64(length))
			f.role, f.told, f.fails = append(f.role, r), append(f.told, at), append(f.fails, simNever)
		}
	}
	return f
}

// background lets hosts fail by themselves, at their role's rate.
func (f *fleet) background() {
	for h, r := range f.role {
		at := time.Duration(f.random.ExpFloat64() / simHazards[r] * float64(simDay))
		f.fail(h, at)
	}
}

func (f *fleet) fail(h int, at time.Duration) {
	if at >= 0 && at < f.fails[h] {
		f.fails[h] = at
	}
}

// soon is how long after its cause a host fails.
func (f *fleet) soon() time.Duration {
	return time.Duration(f.random.ExpFloat64() * float64(5*time.Minute))
}

// breaks lets a share of the treated fail soon after they were treated.
func (f *fleet) breaks(share float64, role int) {
	for h, r := range f.role {
		if (role < 0 || r == role) && f.random.Float64() < share {
			f.fail(h, f.told[h]+f.soon())
		}
	}
}

// together lets a share of the hosts fail at a time: of the treated, or of all.
func (f *fleet) together(at time.Duration, share float64, all bool) {
	for h := range f.role {
		if (all || f.told[h] < at) && f.random.Float64() < share {
			f.fail(h, at+f.soon()/5)
		}
	}
}

// racksDie lets a share of the racks, of 20 hosts each, die at a time. Who shares a
// rack has nothing to do with who is told when.
func (f *fleet) racksDie(at time.Duration, share float64) {
	f.rackByRack(func() (time.Duration, bool) { return at, f.random.Float64() < share })
}

// rackByRack lets each rack die, or not, when it is asked.
func (f *fleet) rackByRack(dies func() (at time.Duration, ok bool)) {
	const size = 20
	in := f.random.Perm(len(f.role))
	f.racks = make([]string, len(in))
	for i, h := range in {
		f.racks[h] = fmt.Sprint("r", i/size)
	}
	for k := range len(in) / size {
		at, ok := dies()
		if !ok {
			continue
		}
		for _, h := range in[size*k : size*(k+1)] {
			f.fail(h, at+time.Duration(f.random.Float64()*float64(time.Second)))
		}
	}
}

// lie lets hosts that are told late pretend to fail while the rollout is young,
// so many of each role.
func (f *fleet) lie(n int) {
	for r, size := range f.roles {
		first := slices.Index(f.role, r)
		for i := range n {
			f.fail(first+size-1-i, time.Duration(i+1)*time.Minute)
		}
	}
}

func (f *fleet) events() []simEvent {
	all := make([]simEvent, 0, len(f.role)+200)
	for h := range f.role {
		all = append(all, simEvent{f.told[h], h, false})
		if f.fails[h] < f.length+simDay {
			all = append(all, simEvent{f.fails[h], h, true})
		}
	}
	slices.SortFunc(all, func(a, b simEvent) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.host, b.host)) })
	return all
}

// simOutcome is what came of a simulated rollout.
type simOutcome struct {
	kind            Kind // "" where it wasn't frozen
	harm            bool // C alone, against its own bar
	failed, treated int  // hosts by then
	simple          [len(simRules)]bool
}

var simEpoch = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// judge runs the evidence, and the simpler rules, over one rollout. All of it is
// gone through, or no more than until it is frozen.
func (f *fleet) judge(o *Objective, all bool) (out simOutcome) {
	e := NewEvidence(o, false, simEpoch)
	e.Plan(simEpoch, f.length)
	for range f.roles {
		e.Stratum(simEpoch)
	}
	hosts := make([]Subject, len(f.role))
	for h, r := range f.role {
		if f.racks != nil {
			e.Together(&hosts[h], f.racks[h])
		}
		e.Enter(&hosts[h], r, false, simEpoch)
	}
	bar := math.Log(1 / o.alpha())
	naive := simple{control: len(f.role)}
	for _, ev := range f.events() {
		now, s := simEpoch.Add(ev.at), &hosts[ev.host]
		if !s.AtRisk() {
			continue
		}
		if all {
			naive.take(ev, s.treated)
		}
		if !ev.fail {
			e.Treat(s, now)
			if out.kind == "" {
				out.treated++
			}
			continue
		}
		if s.treated && out.kind == "" {
			out.failed++
		}
		e.Fail(s, now)
		out.harm = out.harm || e.Harm() >= bar
		if out.kind == "" && e.E() >= bar {
			out.kind = Breach
			if e.Harm() >= math.Log(plainHarm) || e.Harm() >= e.Breach() {
				out.kind = Harm
			}
			if !all {
				return out
			}
		}
	}
	out.simple = naive.fired
	return out
}

// simRules are simpler ways to decide, for comparison.
var simRules = [...]string{
	"3 failures", "a burn rate of 14.4 over an hour", "the same, of at least 3 failures", "over 1 % of all changed hosts", "a z-test at 5 %, looked at after each failure",
}

// simple is what the simpler rules go by: failures of treated hosts and of
// control. The burn rate is that of a budget of 1 % of the treated over the length
// of the rollout.
type simple struct {
	control, treated      int // at risk, and treated ever
	failed, controlFailed int
	hour                  []time.Duration // failures of treated hosts within the last
	fired                 [len(simRules)]bool
}

func (s *simple) take(ev simEvent, treated bool) {
	for len(s.hour) > 0 && s.hour[0] <= ev.at-time.Hour {
		s.hour = s.hour[1:]
	}
	switch {
	case !ev.fail:
		s.treated++
		s.control--
		return
	case treated:
		s.failed++
		s.hour = append(s.hour, ev.at)
	default:
		s.control--
		s.controlFailed++
	}
	const budget = 0.01
	expected := budget * float64(s.treated) * float64(time.Hour) / float64(simLength) // in an hour
	burns := treated && float64(len(s.hour)) >= 14.4*expected
	// z compares the parts of the treated and of the control that have failed.
	n, m := float64(s.treated), float64(s.control+s.controlFailed)
	pooled := float64(s.failed+s.controlFailed) / (n + m)
	z := (float64(s.failed)/n - float64(s.controlFailed)/m) / math.Sqrt(pooled*(1-pooled)*(1/n+1/m))
	for i, now := range [...]bool{
		s.failed >= 3, burns, burns && len(s.hour) >= 3, n >= 100 && float64(s.failed) > budget*n, n > 0 && m > 0 && z > 1.645,
	} {
		s.fired[i] = s.fired[i] || now
	}
}
