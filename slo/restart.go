package slo

import (
	"math"
	"time"
)

// starts are the points at which the evidence begins anew, as parts of the
// ramp's planned length, and the weight of each, so that a fault that only shows
// late isn't averaged away by all that was well before (e-detectors; Shin,
// Ramdas, Rinaldo 2022). A point that has yet to come counts as evidence of 1.
// The first is there from the beginning, canaries included. A prototype had
// eleven; a hundred find hosts that fail together on day 10 of 14 after 36
// failures instead of 46, and cost an early fault nothing that could be measured.
var starts = func() (all [100]startPoint) {
	all[0] = startPoint{0, 0.5}
	for i := range all[1:] {
		all[i+1] = startPoint{float64(i+1) / 100, 0.5 / 99}
	}
	return all
}()

type startPoint struct{ part, weight float64 }

// restarts counts through the start points.
type restarts struct {
	begins  int64
	length  int64   // 0: not known yet
	n       int     // that have come
	started float64 // the sum of their weights
	points  []mark  // of those that have come
}

// mark is where A stood at a start point, and what has happened since.
type mark struct {
	weight   float64
	charged  int32 // hosts charged to A1 before
	early    int32 // of those charged since, how many failed within the window
	late     int   // failures after their window, before
	exposure int64 // of hosts after their window, before
}

func (r *restarts) begin() {
	r.n, r.started = 1, starts[0].weight
	r.points = []mark{{weight: starts[0].weight}}
}

func (r *restarts) plan(begins int64, length time.Duration) {
	if r.length == 0 && length > 0 {
		r.begins, r.length = begins, int64(length)
	}
}

// next is when the next start point comes, if that is no later than t; else t
// and false.
func (r *restarts) next(t int64) (int64, bool) {
	if r.length == 0 || r.n == len(starts) {
		return t, false
	}
	at := r.begins + int64(starts[r.n].part*float64(r.length))
	if at > t {
		return t, false
	}
	return at, true
}

// weight is the next start point's.
func (r *restarts) weight() float64 { return starts[r.n].weight }

// start notes where A stands at the next start point.
func (r *restarts) start(b *budget) {
	r.points = append(r.points, mark{weight: r.weight(), charged: b.charged, late: b.late, exposure: b.exposure})
	r.started += r.weight()
	r.n++
}

// unspent is the weight of the start points that have yet to come.
func (r *restarts) unspent() float64 { return math.Max(0, 1-r.started) }
