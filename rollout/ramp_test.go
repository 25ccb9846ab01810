package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		n       int
		percent Percent
		limit   *Limit
		want    int
	}{
		{10, 100, nil, 10},
		{0, 100, nil, 0},
		{0, 30, &Limit{AtLeast: 1}, 0},
		{1, 30, nil, 0},
		{1, 30, &Limit{AtLeast: 1}, 1},
		{1, 50, nil, 1},          // half up
		{3, 50, nil, 2},          // 1.5, half up
		{5, 30, nil, 2},          // 1.5, half up
		{5, 29.9, nil, 1},        // 1.495
		{2500, 1.14, nil, 29},    // 28.5, which floats make a little less
		{2750, 1.4, nil, 39},     // 38.5, the same
		{1000000, 100, nil, 1e6}, // nothing lost
		{1000000, 0.00005, nil, 1},
		{1000000, 0.000049, nil, 0},
		{100, 30, &Limit{AtMost: new(12)}, 12},
		{100, 30, &Limit{AtMost: new(0)}, 0},
		{100, 30, &Limit{AtLeast: 40}, 40},
		{100, 30, &Limit{AtLeast: 40, AtMost: new(40)}, 40},
		{3, 30, &Limit{AtLeast: 40}, 3}, // never more than there are
		{3, 30, &Limit{AtLeast: math.MaxInt, AtMost: new(math.MaxInt)}, 3},
	} {
		if got := target(c.n, c.percent, c.limit); got != c.want {
			t.Errorf("target(%d, %v, %+v) = %d, want %d", c.n, c.percent, c.limit, got, c.want)
		}
	}
}

// Percentages with two decimals, against whole-number arithmetic.
func TestTargetAndAtMostAreExact(t *testing.T) {
	for hundredths := 1; hundredths <= 10000; hundredths += 7 {
		for n := 0; n <= 3000; n += 11 {
			p := Percent(float64(hundredths) / 100)
			if got, want := target(n, p, nil), min(n, (hundredths*n+5000)/10000); got != want {
				t.Fatalf("target(%d, %v) = %d, want %d", n, p, got, want)
			}
			if got, want := atMost(p, n), max(1, hundredths*n/10000); got != want {
				t.Fatalf("atMost(%v, %d) = %d, want %d", p, n, got, want)
			}
		}
	}
}

func TestAtMost(t *testing.T) {
	for _, c := range []struct {
		percent Percent
		n, want int
	}{{5, 0, 1}, {5, 1, 1}, {5, 39, 1}, {5, 40, 2}, {7, 100, 7}, {20, 9, 1}, {20, 10, 2}, {100, 7, 7}, {0.001, 50, 1}} {
		if got := atMost(c.percent, c.n); got != c.want {
			t.Errorf("atMost(%v, %d) = %d, want %d", c.percent, c.n, got, c.want)
		}
	}
}

// quota is the inverse of due to the nanosecond: at due(i) there are at least
// i, one nanosecond before fewer than i.
func checkLine(fail func(string, ...any), l line, is ...int) {
	last := time.Duration(0)
	for _, i := range is {
		at := l.due(i)
		if at < 1 || at > l.curve.length {
			fail("%+v: due(%d) = %d, out of [1,%d]", l, i, at, l.curve.length)
		}
		if at < last {
			fail("%+v: due(%d) = %d is before an earlier host's %d", l, i, at, last)
		}
		last = at
		if q := l.quota(at); q < i || q > l.t {
			fail("%+v: quota(due(%d)) = %d", l, i, q)
		}
		if q := l.quota(at - 1); q >= i {
			fail("%+v: quota(due(%d)-1) = %d", l, i, q)
		}
		// The share is p then, and wasn't before, but for the nanosecond that
		// rounding costs and a float's 53 bits. Ramps of few nanoseconds jump.
		p, slack := (float64(i)-l.theta)/float64(l.t), 2+float64(l.curve.length)*1e-12
		length := float64(l.curve.length)
		if s := shareBy(l.curve.Ramp, min(1, (float64(at)+slack)/length)); s < p-1e-9 {
			fail("%+v: due(%d) = %d, where the share is %v and not yet %v", l, i, at, s, p)
		}
		if s := shareBy(l.curve.Ramp, (float64(at)-slack)/length); s > p+1e-9 {
			fail("%+v: due(%d) = %d, where the share is %v already, past %v", l, i, at, s, p)
		}
	}
	if q := l.quota(l.curve.length); q != l.t {
		fail("%+v: quota at the end = %d", l, q)
	}
	for _, e := range []time.Duration{0, -1, math.MinInt64} {
		if q := l.quota(e); q != 0 {
			fail("%+v: quota(%d) = %d", l, e, q)
		}
	}
	if q := l.quota(math.MaxInt64); q != l.t {
		fail("%+v: quota long after the end = %d", l, q)
	}
}

