package slo

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tsunami-rollouts/tsunami/field"
)

// oracle multiplies the formulas of the decision record (docs/adr/0020) out,
// from the list of everything that happened: each start point by itself, each
// failure with its risk set, in plain products. It shares nothing with Evidence
// but the constants.
type oracle struct {
	o             *Objective
	objectiveOnly bool
	strata        int
	summed        int // strata there were when the first host was treated
	plan          int64
	length        int64 // 0: not planned
	settled       int64 // 0: it isn't
	now           int64
	hosts         []oracleHost
	failures      []oracleFailure
}

type oracleHost struct {
	stratum  int
	in       bool  // at risk
	treated  int64 // when; 0: it isn't
	early    bool  // treated while it was watched, so that it is charged
	mature   int64 // when its window is over
	left     int64 // when it failed or left; 0: it hasn't
	watching bool
}

// oracleFailure is one failure with those that were at risk just before it, by
// window.
type oracleFailure struct {
	at      int64
	stratum int
	treated bool
	in      [windows]bool
	n       [windows]int
	m       int
	late    bool
	charge  int64 // when the host was charged; 0: never
	counts  bool  // in A2: before it was settled
}

// recent says whether a host that was treated at a time is in a window now.
func (w *oracle) recent(treated int64, window int) bool {
	if window == 0 || w.length == 0 {
		return true
	}
	return treated+int64(windowParts[window]*float64(w.length)) > w.now
}

func (w *oracle) fail(h *oracleHost) {
	f := oracleFailure{at: w.now, stratum: h.stratum, treated: h.treated != 0, counts: w.settled == 0}
	for i := range w.hosts {
		o := &w.hosts[i]
		if !o.in || o.stratum != h.stratum {
			continue
		}
		if o.treated == 0 {
			f.m++
			continue
		}
		for k := range windows {
			if w.recent(o.treated, k) {
				f.n[k]++
			}
		}
	}
	if f.treated {
		for k := range windows {
			f.in[k] = w.recent(h.treated, k)
		}
		f.late = h.mature <= w.now
		if h.early {
			f.charge = h.treated
		}
	}
	w.failures = append(w.failures, f)
	h.in, h.left = false, w.now
}

// start is when a start point comes.
func (w *oracle) start(j int) int64 {
	switch {
	case j == 0:
		return math.MinInt64
	case w.length == 0:
		return math.MaxInt64
	}
	return w.plan + int64(starts[j].part*float64(w.length))
}

func (w *oracle) harm() float64 {
	if w.objectiveOnly {
		return 1
	}
	total := 0.0
	for j := range starts {
		product, single := 0.0, 0.0
		for k := range windows {
			for _, r := range ratios {
				all := 1.0
				for s := range w.strata {
					e := w.ratio(w.start(j), s, k, r)
					all *= e
					if s < w.summed {
						single += e
					}
				}
				product += all
			}
		}
		product /= float64(alternatives)
		e := product
		if w.summed > 0 {
			e = product/2 + single/float64(alternatives*w.summed)/2
		}
		total += starts[j].weight * e
	}
	return total
}

// ratio is the evidence of one stratum for one alternative since a time.
func (w *oracle) ratio(since int64, stratum, window int, r float64) float64 {
	e := 1.0
	for _, f := range w.failures {
		if f.at < since || f.stratum != stratum || f.n[window] == 0 || f.treated && !f.in[window] {
			continue
		}
		n := w.o.tolerate() * float64(f.n[window])
		pi := n / (n + float64(f.m))
		if f.treated {
			e *= r
		}
		e /= r*pi + 1 - pi
	}
	return e
}

func (w *oracle) breach() float64 {
	a1, a2 := 0.0, 0.0
	for j := range starts {
		a1 += starts[j].weight * w.first(w.start(j))
		a2 += starts[j].weight * w.second(w.start(j))
	}
	switch {
	case w.o.WithinOfChange != nil && w.o.Steady != nil:
		return (a1 + a2) / 2
	case w.o.WithinOfChange != nil:
		return a1
	case w.o.Steady != nil:
		return a2
	}
	return 1
}

func (w *oracle) first(since int64) float64 {
	if w.o.WithinOfChange == nil {
		return 1
	}
	p := float64(w.o.WithinOfChange.AtMost) / 100
	sum := 0.0
	for _, q := range []float64{min(0.5, 5*p), min(0.5, 20*p), 0.5} {
		e := 1.0
		for _, h := range w.hosts {
			if h.early && h.treated >= since {
				e *= (1 - q) / (1 - p)
			}
		}
		for _, f := range w.failures {
			if f.charge != 0 && f.charge >= since && !f.late {
				e *= q / p * (1 - p) / (1 - q)
			}
		}
		sum += e / 3
	}
	return sum
}

