package slo

import (
	"math"
	"time"
)

// The alternatives of C: how many times as often a treated host fails as one of
// its control, and how recently it must have been treated for that. A window is
// a part of the ramp's planned length; the first is for ever.
var (
	ratios      = [...]float64{2, 5, 20, 100}
	windowParts = [...]float64{0, 0.1, 0.01}
)

const (
	windows      = len(windowParts)
	alternatives = len(ratios) * windows
)

// contrast is C, the treated against their control (guard.md, C; the logrank
// test made anytime-valid, arXiv 2011.06931; mixed over strata, arXiv
// 2302.11401).
//
// For the failure of a host in stratum s, where n treated and m control hosts
// were at risk just before it, let π = ρ·n/(ρ·n + m), and δ = 1 if the host was
// treated. Each alternative (r, w) adds, to its own sum for s and to that over
// all strata,
//
//	δ·ln r − ln(r·π + 1 − π)
//
// where of the treated only those count, in n and as a failure, that were
// treated no longer than w ago. If treated hosts fail no more often than ρ times
// their control, at any time after their treatment, the expected value of the
// exponential of each sum stays at most 1.
type contrast struct {
	windows [windows]int64 // nanoseconds; 0: for ever, or, before the ramp, not known yet
	weights                // over all strata
	// summed is how many strata have a part in the mixture of single strata:
	// those that were there when the first host was treated, until when all are
	// at 1. A later one counts in the product only.
	summed int
}

// weights are, for each alternative, the logarithm of its sum over the start
// points so far of weight × evidence since.
type weights [alternatives]float64

func (c *contrast) begin(started float64) { c.weights = c.fresh(started) }

// fresh are the weights of a stratum in which nothing has happened yet.
func (*contrast) fresh(started float64) (w weights) {
	for a := range w {
		w[a] = math.Log(started)
	}
	return w
}

func (c *contrast) plan(length time.Duration) {
	if c.windows[1] != 0 {
		return
	}
	for k, part := range windowParts {
		c.windows[k] = int64(part * float64(length))
	}
}

// settle fixes which strata are mixed.
func (c *contrast) settle(strata int) {
	if c.summed == 0 {
		c.summed = strata
	}
}

// score takes one failure in a stratum.
func (c *contrast) score(g *stratum, rho float64, treated bool, in [windows]bool) {
	for k := range windows {
		n, m := rho*float64(g.atRisk[k]), float64(g.control)
		if treated && !in[k] || n == 0 {
			continue // of no account, or nothing to compare with: a factor of 1
		}
		pi := n / (n + m)
		for i, r := range ratios {
			step := -math.Log(r*pi + 1 - pi)
			if treated {
				step += math.Log(r)
			}
			g.weights[k*len(ratios)+i] += step
			c.weights[k*len(ratios)+i] += step
		}
	}
}

// restart lets every alternative begin once more, with so much weight.
func (c *contrast) restart(strata []*stratum, weight float64) {
	w := math.Log(weight)
	c.weights.add(w)
	for _, g := range strata {
		g.weights.add(w)
	}
}

func (w *weights) add(log float64) {
	for a := range w {
		w[a] = logAdd(w[a], log)
	}
}

func (w *weights) sum() float64 {
	sum := math.Inf(-1)
	for _, x := range w {
		sum = logAdd(sum, x)
	}
	return sum
}

// log is ln E_C:
//
//	E_C = unspent + ½·Σ_a W_a/A + ½·Σ_s Σ_a W_sa/(A·S)
//
// with A alternatives, S strata, and W the sums over start points.
func (c *contrast) log(strata []*stratum, unspent float64) float64 {
	all := c.weights.sum() - math.Log(float64(alternatives))
	if c.summed > 0 {
		single := math.Inf(-1)
		for _, g := range strata[:c.summed] {
			single = logAdd(single, g.weights.sum())
		}
		all = logAdd(all, single-math.Log(float64(alternatives*c.summed))) - math.Ln2
	}
	return logAdd(all, math.Log(unspent))
}

// logAdd is ln(e^a + e^b).
func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(b, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}
