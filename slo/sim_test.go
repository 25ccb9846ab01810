package slo

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

var (
	simHarmless = flag.Int("slo.harmless", 300, "how many harmless rollouts TestSimulation simulates")
	simHarmful  = flag.Int("slo.harmful", 40, "how many of each harmful kind")
	simReport   = flag.String("slo.report", "", "write the table to this file")
)

// The simulation of guard.md.
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

// racks lets a share of the racks, of 20 hosts each, die at a time.
func (f *fleet) racks(at time.Duration, share float64) {
	n := len(f.role) / 20
	in := f.random.Perm(len(f.role))
	for k := range n {
		if f.random.Float64() < share {
			for _, h := range in[20*k : 20*k+20] {
				f.fail(h, at+time.Duration(f.random.Float64()*float64(time.Second)))
			}
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
	failed, treated int  // hosts by then
	simple          [len(simRules)]bool
}

var simEpoch = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// judge runs the evidence, and the simpler rules, over one rollout.
func (f *fleet) judge(o *Objective, rules bool) (out simOutcome) {
	e := NewEvidence(o, false, simEpoch)
	e.Plan(simEpoch, f.length)
	for range f.roles {
		e.Stratum(simEpoch)
	}
	hosts := make([]Subject, len(f.role))
	for h, r := range f.role {
		e.Enter(&hosts[h], r, false, simEpoch)
	}
	bar := math.Log(1 / o.alpha())
	var naive simple
	naive.control = len(f.role)
	for _, ev := range f.events() {
		now, s := simEpoch.Add(ev.at), &hosts[ev.host]
		if !s.AtRisk() {
			continue
		}
		if rules {
			naive.take(ev, s.treated)
		}
		if !ev.fail {
			e.Treat(s, now)
			out.treated++
			continue
		}
		if s.treated {
			out.failed++
		}
		e.Fail(s, now)
		if out.kind == "" && e.E() >= bar {
			out.kind = Breach
			if e.Harm() >= math.Log(plainHarm) || e.Harm() >= e.Breach() {
				out.kind = Harm
			}
			if !rules {
				return out
			}
		}
	}
	out.simple = naive.fired
	return out
}

// scenario is a row of guard.md's table.
type scenario struct {
	name  string
	roles []int
	make  func(f *fleet)
	at    time.Duration // all at once then; 0: along the ramp
}

var scenarios = []scenario{
	{name: "harmless", make: func(*fleet) {}},
	{name: "+5 % of treated fail", make: func(f *fleet) { f.breaks(0.05, -1) }},
	{name: "+5 %, only the 1000-host role", make: func(f *fleet) { f.breaks(0.05, 3) }},
	{name: "+1 %", make: func(f *fleet) { f.breaks(0.01, -1) }},
	{name: "all treated fail", make: func(f *fleet) { f.breaks(1, -1) }},
	{name: "5 % of the treated fail together on day 10", make: func(f *fleet) { f.together(10*simDay, 0.05, false) }},
	{name: "the same on day 13.5", make: func(f *fleet) { f.together(27*simDay/2, 0.05, false) }},
	{name: "a shock to 5 % of the fleet, both arms", make: func(f *fleet) { f.together(7*simDay, 0.05, true) }},
	{name: "2 % of racks die, random order", make: func(f *fleet) { f.racks(3*simDay, 0.02) }},
	{name: "200 hosts, +5 %", roles: []int{80, 60, 40, 20}, make: func(f *fleet) { f.breaks(0.05, -1) }},
	{name: "1000 at once, no control, 5 %", roles: []int{1000}, make: func(f *fleet) {
		for h := range f.told {
			f.told[h] = 0
		}
		f.breaks(0.05, -1)
	}},
}

func (s *scenario) fleet(seed uint64) *fleet {
	f := newFleet(orRoles(s.roles), simLength, seed)
	f.background()
	s.make(f)
	return f
}

func orRoles(roles []int) []int {
	if roles == nil {
		return simRoles
	}
	return roles
}

// run simulates the scenario so many times, on all processors.
func (s *scenario) run(n int, rules bool) []simOutcome {
	out := make([]simOutcome, n)
	var wait sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for i := range next {
				out[i] = s.fleet(uint64(i)+1).judge(simObjective(), rules)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wait.Wait()
	return out
}

func quantile(xs []int, q float64) int {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	return xs[min(len(xs)-1, int(q*float64(len(xs))))]
}

type simSummary struct {
	runs, harm, breach        int
	failed, failed95, treated int
	simple                    [len(simRules)]int
}

func summarize(out []simOutcome) (s simSummary) {
	var failed, treated []int
	for _, o := range out {
		s.runs++
		switch o.kind {
		case Harm:
			s.harm++
		case Breach:
			s.breach++
		}
		if o.kind != "" {
			failed, treated = append(failed, o.failed), append(treated, o.treated)
		}
		for i, fired := range o.simple {
			if fired {
				s.simple[i]++
			}
		}
	}
	s.failed, s.failed95, s.treated = quantile(failed, 0.5), quantile(failed, 0.95), quantile(treated, 0.5)
	return s
}

// simRules are simpler ways to decide, for comparison.
var simRules = [...]string{"3 failures", "over 1 % in total"}

type simple struct {
	control, treated, failed int
	fired                    [len(simRules)]bool
}

func (s *simple) take(ev simEvent, treated bool) {
	switch {
	case !ev.fail:
		s.treated++
		s.control--
	case treated:
		s.failed++
	}
	s.fired[0] = s.fired[0] || s.failed >= 3
	s.fired[1] = s.fired[1] || s.treated >= 100 && float64(s.failed) > 0.01*float64(s.treated)
}

func TestSimulation(t *testing.T) {
	var b strings.Builder
	for i := range scenarios {
		s := &scenarios[i]
		n := *simHarmful
		if i == 0 {
			n = *simHarmless
		}
		start := time.Now()
		sum := summarize(s.run(n, i == 0))
		fmt.Fprintf(&b, "%-45s %5d  ABORT %5.1f%% HOLD %5.1f%%  failed %d / %d  treated %d  %s %v\n", s.name, n, 100*float64(sum.harm)/float64(n), 100*float64(sum.breach)/float64(n), sum.failed, sum.failed95, sum.treated, time.Since(start).Round(time.Millisecond), sum.simple)
	}
	t.Log("\n" + b.String())
	if *simReport != "" {
		os.WriteFile(*simReport, []byte(b.String()), 0o644)
	}
}
