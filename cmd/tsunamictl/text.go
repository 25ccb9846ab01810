package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// zone is where people read times.
var zone = time.Local

// moment shows a time, local and relative: 2026-12-01 09:00:00 CET (in 3h12m).
func moment(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return local(t) + " (" + relative(t, now) + ")"
}

func local(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.In(zone).Format("2006-01-02 15:04:05 MST")
}

// relative shows a time as its distance: in 3h12m, 5m ago, now.
func relative(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := t.Sub(now).Round(time.Second)
	switch {
	case d > 0:
		return "in " + short(d)
	case d < 0:
		return short(-d) + " ago"
	}
	return "now"
}

// short shows a duration by its two largest units: 2d16h.
func short(d time.Duration) string { return twoUnits(d, "") }

// spaced is short with a space between the units: 2d 16h.
func spaced(d time.Duration) string { return twoUnits(d, " ") }

func twoUnits(d time.Duration, space string) string {
	switch {
	case d >= 14*24*time.Hour:
		d = d.Round(24 * time.Hour)
	case d >= 24*time.Hour:
		d = d.Round(time.Hour)
	case d >= time.Hour:
		d = d.Round(time.Minute)
	case d >= time.Second:
		d = d.Round(time.Second)
	}
	hours := int(d / time.Hour)
	minutes, seconds := int(d/time.Minute)%60, int(d/time.Second)%60
	two := func(a int, u string, b int, v string) string {
		if b == 0 {
			return fmt.Sprintf("%d%s", a, u)
		}
		return fmt.Sprintf("%d%s%s%d%s", a, u, space, b, v)
	}
	switch {
	case hours >= 24:
		return two(hours/24, "d", hours%24, "h")
	case hours > 0:
		return two(hours, "h", minutes, "m")
	case minutes > 0:
		return two(minutes, "m", seconds, "s")
	case d == 0 || d >= time.Second:
		return fmt.Sprintf("%ds", seconds)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

// plural counts: 1 host, 2 hosts.
func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// toldOf says how far a rollout is: 3 of 40 hosts.
func toldOf(v *control.RolloutView) string {
	return fmt.Sprintf("%d of %s", v.Told, plural(v.Target, "host"))
}

func percent(fraction float64) string { return fmt.Sprintf("%.1f%%", 100*fraction) }

// pairs shows a map in the order of its keys: a=1 b=2.
func pairs[K cmp.Ordered, V any](m map[K]V) string {
	all := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%v=%v", k, m[k]))
	}
	return strings.Join(all, " ")
}

// counts shows how many hosts have which value, the most first.
func counts(m map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b))
	})
	all := make([]string, 0, len(keys))
	for _, k := range keys {
		all = append(all, fmt.Sprintf("%s: %d", cmp.Or(k, "(none)"), m[k]))
	}
	return strings.Join(all, ", ")
}

// valueText is a value in a table; absent is empty.
func valueText(v rollout.Value) string {
	if v.IsZero() {
		return ""
	}
	return v.Text()
}

// quoted makes a text safe to paste into a shell.
func quoted(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// The colors of states.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plainC = "\x1b[0m"
)

func (a *app) color(code, text string) string {
	if !a.isTerminal || a.noColor || code == "" {
		return text
	}
	return code + text + plainC
}

func stateColor(s rollout.State) string {
	switch s {
	case rollout.StateFrozen:
		return red
	case rollout.StateRunning, rollout.StateCompleted:
		return green
	case rollout.StatePaused:
		return yellow
	}
	return ""
}
