package slo

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	simHarmless = flag.Int("slo.harmless", 40, "how many harmless rollouts TestSimulation simulates")
	simHarmful  = flag.Int("slo.harmful", 8, "how many of each other kind")
	simReport   = flag.String("slo.report", "", "write the tables to this file, as Markdown")
)

// scenario is a row of the table in docs/guard.md, with what it must come to.
// The shares are those of the whole simulation, and leave room for a small one.
type scenario struct {
	name      string
	roles     []int
	make      func(f *fleet)
	frozen    [2]float64 // the share that is frozen, at least and at most
	failed    [2]int     // hosts that have failed by then, in the median
	harmless  bool       // as many runs as of the harmless, and the simpler rules
	harmBound bool       // C alone must keep its bound, whatever A does
	labelled  bool       // hosts say in which rack they are
}

var scenarios = []scenario{
	{name: "harmless", make: func(*fleet) {}, frozen: [2]float64{0, 0.01}, harmless: true, harmBound: true},
	{name: "5 % of the changed hosts fail", make: func(f *fleet) { f.breaks(0.05, -1) }, frozen: [2]float64{1, 1}, failed: [2]int{2, 3}},
	{name: "5 %, in the role of 1000 only", make: func(f *fleet) { f.breaks(0.05, 3) }, frozen: [2]float64{1, 1}, failed: [2]int{2, 5}},
	{name: "1 %", make: func(f *fleet) { f.breaks(0.01, -1) }, frozen: [2]float64{0.9, 1}, failed: [2]int{2, 4}},
	{name: "all", make: func(f *fleet) { f.breaks(1, -1) }, frozen: [2]float64{1, 1}, failed: [2]int{2, 2}},
	{name: "5 % of the changed hosts fail together on day 10", make: func(f *fleet) { f.together(10*simDay, 0.05, false) }, frozen: [2]float64{1, 1}, failed: [2]int{25, 46}},
	{name: "the same on day 13.5", make: func(f *fleet) { f.together(27*simDay/2, 0.05, false) }, frozen: [2]float64{1, 1}, failed: [2]int{40, 71}},
	{name: "5 % of all hosts fail together on day 7", make: func(f *fleet) { f.together(7*simDay, 0.05, true) }, frozen: [2]float64{1, 1}, failed: [2]int{8, 20}, harmBound: true},
	{name: "2 % of the racks die on day 3", make: func(f *fleet) { f.racksDie(3*simDay, 0.02) }, frozen: [2]float64{0.9, 1}, failed: [2]int{8, 20}, harmBound: true},
	{name: "racks die all the time, one in a hundred within the two weeks", make: func(f *fleet) {
		f.rackByRack(func() (time.Duration, bool) {
			return time.Duration(f.random.Float64() * float64(simLength)), f.random.Float64() < 0.01
		})
	}, frozen: [2]float64{0, 1}, harmBound: true},
	{name: "the same, where hosts have the label rack", make: func(f *fleet) {
		f.rackByRack(func() (time.Duration, bool) {
			return time.Duration(f.random.Float64() * float64(simLength)), f.random.Float64() < 0.01
		})
	}, frozen: [2]float64{0, 0.03}, harmBound: true, labelled: true},
	{name: "5 % of the changed hosts fail together on day 10, with the label", make: func(f *fleet) {
		f.rackByRack(func() (time.Duration, bool) { return 0, false })
		f.together(10*simDay, 0.05, false)
	}, frozen: [2]float64{1, 1}, failed: [2]int{25, 46}, labelled: true},
	{name: "5 %, and 10 hosts of each role that aren't changed yet pretend to fail", make: func(f *fleet) {
		f.breaks(0.05, -1)
		f.lie(10)
	}, frozen: [2]float64{1, 1}, failed: [2]int{2, 5}},
	{name: "200 hosts, 5 %", roles: []int{80, 60, 40, 20}, make: func(f *fleet) { f.breaks(0.05, -1) }, frozen: [2]float64{0.8, 1}, failed: [2]int{2, 4}},
	{name: "1000 hosts all at once, 5 %", roles: []int{1000}, make: func(f *fleet) {
		for h := range f.told {
			f.told[h] = 0
		}
		f.breaks(0.05, -1)
	}, frozen: [2]float64{1, 1}, failed: [2]int{25, 35}},
}

func (s *scenario) runs() int {
	if s.harmless {
		return *simHarmless
	}
	return *simHarmful
}

// run simulates the scenario, on all processors.
func (s *scenario) run(all bool) []simOutcome {
	out := make([]simOutcome, s.runs())
	roles := s.roles
	if roles == nil {
		roles = simRoles
	}
	var wait sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for i := range next {
				f := newFleet(roles, simLength, uint64(i)+1)
				f.background()
				s.make(f)
				if !s.labelled {
					f.racks = nil
				}
				out[i] = f.judge(simObjective(), all)
			}
		})
	}
	for i := range out {
		next <- i
	}
	close(next)
	wait.Wait()
	return out
}

// summary is a row of the table.
type summary struct {
	runs, harm, breach int
	harmAlone          int // C alone reached its bar
	failed, failed95   int
	treated            int
	simple             [len(simRules)]int
}