func (w *oracle) second(since int64) float64 {
	if w.o.Steady == nil {
		return 1
	}
	ms := func(t int64) int64 { return t / int64(time.Millisecond) }
	until := w.now
	if w.settled != 0 {
		until = w.settled
	}
	exposure, n := int64(0), 0
	for _, h := range w.hosts {
		if h.treated == 0 {
			continue
		}
		from, to := max(h.mature, since), until
		if h.left != 0 {
			to = min(to, h.left)
		}
		if from < to {
			exposure += ms(to) - ms(from)
		}
	}
	for _, f := range w.failures {
		if f.treated && f.late && f.counts && f.at >= since {
			n++
		}
	}
	expected := float64(w.o.Steady.AtMost) / 100 * float64(exposure) / float64(time.Duration(w.o.Steady.Per).Milliseconds())
	sum := 0.0
	for _, r := range ratios {
		sum += math.Pow(r, float64(n)) * math.Exp(-(r-1)*expected) / float64(len(ratios))
	}
	return sum
}

func (w *oracle) e() float64 {
	switch {
	case w.o.WithinOfChange == nil && w.o.Steady == nil:
		return w.harm()
	case w.objectiveOnly:
		return w.breach()
	}
	return (w.harm() + w.breach()) / 2
}

func drawObjective(t *rapid.T) *Objective {
	o := &Objective{Name: "o", Check: "c", Tolerate: rapid.SampledFrom([]float64{0, 1, 2, 7.5}).Draw(t, "tolerate")}
	if rapid.Bool().Draw(t, "within") {
		o.WithinOfChange = &Within{
			AtMost: rapid.SampledFrom([]field.Percent{0.1, 1, 8, 40}).Draw(t, "p0"),
			Window: field.Duration(rapid.Int64Range(int64(time.Second), int64(time.Hour)).Draw(t, "window")),
		}
	}
	if rapid.Bool().Draw(t, "steady") {
		o.Steady = &Steady{AtMost: rapid.SampledFrom([]field.Percent{0.1, 2, 50}).Draw(t, "lambda"), Per: field.Duration(time.Hour)}
	}
	return o
}

// pair is the evidence and its oracle, side by side.
type pair struct {
	t        *rapid.T
	e        *Evidence
	cut      *Evidence // the same, with time cut into small steps
	w        *oracle
	subjects []Subject
	cuts     []Subject
}

func (p *pair) clock() time.Time { return time.Unix(0, p.w.now) }

// pass lets time pass for all of them; for cut in many steps.
func (p *pair) pass(d time.Duration) {
	steps := rapid.IntRange(0, 5).Draw(p.t, "steps")
	for i := range steps {
		p.cut.advance(p.clock().Add(d * time.Duration(i) / time.Duration(steps)))
	}
	p.w.now += int64(d)
}

func (p *pair) each(do func(e *Evidence, subjects []Subject)) {
	do(p.e, p.subjects)
	do(p.cut, p.cuts)
}

func (p *pair) act() string {
	t, w := p.t, p.w
	i := rapid.IntRange(0, len(w.hosts)-1).Draw(t, "host")
	h := &w.hosts[i]
	switch action := rapid.SampledFrom([]string{"enter", "enter", "enter treated", "treat", "treat", "fail", "fail", "fail", "leave", "plan", "stratum", "settle"}).Draw(t, "action"); action {
	case "enter", "enter treated":
		treated := action != "enter"
		if h.watching || h.left != 0 {
			return "nothing"
		}
		stratum := rapid.IntRange(0, w.strata-1).Draw(t, "stratum")
		p.each(func(e *Evidence, all []Subject) { e.Enter(&all[i], stratum, treated, p.clock()) })
		*h = oracleHost{stratum: stratum, in: true, watching: true}
		if treated {
			h.treated, h.mature = w.now, w.now
			w.treatedFirst()
		}
		return fmt.Sprint(action, i, stratum)
	case "treat":
		p.each(func(e *Evidence, all []Subject) { e.Treat(&all[i], p.clock()) })
		if h.in && h.treated == 0 {
			h.treated, h.early, h.mature = w.now, true, w.now
			if b := w.o.WithinOfChange; b != nil {
				h.mature += int64(b.Window)
			}
			w.treatedFirst()
		}
		return fmt.Sprint("treat", i)
	case "fail":
		p.each(func(e *Evidence, all []Subject) { e.Fail(&all[i], p.clock()) })
		if h.in {
			w.fail(h)
		}
		return fmt.Sprint("fail", i)
	case "leave":
		p.each(func(e *Evidence, all []Subject) { e.Leave(&all[i], p.clock()) })
		if h.in {
			h.in, h.left = false, w.now
		}
		return fmt.Sprint("leave", i)
	case "plan":
		length := time.Duration(rapid.Int64Range(int64(time.Minute), int64(3*time.Hour)).Draw(t, "length"))
		p.each(func(e *Evidence, _ []Subject) { e.Plan(p.clock(), length) })
		if w.length == 0 {
			w.plan, w.length = w.now, int64(length)
		}
		return "plan"
	case "stratum":
		if w.strata < 4 {
			p.each(func(e *Evidence, _ []Subject) { e.Stratum(p.clock()) })
			w.strata++
		}
	case "settle":
		if rapid.IntRange(0, 5).Draw(t, "settle") == 0 && w.settled == 0 {
			p.each(func(e *Evidence, _ []Subject) { e.settle(p.clock()) })
			w.settled = w.now
			return "settle"
		}
	}
	return "nothing"
}

