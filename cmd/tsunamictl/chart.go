package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
)

const (
	chartRows    = 10
	chartColumns = 120 // at most
	dim          = "\x1b[38;5;244m"
	bold         = "\x1b[1m"
)

// chart draws how many hosts have been told by when, and beneath it the
// stretches in which nobody is told: ▓, or ░ where that is less than half of a
// character's time. On a terminal a character holds 2 × 4
// dots; elsewhere it is one star.
func (a *app) chart(p *control.PlanView, columns int) []string {
	from, until := p.Starts, p.Ends
	if n := len(p.Curve); n > 0 {
		if p.Curve[0].Time.Before(from) {
			from = p.Curve[0].Time
		}
		if p.Curve[n-1].Time.After(until) {
			until = p.Curve[n-1].Time
		}
	}
	label := len(strconv.Itoa(p.Target))
	wide := min(columns-1, chartColumns) - label - 2
	if len(p.Curve) == 0 || !until.After(from) || p.Target <= 0 || wide < 20 {
		return nil
	}
	across, up := 1, 1 // dots a character
	if a.isTerminal {
		across, up = 2, 4
	}
	at := func(column, of int) time.Time {
		return from.Add(time.Duration(float64(until.Sub(from)) * float64(column) / float64(of-1)))
	}
	grid := make([]rune, wide*chartRows)
	last := -1
	for x := range wide * across {
		y := min(toldBy(p.Curve, at(x, wide*across)), p.Target) * (chartRows*up - 1) / p.Target
		for dot := y; dot == y || last >= 0 && dot > last; dot-- { // no gap where it is steep
			cell := &grid[(chartRows-1-dot/up)*wide+x/across]
			if a.isTerminal {
				*cell = max(*cell, 0x2800) | brailleDots[x%2][dot%4]
			} else {
				*cell = '*'
			}
		}
		last = y
	}
	var lines []string
	for row := range chartRows {
		name, edge := "", "│"
		switch row {
		case 0:
			name, edge = strconv.Itoa(p.Target), "┤"
		case chartRows - 1:
			name, edge = "0", "┤"
		}
		cells := grid[row*wide : (row+1)*wide]
		for i, r := range cells {
			if r == 0 {
				cells[i] = ' '
			}
		}
		lines = append(lines, a.color(dim, strings.Repeat(" ", label-len(name))+name+" "+edge)+a.color(bold, strings.TrimRight(string(cells), " ")))
	}
	pad := strings.Repeat(" ", label+1)
	axis, legend := make([]rune, wide), ""
	for x := range axis {
		axis[x] = '─'
		switch shut := closedShare(p.Closed, at(x, wide+1), at(x+1, wide+1)); {
		case shut >= 0.5:
			axis[x], legend = '▓', " ▓ nobody is told "
		case shut > 0:
			axis[x], legend = '░', cmp.Or(legend, " ░ nobody is told ")
		}
	}
	lines = append(lines, a.color(dim, pad+"└"+string(axis)))
	first, end := chartTime(from, until.Sub(from)), chartTime(until, until.Sub(from))
	words := first
	if gap := wide - len(first) - len(end); gap > 0 {
		if width(legend) > gap {
			legend = ""
		}
		left := (gap - width(legend)) / 2
		words += strings.Repeat(" ", left) + legend + strings.Repeat(" ", gap-left-width(legend)) + end
	}
	return append(lines, a.color(dim, pad+" "+words))
}

// closedShare is how much of a time, 0 to 1, lies in one of the stretches, which
// don't overlap.
func closedShare(closed []control.PlanClosure, from, until time.Time) float64 {
	var shut time.Duration
	for _, c := range closed {
		a, b := c.From, c.Until
		if a.Before(from) {
			a = from
		}
		if b.After(until) {
			b = until
		}
		shut += max(0, b.Sub(a))
	}
	return float64(shut) / float64(until.Sub(from))
}

// toldBy is how many hosts have been told by t.
func toldBy(curve []control.PlanPoint, t time.Time) int {
	i, _ := slices.BinarySearchFunc(curve, t, func(p control.PlanPoint, t time.Time) int {
		if p.Time.After(t) {
			return 1
		}
		return -1
	})
	if i == 0 {
		return 0
	}
	return curve[i-1].Hosts
}

// chartTime is a time as far as a chart of this span needs it.
func chartTime(t time.Time, span time.Duration) string {
	layout := "2006-01-02 15:04"
	if span < 10*time.Minute {
		layout = "15:04:05"
	}
	return t.In(zone).Format(layout)
}

// brailleDots are the bits of the dots in a braille character, by column and by
// row from below.
var brailleDots = [2][4]rune{{0x40, 0x04, 0x02, 0x01}, {0x80, 0x20, 0x10, 0x08}}