func summarize(out []simOutcome) (s summary) {
	var failed, treated []int
	for _, o := range out {
		s.runs++
		if o.harm {
			s.harmAlone++
		}
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

func quantile(xs []int, q float64) int {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	return xs[min(len(xs)-1, int(q*float64(len(xs))))]
}

func (s *summary) frozen() float64 { return float64(s.harm+s.breach) / float64(s.runs) }

// upper is the one-sided 95 % bound of Clopper and Pearson on the chance of what
// was seen k times in n: the p at which k or fewer have a chance of 5 %.
func upper(k, n int) float64 {
	low, high := float64(k)/float64(n), 1.0
	for range 60 {
		p := (low + high) / 2
		tail := 0.0
		for i := range k + 1 {
			a, _ := math.Lgamma(float64(n + 1))
			b, _ := math.Lgamma(float64(i + 1))
			c, _ := math.Lgamma(float64(n - i + 1))
			tail += math.Exp(a - b - c + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
		}
		if tail > 0.05 {
			low = p
		} else {
			high = p
		}
	}
	return high
}

func TestUpperBound(t *testing.T) {
	for _, c := range []struct {
		k, n int
		want float64
	}{{0, 100, 1 - math.Pow(0.05, 1.0/100)}, {5, 100, 0.1023}, {3, 10, 0.6066}} {
		if got := upper(c.k, c.n); math.Abs(got-c.want) > 5e-4 {
			t.Errorf("%d of %d: %v, want %v", c.k, c.n, got, c.want)
		}
	}
}

func share(k, n int) string {
	p := fmt.Sprintf("%.2f", 100*float64(k)/float64(n))
	return strings.TrimSuffix(strings.TrimSuffix(p, "0"), ".0") + " %"
}

// TestSimulation simulates the rollouts of docs/guard.md and holds it to what
// that says: fewer runs by default than `make sim` has.
func TestSimulation(t *testing.T) {
	var b strings.Builder
	sums := make([]summary, len(scenarios))
	b.WriteString("| scenario | runs | harm | breach | failed hosts, median / 95 % | changed hosts, median |\n|---|---|---|---|---|---|\n")
	for i := range scenarios {
		s := &scenarios[i]
		start := time.Now()
		sums[i] = summarize(s.run(s.harmBound || s.name == oneRole))
		sum := &sums[i]
		fmt.Fprintf(&b, "| %s | %d | %s | %s | ", s.name, sum.runs, share(sum.harm, sum.runs), share(sum.breach, sum.runs))
		if sum.harm+sum.breach > 0 {
			fmt.Fprintf(&b, "%d / %d | %d |\n", sum.failed, sum.failed95, sum.treated)
		} else {
			b.WriteString("| |\n")
		}
		// A share may miss its bound by chance: by three standard deviations at most.
		room := 3 * math.Sqrt(0.01*0.99/float64(sum.runs))
		if got := sum.frozen(); got < s.frozen[0]-5*room || got > s.frozen[1]+room {
			t.Errorf("%s: %v are frozen, want %v to %v", s.name, got, s.frozen[0], s.frozen[1])
		}
		if s.failed[1] > 0 && (sum.failed < s.failed[0] || sum.failed > s.failed[1]) {
			t.Errorf("%s: frozen after %d failures in the median, want %d to %d", s.name, sum.failed, s.failed[0], s.failed[1])
		}
		if got := float64(sum.harmAlone) / float64(sum.runs); s.harmBound && got > 0.01+room {
			t.Errorf("%s: harm in %v of the runs that do none", s.name, got)
		}
		t.Logf("%s: %v", s.name, time.Since(start).Round(time.Millisecond))
	}
	b.WriteString("\n| where harm must keep its bound | runs | harm alone reached the bar | at most, with 95 % confidence |\n|---|---|---|---|\n")
	for i, s := range scenarios {
		if s.harmBound {
			fmt.Fprintf(&b, "| %s | %d | %s | %.2f %% |\n", s.name, sums[i].runs, share(sums[i].harmAlone, sums[i].runs), 100*upper(sums[i].harmAlone, sums[i].runs))
		}
	}
	rules(t, &b, &sums[0], &sums[slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == oneRole })])
	t.Log("\n" + b.String())
	if *simReport != "" {
		if err := os.WriteFile(*simReport, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const oneRole = "5 %, in the role of 1000 only"

// rules compares the simpler rules on the same rollouts.
func rules(t *testing.T, b *strings.Builder, harmless, harmful *summary) {
	b.WriteString("\n| rule | harmless rollouts that it freezes | rollouts with a fault in one role that it misses |\n|---|---|---|\n")
	frozen := harmless.harm + harmless.breach
	fmt.Fprintf(b, "| the guard | %s (at most %.2f %%, with 95 %% confidence) | %s |\n", share(frozen, harmless.runs), 100*upper(frozen, harmless.runs), share(harmful.runs-harmful.harm-harmful.breach, harmful.runs))
	for i, name := range simRules {
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, share(harmless.simple[i], harmless.runs), share(harmful.runs-harmful.simple[i], harmful.runs))
		if harmless.simple[i] <= frozen && harmful.simple[i] == harmful.runs {
			t.Errorf("%q is as good as the guard", name)
		}
	}
}
