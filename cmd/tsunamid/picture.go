package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// sample is how the rollout stood at one moment.
type sample struct {
	at                       time.Duration // since the rollout began to move
	planned, told, confirmed int           // hosts
	changed                  int           // hosts that report the new value
}

// scene is all that a picture shows.
type scene struct {
	title    string
	variable rollout.Name
	from, to string // the values
	hosts    int
	over     time.Duration
	began    time.Time // the ramp's clock, without what held it before
	view     control.RolloutView
	samples  []sample
	roles    []control.RoleView // in the order in which they are shown
	footers  []string           // the longest that fits is shown
	bad      bad
}

// now is when the newest sample was taken.
func (s *scene) now() time.Duration {
	if len(s.samples) == 0 {
		return 0
	}
	return s.samples[len(s.samples)-1].at
}

func (s *scene) newest() sample {
	if len(s.samples) == 0 {
		return sample{}
	}
	return s.samples[len(s.samples)-1]
}

// left is what the ramp's clock has still to run.
func (s *scene) left() time.Duration {
	return max(0, time.Duration(s.view.Over-s.view.Elapsed))
}

// span is how much time the charts show: until the end of the ramp, and a
// little for the last hosts to confirm.
func (s *scene) span() time.Duration {
	end := s.over
	if len(s.samples) > 0 {
		end = max(end, s.now()+s.left())
	}
	return max(end+s.over/20, time.Second)
}

// Heights and widths at which parts of the picture have room.
const (
	headRows   = 2
	statusRows = 7
	footRows   = 1
	minChart   = 9 // rows, with axis and title
	mostChart  = 18
	twoCharts  = 96 // columns
	minWidth   = 40
)

// picture draws the scene into so many columns and rows.
func (s *scene) picture(width, height int) *canvas {
	roles := 0
	if left := height - headRows - statusRows - footRows - len(s.roles) - 2; left >= minChart && width >= minWidth {
		roles = len(s.roles) + 2 // with a blank row above and below
	}
	chart := min(height-headRows-statusRows-footRows-roles, mostChart)
	c := newCanvas(width, min(height, headRows+max(0, chart)+roles+statusRows+footRows))
	x := c.text(1, 0, s.title, boldStyle)
	c.text(x, 0, fmt.Sprintf("  %s %s → %s, %d hosts in %d roles, over %s", s.variable, s.from, s.to, s.hosts, len(s.roles), seconds(s.over)), dimStyle)
	y := headRows
	if chart >= 5 {
		if width >= twoCharts {
			half := width / 2
			s.drawLines(area{c, 0, y, half - 1, chart})
			s.drawVersions(area{c, half, y, width - half, chart})
		} else {
			s.drawLines(area{c, 0, y, width, chart})
		}
		y += chart
	}
	if roles > 0 {
		s.drawRoles(area{c, 0, y + 1, width, roles - 2})
		y += roles
	}
	s.drawStatus(area{c, 0, y, width, statusRows})
	for _, footer := range s.footers {
		if n := utf8.RuneCountInString(footer); n+1 <= width {
			c.text(1, y+statusRows, footer, dimStyle)
			break
		}
	}
	return c
}

// frame draws the axes of a chart with its title, and returns what they
// enclose.
func (s *scene) frame(a area) area {
	const label = 6
	in := area{a.c, a.x + label + 1, a.y + 1, a.w - label - 2, a.h - 3}
	for i := range in.h {
		a.c.put(in.x-1, in.y+i, '│', dimStyle)
	}
	for i := range in.w {
		a.c.put(in.x+i, in.y+in.h, '─', dimStyle)
	}
	a.c.put(in.x-1, in.y+in.h, '└', dimStyle)
	for _, share := range []float64{0, 0.5, 1} {
		y := in.y + int(math.Round(float64(in.h-1)*(1-share)))
		a.c.right(in.x-2, y, strconv.Itoa(int(math.Round(share*float64(s.hosts)))), dimStyle)
		a.c.put(in.x-1, y, '┤', dimStyle)
	}
	span := s.span()
	step := niceStep(span, max(1, in.w/10))
	for at := time.Duration(0); at <= span && step > 0; at += step {
		x := in.x + int(float64(in.w-1)*float64(at)/float64(span))
		a.c.put(x, in.y+in.h, '┴', dimStyle)
		text := seconds(at)
		a.c.text(min(x-len(text)/2, a.x+a.w-len(text)), in.y+in.h+1, text, dimStyle)
	}
	return in
}

// niceStep is a step of the time axis that gives at most so many.
func niceStep(span time.Duration, most int) time.Duration {
	for _, n := range []time.Duration{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600} {
		if step := n * time.Second; span/step <= time.Duration(most) {
			return step
		}
	}
	return span
}

