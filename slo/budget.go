package slo

import (
	"math"
	"time"
)

// budget is A, the treated against the objective's budgets (guard.md, A). Its
// two halves have equal weight.
//
// A1, within W of the change at most p₀ of the hosts: a host that is treated
// multiplies by (1 − q)/(1 − p₀), one that fails within W of it, later, by
// (q/p₀)·(1 − p₀)/(1 − q), for q ∈ {5·p₀, 20·p₀, ½}, at most ½, with equal
// weights. Charged first, hosts whose window is still open keep it conservative.
//
// A2, after W at most λ₀ failures a host and time: r^N·exp(−(r − 1)·λ₀·∫n dt)
// for N failures and n hosts at risk, and r as in C. The Poisson likelihood
// ratio.
//
// Hosts that share a domain (a rack, say) fail together, and A takes failures as
// independent: so of a domain one failure counts in the longer of W and the time of
// λ₀. That only ever takes evidence away.
//
// Both begin anew at each start point, with the hosts treated since (A1), or
// the time and failures since (A2). An expected value of at most 1 follows from
// the budgets being kept, by Ville's inequality for all times at once.
type budget struct {
	within, steady bool // there is such a budget
	settled        bool // the steady one has had its time
	p0             float64
	window         int64
	lambda         float64 // per host and millisecond

	charged  int32 // hosts, to A1
	waiting  []*Subject
	ripe     int   // those of waiting before it have matured
	old      int   // at risk after their window
	late     int   // failures of those
	exposure int64 // of hosts after their window, in milliseconds: a sum that doesn't depend on how time is cut
	exposed  int64 // until when it counts, in milliseconds

	domains map[string]int32
	failed  []int64 // when a failure of each domain counted last, by its number; 0: never
	span    int64   // for how long others don't
}

const mostQ = 0.5

func (b *budget) begin(o *Objective) {
	b.domains, b.failed = make(map[string]int32), make([]int64, 1)
	if w := o.WithinOfChange; w != nil {
		b.within, b.p0, b.window = true, float64(w.AtMost)/100, int64(w.Window)
		b.span = b.window
	}
	if s := o.Steady; s != nil {
		b.steady, b.lambda = true, float64(s.AtMost)/100/float64(time.Duration(s.Per).Milliseconds())
		b.span = max(b.span, int64(s.Per))
	}
}

// charge counts a host that is treated now.
func (b *budget) charge(s *Subject) {
	b.charged++
	s.charge = b.charged
	b.waiting = append(b.waiting, s)
}

// matures is when the next window ends.
func (b *budget) matures() int64 {
	if b.ripe == len(b.waiting) {
		return math.MaxInt64
	}
	return b.waiting[b.ripe].at + b.window
}

func (b *budget) mature() {
	s := b.waiting[b.ripe]
	b.waiting[b.ripe] = nil
	b.ripe++
	if s.mature = true; s.atRisk {
		b.old++
	}
	if b.ripe > 1024 && b.ripe > len(b.waiting)/2 {
		b.waiting = append([]*Subject(nil), b.waiting[b.ripe:]...)
		b.ripe = 0
	}
}

// expose counts the time until t.
func (b *budget) expose(t int64) {
	t /= int64(time.Millisecond)
	if b.exposed != 0 && t > b.exposed && !b.settled {
		b.exposure += int64(b.old) * (t - b.exposed)
	}
	b.exposed = max(b.exposed, t)
}

// domain is the number of a domain; 0 is none.
func (b *budget) domain(name string) int32 {
	if name == "" {
		return 0
	}
	n, ok := b.domains[name]
	if !ok {
		n = int32(len(b.failed))
		b.domains[name] = n
		b.failed = append(b.failed, 0)
	}
	return n
}

// fail counts a treated host's failure, unless its domain's counts already.
func (b *budget) fail(s *Subject, r *restarts, now int64) {
	if s.domain > 0 {
		if last := b.failed[s.domain]; last != 0 && now-last < b.span {
			return
		}
		b.failed[s.domain] = now
	}
	if s.mature {
		if !b.settled {
			b.late++
		}
		return
	}
	for i := range r.points {
		if r.points[i].charged < s.charge {
			r.points[i].early++
		}
	}
}

// log is ln E_A.
func (b *budget) log(r *restarts) float64 {
	switch {
	case b.within && b.steady:
		return logAdd(b.first(r), b.second(r)) - math.Ln2
	case b.within:
		return b.first(r)
	case b.steady:
		return b.second(r)
	}
	return 0
}

func (b *budget) first(r *restarts) float64 {
	qs := [...]float64{min(mostQ, 5*b.p0), min(mostQ, 20*b.p0), mostQ}
	sum := math.Log(r.unspent())
	for _, q := range qs {
		charge := math.Log((1 - q) / (1 - b.p0))
		failure := math.Log(q/b.p0) - charge
		for i := range r.points {
			p := &r.points[i]
			x := float64(b.charged-p.charged)*charge + float64(p.early)*failure
			sum = logAdd(sum, x+math.Log(p.weight/float64(len(qs))))
		}
	}
	return sum
}

func (b *budget) second(r *restarts) float64 {
	sum := math.Log(r.unspent())
	for _, ratio := range ratios {
		for i := range r.points {
			p := &r.points[i]
			x := float64(b.late-p.late)*math.Log(ratio) - (ratio-1)*b.lambda*float64(b.exposure-p.exposure)
			sum = logAdd(sum, x+math.Log(p.weight/float64(len(ratios))))
		}
	}
	return sum
}
