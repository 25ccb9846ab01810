package rollout

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Shape names how the share of hosts grows with the ramp's clock.
type Shape string

// The shapes. S(x) is the share of the target at x, the part of the ramp's
// length that its clock has run.
const (
	Linear      Shape = "linear"      // S(x) = x
	Exponential Shape = "exponential" // S(x) = (gˣ − 1)/(g − 1), so that S'(1) = g·S'(0), g being the growth
	Waves       Shape = "waves"       // steps: each wave's share at its start
	Points      Shape = "points"      // straight lines between points
)

// presets are ramps that have a name: how long each takes.
var presets = map[string]Duration{
	"rapid":  Duration(24 * time.Hour),
	"common": Duration(48 * time.Hour),
	"risky":  Duration(72 * time.Hour),
}

const (
	defaultGrowth = 10
	maxGrowth     = 10_000
	maxCorners    = 100 // waves or points
)

// Length is how long the ramp takes by its own words: over, the preset's, the
// sum of the waves' holds, or the last point's time.
func (r *Ramp) Length() time.Duration {
	switch {
	case r.Preset != "":
		return time.Duration(presets[r.Preset])
	case r.Shape == Waves:
		var sum Duration
		for _, w := range r.Waves {
			sum += w.Hold
		}
		return time.Duration(sum)
	case r.Shape == Points && len(r.Points) > 0:
		return time.Duration(r.Points[len(r.Points)-1].At)
	}
	return time.Duration(r.Over)
}

func (r *Ramp) validate(add func(field, format string, args ...any)) {
	switch r.Shape {
	case "", Linear, Exponential, Waves, Points:
	default:
		add("ramp.shape", "%q isn't a shape: want linear, exponential, waves or points", r.Shape)
		return
	}
	own := r.Shape == Waves || r.Shape == Points
	switch {
	case r.Preset != "" && presets[r.Preset] == 0:
		add("ramp.preset", "%q isn't a preset: want rapid (24h), common (48h) or risky (72h)", field.Shorten(r.Preset))
	case r.Preset != "" && (r.Over != 0 || own || r.Shape == Exponential):
		add("ramp.preset", "is a linear ramp over %s: leave shape and over out", presets[r.Preset])
	case r.Preset != "":
	case own && r.Over != 0:
		add("ramp.over", "follows from the %s: leave it out", r.Shape)
	case own:
	case r.Over == 0:
		add("ramp.over", "is missing or 0: how long the change takes, such as 2w")
	case r.Over < 0 || r.Over > MaxOver:
		add("ramp.over", "%s is out of range: want up to %s", r.Over, MaxOver)
	}
	if r.Growth != 0 && r.Shape != Exponential {
		add("ramp.growth", "only an exponential ramp has one")
	} else if r.Growth != 0 && !(r.Growth > 1 && r.Growth <= maxGrowth) {
		add("ramp.growth", "%v is out of range: want above 1 and at most %d; it says how many times as fast the ramp ends as it starts", r.Growth, maxGrowth)
	}
	r.validateWaves(add)
	r.validatePoints(add)
}

func (r *Ramp) validateWaves(add func(field, format string, args ...any)) {
	if r.Shape != Waves {
		if len(r.Waves) > 0 {
			add("ramp.waves", "need shape: waves")
		}
		return
	}
	if n := len(r.Waves); n < 2 || n > maxCorners {
		add("ramp.waves", "%d waves: want 2 to %d", n, maxCorners)
		return
	}
	last := len(r.Waves) - 1
	var sum Duration
	for i, w := range r.Waves {
		at := fmt.Sprintf("ramp.waves[%d]", i)
		if i > 0 && w.Percent <= r.Waves[i-1].Percent {
			add(at+".percent", "%s isn't more than the %s of the wave before", w.Percent, r.Waves[i-1].Percent)
		}
		if i < last && w.Hold <= 0 {
			add(at+".hold", "is missing: how long until the next wave, such as 1d")
		}
		if w.Hold < 0 || w.Hold > MaxOver || sum+w.Hold > MaxOver {
			add(at+".hold", "the waves take longer than %s", MaxOver)
			return
		}
		sum += w.Hold
	}
	if r.Waves[last].Percent != 100 {
		add(fmt.Sprintf("ramp.waves[%d].percent", last), "is %s and the last wave must be 100%%, of the target: to change fewer hosts set ramp.percent", r.Waves[last].Percent)
	}
}