// at interpolates a count of the samples at a time.
func (s *scene) at(t time.Duration, count func(sample) int) float64 {
	i, exact := slices.BinarySearchFunc(s.samples, t, func(p sample, t time.Duration) int { return int(p.at - t) })
	switch {
	case len(s.samples) == 0:
		return 0
	case exact || i == 0:
		return float64(count(s.samples[i]))
	case i == len(s.samples):
		return float64(count(s.samples[i-1]))
	}
	a, b := s.samples[i-1], s.samples[i]
	f := float64(t-a.at) / float64(b.at-a.at)
	return float64(count(a)) + f*float64(count(b)-count(a))
}

// plan is where the straight line is at a time: as it was, and from now on as
// it will be if nothing holds the rollout.
func (s *scene) plan(t time.Duration) float64 {
	n := s.newest()
	left := s.left()
	switch {
	case len(s.samples) == 0:
		return math.Min(1, float64(t)/float64(s.over)) * float64(s.hosts)
	case t <= n.at:
		return s.at(t, func(p sample) int { return p.planned })
	case left <= 0 || t >= n.at+left:
		return float64(s.view.Target)
	}
	return float64(n.planned) + float64(t-n.at)/float64(left)*float64(s.view.Target-n.planned)
}

// drawLines draws the planned line, the hosts told and the hosts confirmed.
func (s *scene) drawLines(a area) {
	x := a.c.text(a.x+7, a.y, "┄┄ planned", plannedLine)
	x = a.c.text(x+2, a.y, "── told", toldLine)
	a.c.text(x+2, a.y, "── confirmed", confirmedLine)
	b := newBraille(s.frame(a))
	s.plot(b, s.span(), plannedLine, 3, s.plan)
	s.plot(b, s.now(), confirmedLine, 1, func(t time.Duration) float64 { return s.at(t, func(p sample) int { return p.confirmed }) })
	s.plot(b, s.now(), toldLine, 1, func(t time.Duration) float64 { return s.at(t, func(p sample) int { return p.told }) })
	b.flush()
}

// plot draws one line from 0 until a time, every so many dots.
func (s *scene) plot(b *braille, until time.Duration, st style, every int, value func(time.Duration) float64) {
	span, width, height := s.span(), 2*b.w, 4*b.h
	last := -1
	for dx := 0; dx < width; dx += every {
		t := time.Duration(float64(span) * float64(dx) / float64(max(1, width-1)))
		if t > until {
			return
		}
		dy := int(math.Round(value(t) / float64(max(1, s.hosts)) * float64(height-1)))
		from := dy
		if every == 1 && last >= 0 && dy > last { // no gap where the line is steep
			from = last + 1
		}
		for y := from; y <= dy; y++ {
			b.dot(dx, y, st)
		}
		last = dy
	}
}

// drawVersions draws what the hosts run over time: yellow gives way to blue.
func (s *scene) drawVersions(a area) {
	n := s.newest().changed
	x := a.c.text(a.x+7, a.y, "█ ", oldStyle)
	x = a.c.text(x, a.y, fmt.Sprintf("%s on %d hosts", s.from, s.hosts-n), plainStyle)
	x = a.c.text(x+3, a.y, "█ ", newStyle)
	a.c.text(x, a.y, fmt.Sprintf("%s on %d", s.to, n), plainStyle)
	in := s.frame(a)
	span, now := s.span(), s.now()
	for dx := range in.w {
		t := time.Duration(float64(span) * float64(dx) / float64(max(1, in.w-1)))
		if t > now {
			break
		}
		level := int(math.Round(s.at(t, func(p sample) int { return p.changed }) / float64(max(1, s.hosts)) * float64(8*in.h)))
		for row := range in.h {
			y := in.y + in.h - 1 - row
			switch fill := level - 8*row; {
			case fill >= 8:
				a.c.put(in.x+dx, y, '█', newStyle)
			case fill <= 0:
				a.c.put(in.x+dx, y, '█', oldStyle)
			default:
				a.c.put(in.x+dx, y, eighths[fill], newOnOld)
			}
		}
	}
}