var hostileThetas = []float64{0, math.SmallestNonzeroFloat64, 1e-17, 0x1p-53, 1.0 / 3, 0.5, golden, 1 - 1e-9, 1 - 0x1p-52, 1 - 0x1p-53}

// shareBy is S(x) as its definition has it, 0 for x at or below 0.
func shareBy(r *Ramp, x float64) float64 {
	if x <= 0 {
		return 0
	}
	nominal := float64(r.Length())
	switch r.Shape {
	case Exponential:
		g := cmp.Or(r.Growth, 10)
		if g < 1.000001 {
			return x // (1+h)ˣ is 1 + hx
		}
		return (math.Pow(g, x) - 1) / (g - 1)
	case Waves:
		s, start := 0.0, 0.0
		for _, w := range r.Waves {
			if start/nominal <= x {
				s = float64(w.Percent) / 100
			}
			start += float64(w.Hold)
		}
		return s
	case Points:
		var a Point
		for _, b := range r.Points {
			if x*nominal <= float64(b.At) {
				return float64(a.Percent)/100 + (x*nominal-float64(a.At))/float64(b.At-a.At)*float64(b.Percent-a.Percent)/100
			}
			a = b
		}
		return 1
	}
	return x
}

func straight(over time.Duration) curve { return curve{&Ramp{}, over} }

// ramps have every shape, some of them as hostile as is allowed.
var ramps = []Ramp{
	{},
	{Shape: Exponential},
	{Shape: Exponential, Growth: math.Nextafter(1, 2)},
	{Shape: Exponential, Growth: maxGrowth},
	{Shape: Waves, Waves: []Wave{{Percent: 1, Hold: Duration(time.Hour)}, {Percent: 33.3, Hold: 1}, {Percent: 100, Hold: Duration(time.Hour)}}},
	{Shape: Waves, Waves: []Wave{{Percent: 50, Hold: 1}, {Percent: 100}}},
	{Shape: Points, Points: []Point{{1, 1}, {Duration(time.Hour), 1}, {Duration(2 * time.Hour), 99.9}, {MaxOver, 100}}},
	{Shape: Points, Points: []Point{{Duration(time.Hour), 100}}},
}

func TestLineAtHostileValues(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 1000, 999_983, 1_000_000} {
		for _, over := range []time.Duration{1, 2, 3, time.Millisecond, time.Second, 14 * 24 * time.Hour, 100*24*time.Hour + 1, time.Duration(MaxOver) - 1, time.Duration(MaxOver)} {
			for _, theta := range hostileThetas {
				is := []int{1, 2, 3, n/2 - 1, n / 2, n/2 + 1, n - 2, n - 1, n}
				is = slices.DeleteFunc(is, func(i int) bool { return i < 1 || i > n })
				slices.Sort(is)
				for _, ramp := range ramps {
					checkLine(t.Fatalf, line{n, theta, curve{&ramp, over}}, is...)
				}
			}
		}
	}
	if q := (line{t: 0, theta: 0.9, curve: straight(time.Hour)}).quota(time.Hour); q != 0 {
		t.Errorf("a role without a target has the quota %d", q)
	}
}

func TestLineProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := line{
			t:     rapid.IntRange(1, 1_000_000).Draw(t, "t"),
			theta: rapid.OneOf(rapid.SampledFrom(hostileThetas), rapid.Float64Range(0, 1-0x1p-53)).Draw(t, "theta"),
			curve: curve{new(rapid.SampledFrom(ramps).Draw(t, "shape")), time.Duration(rapid.Int64Range(1, int64(MaxOver)).Draw(t, "over"))},
		}
		i := rapid.IntRange(1, l.t).Draw(t, "i")
		checkLine(t.Fatalf, l, i, min(i+1, l.t))
		e := time.Duration(rapid.Int64Range(0, int64(l.curve.length)-1).Draw(t, "e"))
		q := l.quota(e)
		if q > 0 && l.due(q) > e || q < l.t && l.due(q+1) <= e {
			t.Fatalf("%+v: quota(%d) = %d", l, e, q)
		}
	})
}

func TestThetas(t *testing.T) {
	targets := map[string]int{"web": 3, "db": 3, "cache": 50, "none": 0}
	a, b := thetas("salt", targets), thetas("salt", maps.Clone(targets))
	if !maps.Equal(a, b) {
		t.Errorf("the same roles got %v, then %v", a, b)
	}
	for k, v := range a {
		if v < 0 || v >= 1 {
			t.Errorf("θ of %s is %v", k, v)
		}
	}
	if maps.Equal(a, thetas("another", targets)) {
		t.Error("another salt gave the same phases")
	}
}

// deviation walks the whole ramp and returns how far the fleet, and the worst
// role, is from its straight line, in hosts.
func deviation(sizes []int, theta func(k int) float64) (fleet, role float64) {
	const over = time.Duration(1_000_000_000)
	lines := make([]line, len(sizes))
	total := 0
	for k, n := range sizes {
		lines[k] = line{n, theta(k), straight(over)}
		total += n
	}
	for step := range 2001 {
		e := over * time.Duration(step) / 2000
		share := float64(e) / float64(over)
		told := 0
		for _, l := range lines {
			q := l.quota(e)
			told += q
			role = max(role, math.Abs(float64(q)-share*float64(l.t)))
		}
		fleet = max(fleet, math.Abs(float64(told)-share*float64(total)))
	}
	return fleet, role
}

func sizesOf(name string) []int {
	if name == "even" {
		return slices.Repeat([]int{3}, 500)
	}
	sizes := make([]int, 500) // Zipf: 21,996 hosts
	for k := range sizes {
		sizes[k] = max(1, int(3238/float64(k+1)+0.5))
	}
	return sizes
}

// The figures of design.md §6: with 500 roles of 3 the fleet stays about 2
// hosts from the straight line, with Zipf-sized ones about 14 of 21,996, and
// each role within one host of its own.
func TestThetaSequenceKeepsTheFleetStraight(t *testing.T) {
	for _, c := range []struct {
		sizes string
		most  float64 // on average over salts
	}{{"even", 2.5}, {"zipf", 16}} {
		sizes := sizesOf(c.sizes)
		targets := map[string]int{}
		total := 0
		for k, n := range sizes {
			targets[fmt.Sprintf("role%d", k)] = n
			total += n
		}
		const salts = 10
		sum := 0.0
		for s := range salts {
			phases := thetas(fmt.Sprint("salt", s), targets)
			fleet, role := deviation(sizes, func(k int) float64 { return phases[fmt.Sprintf("role%d", k)] })
			if role > 1 {
				t.Errorf("%s: a role is %.3f hosts from its own line", c.sizes, role)
			}
			if fleet > 2*c.most {
				t.Errorf("%s, salt %d: the fleet of %d is %.1f hosts from the straight line", c.sizes, s, total, fleet)
			}
			sum += fleet
		}
		t.Logf("%s: %d hosts in %d roles stay %.1f hosts from the straight line", c.sizes, total, len(sizes), sum/salts)
		if sum/salts > c.most {
			t.Errorf("%s: the fleet is %.1f hosts from the straight line on average, want at most %.1f", c.sizes, sum/salts, c.most)
		}
	}
	// The measure sees the difference: one phase for all is 250 hosts off.
	if fleet, _ := deviation(sizesOf("even"), func(int) float64 { return 0.5 }); fleet < 200 {
		t.Errorf("one phase for all is only %.1f hosts off", fleet)
	}
}