func (r *Ramp) validatePoints(add func(field, format string, args ...any)) {
	if r.Shape != Points {
		if len(r.Points) > 0 {
			add("ramp.points", "need shape: points")
		}
		return
	}
	if n := len(r.Points); n < 1 || n > maxCorners {
		add("ramp.points", "%d points: want 1 to %d", n, maxCorners)
		return
	}
	var before Point
	for i, p := range r.Points {
		at := fmt.Sprintf("ramp.points[%d]", i)
		if p.At <= before.At || p.At > MaxOver {
			add(at+".at", "%s: want later than %s, the point before, and at most %s", p.At, before.At, MaxOver)
		}
		if p.Percent < before.Percent || p.Percent == 0 {
			add(at+".percent", "%s: want above 0 and no less than at the point before", p.Percent)
		}
		before = p
	}
	if before.Percent != 100 {
		add(fmt.Sprintf("ramp.points[%d].percent", len(r.Points)-1), "is %s and the last point must be 100%%, of the target: to change fewer hosts set ramp.percent", before.Percent)
	}
}

// curve is a ramp's shape over the length that its clock really runs.
type curve struct {
	*Ramp
	length time.Duration
}

func (c curve) growth() float64 {
	if c.Growth == 0 {
		return defaultGrowth
	}
	return c.Growth
}

// scale maps a time on the ramp as it is written to one on its clock.
func (c curve) scale(d Duration) time.Duration {
	if nominal := c.Ramp.Length(); nominal != c.length {
		return time.Duration(math.Ceil(float64(d) / float64(nominal) * float64(c.length)))
	}
	return time.Duration(d)
}

// at is what the ramp's clock shows when the share reaches p, in (0,1]: at
// least a nanosecond, since nothing is told before the clock runs.
func (c curve) at(p float64) time.Duration {
	var d float64
	switch c.Shape {
	case Exponential:
		g := c.growth()
		d = math.Log1p(p*(g-1)) / math.Log(g) * float64(c.length)
	case Waves:
		return max(1, min(c.length, c.wave(c.waveOf(p))))
	case Points:
		var from Point
		to := from
		for _, to = range c.Points {
			if p <= float64(to.Percent)/100 {
				break
			}
			from = to
		}
		x, y := float64(c.scale(from.At)), float64(c.scale(to.At))
		d = y
		if rise := float64(to.Percent - from.Percent); rise > 0 {
			d = x + (100*p-float64(from.Percent))/rise*(y-x)
		}
	default:
		d = p * float64(c.length)
	}
	return max(1, min(c.length, time.Duration(math.Ceil(d))))
}

// share is S at a time on the ramp's clock, 0 to 1. It is the inverse of at but
// for rounding.
func (c curve) share(e time.Duration) float64 {
	if e <= 0 {
		return 0
	}
	if e >= c.length {
		return 1
	}
	x := float64(e) / float64(c.length)
	switch c.Shape {
	case Exponential:
		g := c.growth()
		return math.Expm1(x*math.Log(g)) / (g - 1)
	case Waves:
		var s float64
		for i, w := range c.Waves {
			if max(1, c.wave(i)) > e {
				break
			}
			s = float64(w.Percent) / 100
		}
		return s
	case Points:
		var from Point
		for _, to := range c.Points {
			a, b := c.scale(from.At), c.scale(to.At)
			if e < b {
				return (float64(from.Percent) + float64(to.Percent-from.Percent)*float64(e-a)/float64(b-a)) / 100
			}
			from = to
		}
		return 1
	}
	return x
}

// waveOf is the index of the first wave with at least the share p.
func (c curve) waveOf(p float64) int {
	for i, w := range c.Waves {
		// A host's place is (i−θ)/T: the epsilon keeps 3 of 10 in the wave of 30 %.
		if p <= float64(w.Percent)/100+1e-12 {
			return i
		}
	}
	return len(c.Waves) - 1
}

// wave is what the ramp's clock shows when a wave starts.
func (c curve) wave(i int) time.Duration {
	var sum Duration
	for _, w := range c.Waves[:i] {
		sum += w.Hold
	}
	return c.scale(sum)
}

// gate is the first wave that still needs an approval, and what the ramp's
// clock shows when it would start; ok is false where none does.
func (c curve) gate(approved []Approval) (i int, at time.Duration, ok bool) {
	if c.Shape != Waves {
		return 0, 0, false
	}
	for i, w := range c.Waves {
		given := false
		for _, a := range approved {
			given = given || a.Wave == i+1
		}
		if w.Approval && !given {
			return i, max(1, min(c.length, c.wave(i))), true
		}
	}
	return 0, 0, false
}

// WavesDone counts the waves that are over when the ramp's clock shows elapsed:
// the next one has begun, or waits for its approval or for room in flight. The
// last one is over when the rollout is complete, and isn't counted.
func (r *Record) WavesDone(elapsed time.Duration) int {
	if r.Spec.Ramp.Shape != Waves || r.Clock.IsZero() {
		return 0
	}
	c := curve{&r.Spec.Ramp, cmp.Or(r.Length, r.Spec.Ramp.Length())}
	n := 0
	// A clock that is held before a place stands one nanosecond before it.
	for n+1 < len(c.Waves) && elapsed+1 >= max(1, min(c.length, c.wave(n+1))) {
		n++
	}
	return n
}