// drawRoles draws a bar for each role: a cell a host where they fit.
func (s *scene) drawRoles(a area) {
	const label, count = 14, 30
	room := max(1, a.w-label-count)
	most := 1
	for _, r := range s.roles {
		most = max(most, r.Hosts)
	}
	scale := math.Min(1, float64(room)/float64(most))
	for i, r := range s.roles {
		y := a.y + i
		a.c.right(a.x+label-1, y, string(r.Role), plainStyle)
		cells := max(1, int(math.Round(float64(r.Hosts)*scale)))
		confirmed, told := share(cells, r.Confirmed, r.Hosts), share(cells, r.Told, r.Hosts)
		for x := range cells {
			st := oldStyle
			switch {
			case x < confirmed:
				st = newStyle
			case x < told:
				st = toldStyle
			}
			a.c.put(a.x+label+x, y, '■', st)
		}
		x := a.c.text(a.x+label+cells+1, y, fmt.Sprintf("%d", r.Confirmed), newStyle)
		x = a.c.text(x, y, fmt.Sprintf(" of %d", r.Target), dimStyle)
		if r.InFlight > 0 {
			x = a.c.text(x, y, fmt.Sprintf(", %d in flight", r.InFlight), toldStyle)
		}
		if r.Failed > 0 {
			a.c.text(x, y, fmt.Sprintf(", %d failed", r.Failed), redStyle)
		}
	}
}

// share is n of all in cells, full only when it is all.
func share(cells, n, all int) int {
	if n >= all {
		return cells
	}
	return min(cells*n/max(1, all), cells-1)
}

// drawStatus says in words how the rollout stands.
func (s *scene) drawStatus(a area) {
	v := &s.view
	mark, st, words := s.status()
	x := a.c.text(a.x+1, a.y, mark+" "+words, st)
	if v.State == rollout.StateRunning && v.Reason == "" && !v.Ends.IsZero() {
		a.c.text(x, a.y, fmt.Sprintf(", %s to go", seconds(s.left().Round(time.Second))), dimStyle)
	}
	x = a.x + 1
	number := func(name string, n int, st style) {
		x = a.c.text(x, a.y+1, name+" ", dimStyle)
		x = a.c.text(x, a.y+1, fmt.Sprintf("%-5d ", n), st)
	}
	number("planned", v.Planned, plainStyle)
	number("told", v.Told, boldStyle)
	number("confirmed", v.Confirmed, confirmedLine)
	number("failed", v.Failed, failedStyle(v.Failed))
	x = a.c.text(x, a.y+1, "in flight ", dimStyle)
	x = a.c.text(x, a.y+1, strconv.Itoa(v.InFlight), toldStyle)
	a.c.text(x, a.y+1, fmt.Sprintf(" of at most %d", v.Limit), dimStyle)

	n := s.newest().changed
	left, right := fmt.Sprintf("%s %d", s.to, n), fmt.Sprintf("%d %s", s.hosts-n, s.from)
	x = a.c.text(a.x+1, a.y+2, left, newStyle) + 1
	bar := max(0, a.x+a.w-1-len(right)-1-x)
	full := share(bar, n, s.hosts)
	for i := range bar {
		st := oldStyle
		if i < full {
			st = newStyle
		}
		a.c.put(x+i, a.y+2, '█', st)
	}
	a.c.text(x+bar+1, a.y+2, right, oldStyle)

	mark, st, words, detail := s.bad.status()
	a.c.text(a.x+1, a.y+4, mark+" "+words, st)
	a.c.text(a.x+3, a.y+5, detail, dimStyle)
}

func failedStyle(n int) style {
	if n > 0 {
		return redStyle
	}
	return plainStyle
}

// status puts how the rollout stands into words.
func (s *scene) status() (mark string, st style, words string) {
	if s.began.IsZero() {
		return "‖", dimStyle, "waits until the guard has judged " + string(s.bad.id)
	}
	return status(&s.view)
}

// status puts the state of a rollout, or why it isn't moving, into words.
func status(v *control.RolloutView) (mark string, st style, words string) {
	switch {
	case v.State == rollout.StateCompleted:
		return "✔", greenStyle, "completed"
	case v.State == rollout.StateRunning && v.Reason == "":
		return "▶", greenStyle, "moving"
	case v.State == rollout.StateRunning && v.ReasonCode == rollout.ObjectiveWindow: // the time of day is of no use here
		return "▶", greenStyle, "all are told and have confirmed; the guard watches them a little longer"
	case v.ReasonCode == rollout.Unconfirmed: // with today's number
		return "▶", greenStyle, fmt.Sprintf("all are told, %d still to confirm", v.InFlight)
	case v.State == rollout.StateRunning:
		return "‖", oldStyle, "not moving: " + v.Reason
	case v.State == rollout.StateFrozen, v.State == rollout.StateCancelled, v.State == rollout.StateSuperseded:
		return "■", redStyle, orState(v)
	default:
		return "‖", oldStyle, orState(v)
	}
}

// orState is the reason, which names the state where it has to; without one it
// is the state.
func orState(v *control.RolloutView) string { return cmp.Or(v.Reason, string(v.State)) }

// seconds writes a short duration as people do.
func seconds(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
	default:
		return rollout.Duration(d.Round(time.Second)).String()
	}
}