// labelled makes the places of one role: sizes[z][r] hosts in rack r of zone z.
func labelled(sizes [][]int, salt string) []place {
	var ps []place
	for z, racks := range sizes {
		for r, n := range racks {
			for i := range n {
				name := fmt.Sprintf("h%d-%d-%d", z, r, i)
				h := &host{name: Host(name), report: &Report{Labels: map[Word]Word{
					"zone": Word(fmt.Sprint("z", z)), "rack": Word(fmt.Sprintf("z%d-r%d", z, r)),
				}}}
				ps = append(ps, place{key: salted(salt, name), m: &member{host: h}})
			}
		}
	}
	return ps
}

func order(ps []place) []Host {
	out := make([]Host, len(ps))
	for i, p := range ps {
		out[i] = p.m.host.name
	}
	return out
}

// unevenness is how far the worst prefix is from an even one, in hosts of one
// value of the label.
func unevenness(ps []place, label Word) float64 {
	total := map[Word]int{}
	for _, p := range ps {
		total[p.m.host.report.Labels[label]]++
	}
	worst, seen := 0.0, map[Word]int{}
	for k, p := range ps {
		seen[p.m.host.report.Labels[label]]++
		for v, n := range total {
			even := float64(n) * float64(k+1) / float64(len(ps))
			worst = max(worst, math.Abs(float64(seen[v])-even))
		}
	}
	return worst
}

// Any prefix of a role's order has, of each zone, its share within 2 hosts;
// and of each rack within 3, since a rack's hosts are even among its zone's.
func TestSpreadIsEvenInEveryPrefix(t *testing.T) {
	uneven := [][]int{{40, 3, 17}, {200}, {1}, {9, 9, 9, 9}, {2, 80}}
	equal := slices.Repeat([][]int{{10, 10, 10, 10}}, 6)
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.OneOf(
			rapid.Just(uneven), rapid.Just(equal),
			rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(1, 40), 1, 6), 1, 8),
		).Draw(t, "sizes")
		salt := rapid.StringMatching(`[a-f0-9]{8}`).Draw(t, "salt")
		ps := labelled(sizes, salt)
		arrangeBy(ps, salt, []Word{"zone", "rack"})
		if w := unevenness(ps, "zone"); w > 2 {
			t.Fatalf("a zone is %.2f hosts from its share", w)
		}
		if w := unevenness(ps, "rack"); w > 3 {
			t.Fatalf("a rack is %.2f hosts from its share", w)
		}
	})
	// The measure sees the difference.
	ps := labelled(equal, "salt")
	arrangeBy(ps, "salt", nil)
	if w := unevenness(ps, "zone"); w <= 2 {
		t.Errorf("hosts without spread are only %.2f from even", w)
	}
}

func TestOrder(t *testing.T) {
	sizes := [][]int{{5, 8}, {13}, {1, 1, 1}}
	for _, spread := range [][]Word{nil, {"zone"}, {"zone", "rack"}, {"absent"}} {
		ps := labelled(sizes, "salt")
		arrangeBy(ps, "salt", spread)
		want := order(ps)
		if len(want) != 29 || len(slices.Compact(slices.Sorted(slices.Values(want)))) != 29 {
			t.Fatalf("spread %v: hosts lost or doubled: %v", spread, want)
		}
		for range 3 { // the order they come in says nothing
			slices.Reverse(ps)
			ps[3], ps[17] = ps[17], ps[3]
			for i := range ps {
				ps[i].at = 0
			}
			arrangeBy(ps, "salt", spread)
			if got := order(ps); !slices.Equal(got, want) {
				t.Errorf("spread %v: the order changed from %v to %v", spread, want, got)
			}
		}
		other := labelled(sizes, "pepper")
		arrangeBy(other, "pepper", spread)
		if slices.Equal(order(other), want) {
			t.Errorf("spread %v: another salt gave the same order", spread)
		}
	}
}

func TestSalt(t *testing.T) {
	a := Salt("seed", "one")
	if a != Salt("seed", "one") || a == Salt("seed", "two") || a == Salt("other", "one") {
		t.Error("a salt follows from the seed and the rollout, and from nothing else")
	}
}