func (w *oracle) treatedFirst() {
	if w.summed == 0 {
		w.summed = w.strata
	}
}

// check compares the two, and the counts with a recount.
func (p *pair) check(after string) {
	same := func(what string, got, want float64) {
		if math.IsNaN(got) || math.Abs(got-math.Log(want)) > 1e-9 {
			p.t.Fatalf("after %s: %s is e^%v, want e^%v", after, what, got, math.Log(want))
		}
	}
	p.e.advance(p.clock())
	p.cut.advance(p.clock())
	same("harm", p.e.Harm(), p.w.harm())
	same("breach", p.e.Breach(), p.w.breach())
	same("E", p.e.E(), p.w.e())
	if p.e.Harm() != p.cut.Harm() || p.e.Breach() != p.cut.Breach() {
		p.t.Fatalf("after %s: %v and %v with time in one piece, %v and %v in several", after, p.e.Harm(), p.e.Breach(), p.cut.Harm(), p.cut.Breach())
	}
	recount(p.t, p.e, p.subjects)
}

// recount compares the counts of hosts at risk with the hosts.
func recount(t interface{ Fatalf(string, ...any) }, e *Evidence, subjects []Subject) {
	control, treated, old := make([]int, len(e.strata)), make([]int, len(e.strata)), 0
	for i := range subjects {
		switch s := &subjects[i]; {
		case !s.atRisk:
		case s.treated:
			treated[s.stratum]++
			if s.mature {
				old++
			}
		default:
			control[s.stratum]++
		}
	}
	for i, g := range e.strata {
		if g.control != control[i] || g.atRisk[0] != treated[i] {
			t.Fatalf("stratum %d: %d control and %d treated at risk, want %d and %d", i, g.control, g.atRisk[0], control[i], treated[i])
		}
		for k := range windows {
			n := 0
			for _, s := range g.queue[g.recent[k]:] {
				if s.atRisk {
					n++
				}
			}
			if g.atRisk[k] != n {
				t.Fatalf("stratum %d: %d treated in window %d, want %d", i, g.atRisk[k], k, n)
			}
		}
	}
	if e.budget.old != old {
		t.Fatalf("%d after their window, want %d", e.budget.old, old)
	}
}

func TestEvidenceIsTheFormula(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawObjective(t)
		only := rapid.IntRange(0, 4).Draw(t, "objective only") == 0
		begin := time.Unix(1_800_000_000, int64(rapid.IntRange(0, 999_999_999).Draw(t, "ns")))
		n := rapid.IntRange(1, 12).Draw(t, "hosts")
		p := &pair{
			t: t, e: NewEvidence(o, only, begin), cut: NewEvidence(o, only, begin),
			w:        &oracle{o: o, objectiveOnly: only, now: begin.UnixNano(), hosts: make([]oracleHost, n)},
			subjects: make([]Subject, n), cuts: make([]Subject, n),
		}
		p.w.strata = rapid.IntRange(1, 3).Draw(t, "strata")
		for range p.w.strata {
			p.each(func(e *Evidence, _ []Subject) { e.Stratum(begin) })
		}
		// Most hosts are there from the beginning, as in a fleet.
		for i := range n {
			if s := rapid.IntRange(-1, p.w.strata-1).Draw(t, "stratum"); s >= 0 {
				p.each(func(e *Evidence, all []Subject) { e.Enter(&all[i], s, false, begin) })
				p.w.hosts[i] = oracleHost{stratum: s, in: true, watching: true}
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "actions") {
			p.pass(time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(t, "pass")))
			p.check(p.act())
		}
	})
}

func TestStartPointsAreAMixture(t *testing.T) {
	sum, before := 0.0, -1.0
	for _, s := range starts {
		if s.weight <= 0 || s.part <= before || s.part >= 1 {
			t.Fatalf("a start point at %v after one at %v, of weight %v", s.part, before, s.weight)
		}
		sum, before = sum+s.weight, s.part
	}
	if starts[0].part != 0 || math.Abs(sum-1) > 1e-12 {
		t.Fatalf("the first is at %v, and all weigh %v", starts[0].part, sum)
	}
}
