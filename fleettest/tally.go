package fleettest

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// tally counts a rollout's hosts.
type tally struct {
	n, target, flight int
	roles             map[rollout.Word]*roleTally
	groups            map[groupKey]*groupTally
	keys              []groupKey // sorted
}

type roleTally struct{ n, flight int }

type groupKey struct {
	role  rollout.Word
	limit int // -1: none matches
}

type groupTally struct {
	role                       rollout.Word
	n, target, line, told, had int
}

// told counts the hosts that have the value, by this rollout or without it.
func (t *tally) told() float64 {
	n := 0
	for _, g := range t.groups {
		n += g.told + g.had
	}
	return float64(n)
}

// selects says whether the rollout is about the host: a rollback is about those
// whom its original told.
func (r *seenRollout) selects(name rollout.Host, h *seenHost) bool {
	spec := &r.record.Spec
	if spec.Rollback != "" {
		by := h.told[spec.Variable].Rollout
		return by == spec.Rollback || by == r.id
	}
	ok, err := r.where.Selects(name, h.report.Role, h.report.Labels)
	return ok && err == nil && !slices.Contains(spec.Exclude, name)
}

func (c *Checker) group(r *seenRollout, name rollout.Host) groupKey {
	h := c.host(name)
	if h.report == nil {
		return groupKey{}
	}
	key := groupKey{h.report.Role, -1}
	for i, w := range r.limits {
		if ok, err := w.Selects(name, h.report.Role, h.report.Labels); err == nil && ok {
			key.limit = i
			break
		}
	}
	return key
}

// weekOff is when an unseen host certainly no longer counts.
const weekOff = 8 * 24 * time.Hour

func (c *Checker) tally(r *seenRollout, now time.Time) tally {
	t := tally{roles: make(map[rollout.Word]*roleTally), groups: make(map[groupKey]*groupTally)}
	spec := &r.record.Spec
	variable := spec.Variable
	for name, h := range c.hosts {
		if h.report == nil || !h.unseen.IsZero() && now.Sub(h.unseen) > weekOff {
			continue
		}
		if !r.selects(name, h) {
			continue
		}
		key := c.group(r, name)
		g, x := t.groups[key], t.roles[key.role]
		if x == nil {
			x = new(roleTally)
			t.roles[key.role] = x
		}
		if g == nil {
			g = &groupTally{role: key.role}
			t.groups[key] = g
			t.keys = append(t.keys, key)
		}
		t.n++
		x.n++
		g.n++
		told, ok := h.told[variable]
		value := h.values[variable]
		other := c.rollouts[told.Rollout]
		pinned := c.pins[name] != nil && !c.pins[name].Values[variable].IsZero()
		switch {
		case ok && told.Rollout == r.id && spec.Rollback != "" && told.Released:
			g.had++
		case ok && told.Rollout == r.id:
			g.told++
			// It may have been off for nearly a week, and have been dropped already.
			if doubtful := !h.unseen.IsZero() && now.Sub(h.unseen) > weekOff-2*24*time.Hour; !doubtful && !told.Released && !pinned && !h.confirms(variable, value, told) {
				t.flight++
				x.flight++
			}
		case spec.Rollback != "":
		case spec.Remove && value.IsZero(), ok && value.Matches(spec.To),
			ok && other != nil && other.record != nil && other.record.Created.After(r.record.Created):
			g.had++
		}
	}
	for key, g := range t.groups {
		g.target = target(g.n, *spec, key.limit)
		g.line = max(0, g.target-g.had)
		t.target += g.target
	}
	slices.SortFunc(t.keys, func(a, b groupKey) int { return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.limit, b.limit)) })
	return t
}

func (h *seenHost) confirms(variable rollout.Name, value rollout.Value, told rollout.Told) bool {
	if h.report == nil || h.report.Generation < told.Generation {
		return false
	}
	return value.IsZero() || told.File || value.Matches(h.report.Actual[variable])
}

// target is how many of n hosts a rollout is to change: design.md §6.
func target(n int, spec rollout.Spec, limit int) int {
	percent := float64(cmp.Or(spec.Ramp.Percent, 100))
	least, most := 0, n
	if limit >= 0 {
		l := spec.Limits[limit]
		percent = cmp.Or(float64(l.Percent), percent)
		least = l.AtLeast
		if l.AtMost != nil {
			most = *l.AtMost
		}
	}
	return min(n, max(least, min(most, int(math.Round(percent*float64(n)/100)))))
}
