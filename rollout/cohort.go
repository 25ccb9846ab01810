package rollout

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// cohort is one rollout with the hosts that it selects.
type cohort struct {
	all      map[ID]*cohort // of the snapshot
	id       ID
	record   *Record
	progress Progress
	selected *Selection
	canary   Where
	active   bool // a live rollout or a layer: indexed
	unfit    bool // left alone: see PutRolloutUnfit

	// under counts the hosts that each blackout with a where selects; calendar is
	// made of the windows and of the blackouts in closed.
	under    map[*scope]int
	calendar *calendar
	closed   []*Blackout

	roles  map[Word]*role
	groups []*group          // sorted by key
	values map[string][]Word // of the spread labels, as members have them
	tally
}

// tally counts hosts. Of outsiders only those in flight are counted.
type tally struct {
	n, had, told, confirmed, failed int
	inFlight                        int // told by this rollout, not confirmed, not released, not pinned
}

// role is the unit of in-flight limits.
type role struct {
	name Word
	tally
}

// group is the unit of targets: the hosts of a role that the same limit
// matches, or that none does.
type group struct {
	key   string // the role's name, and the limit's number where there is one
	role  *role
	limit int // its index in the spec, or -1
	tally
	members []*member
	dirty   bool // the order isn't known: membership has changed

	// Derived from members where not dirty. queue holds the untold in order;
	// those before next were admitted to due: the hosts whose place has come,
	// in order, told ones not yet swept out.
	queue []*member
	next  int
	due   []*member
}

// memberState is where a host stands with one rollout.
type memberState uint8

const (
	untold memberState = iota
	had                // it has the value without this rollout, or belongs to a newer one
	told               // by this rollout
)

// member is a host in a rollout.
type member struct {
	// What a plan of a million hosts reads comes first: one cache line.
	name      Host // the host's
	state     memberState
	confirmed bool
	failed    bool
	flying    bool // in flight
	canary    bool // may be one
	key       uint64
	spread    []Word // the host's values of the spread labels; shared
	host      *host
	cohort    *cohort
	group     *group
	index     int // in group.members
	// outside says that the rollout doesn't select the host any more, or that
	// it is gone: it only keeps its place in flight, if it has one.
	outside bool
}

func newCohort(all map[ID]*cohort, id ID, r *Record) (*cohort, error) {
	c := &cohort{all: all, id: id, progress: Progress{CaughtUp: -1}}
	c.clear()
	return c, c.set(r)
}

// set takes a record, and compiles its document's expressions.
func (c *cohort) set(r *Record) error {
	selected, err := r.Spec.Selection()
	if err != nil {
		return err
	}
	var canary Where
	if r.Spec.Canary != nil {
		if canary, err = ParseWhere(r.Spec.Canary.Where); err != nil {
			return field.Errorf("canary.where", "%v", err)
		}
	}
	c.selected, c.canary = selected, canary
	c.record, c.calendar = r, nil
	return nil
}

func (c *cohort) clear() {
	c.roles, c.groups, c.tally = make(map[Word]*role), nil, tally{}
	c.values, c.under = make(map[string][]Word), make(map[*scope]int)
}

// selects says whether the rollout is about the host. A rollback is about those
// whom its original told.
func (c *cohort) selects(h *host) bool {
	spec := &c.record.Spec
	if spec.Rollback != "" {
		return h.desired != nil && (h.desired.Told[spec.Variable].Rollout == spec.Rollback || h.desired.Told[spec.Variable].Rollout == c.id)
	}
	return c.selected.selects(h.name, h.report.Role, h.report.Labels)
}

// rollback says whether the rollout takes another's hosts back.
func (c *cohort) rollback() bool { return c.record.Spec.Rollback != "" }

// length is how long the ramp's clock runs, from none to all.
func (c *cohort) length() time.Duration {
	if c.record.Length > 0 {
		return c.record.Length
	}
	return c.record.Spec.Ramp.Length()
}

func (c *cohort) curve() curve { return curve{&c.record.Spec.Ramp, c.length()} }

// value is what the rollout tells the host; the zero Value takes the variable
// out of its document.
func (c *cohort) value(h *host) Value {
	spec := &c.record.Spec
	if c.rollback() && spec.To.IsZero() && h.desired != nil {
		return h.desired.Told[spec.Variable].Previous
	}
	return spec.To
}

// add makes the host a member. The caller updates it afterwards. One that never
// reported itself can only be an outsider.
func (c *cohort) add(h *host, outside bool) *member {
	m := &member{name: h.name, host: h, cohort: c, outside: outside}
	if h.report == nil {
		m.group = c.group("", -1)
	} else {
		limit := c.selected.limit(h.name, h.report.Role, h.report.Labels)
		m.group, m.key, m.spread = c.group(h.report.Role, limit), salted(c.record.Salt, string(h.name)), c.spreadOf(h)
		if c.record.Spec.Canary != nil && c.record.Clock.IsZero() {
			ok, err := c.canary.Selects(h.name, h.report.Role, h.report.Labels)
			m.canary = ok && err == nil
		}
	}
	g := m.group
	m.index = len(g.members)
	g.members = append(g.members, m)
	g.dirty = true
	m.count(1)
	return m
}

// spreadOf is the host's values of the spread labels, which all hosts that have
// the same ones share.
func (c *cohort) spreadOf(h *host) []Word {
	labels := c.record.Spec.Spread
	if len(labels) == 0 {
		return nil
	}
	var room [128]byte
	key := room[:0]
	for _, l := range labels {
		key = append(append(key, h.report.Labels[l]...), 0)
	}
	if v, ok := c.values[string(key)]; ok {
		return v
	}
	v := make([]Word, len(labels))
	for i, l := range labels {
		v[i] = h.report.Labels[l]
	}
	c.values[string(key)] = v
	return v
}

func (c *cohort) remove(m *member) {
	m.count(-1)
	g := m.group
	last := len(g.members) - 1
	g.members[m.index] = g.members[last]
	g.members[m.index].index = m.index
	g.members = g.members[:last]
	g.dirty = true
	if last > 0 {
		return
	}
	// Roles come and go; those that nobody is in are forgotten.
	c.groups = slices.DeleteFunc(c.groups, func(o *group) bool { return o == g })
	if !slices.ContainsFunc(c.groups, func(o *group) bool { return o.role == g.role }) {
		delete(c.roles, g.role.name)
	}
}

func (c *cohort) group(name Word, limit int) *group {
	key := groupKey(name, limit)
	i, ok := slices.BinarySearchFunc(c.groups, key, func(g *group, k string) int { return cmp.Compare(g.key, k) })
	if ok {
		return c.groups[i]
	}
	r := c.roles[name]
	if r == nil {
		r = &role{name: name}
		c.roles[name] = r
	}
	g := &group{key: key, role: r, limit: limit, dirty: true}
	c.groups = slices.Insert(c.groups, i, g)
	return g
}

// count adds the member to the tallies, or takes it out.
func (m *member) count(sign int) {
	for _, t := range []*tally{&m.group.tally, &m.group.role.tally, &m.cohort.tally} {
		if m.flying {
			t.inFlight += sign
		}
		if m.outside {
			continue
		}
		t.n += sign
		switch m.state {
		case had:
			t.had += sign
		case told:
			t.told += sign
			if m.confirmed {
				t.confirmed += sign
			}
			if m.failed {
				t.failed += sign
			}
		}
	}
	if !m.outside {
		for _, b := range m.host.under {
			m.cohort.under[b] += sign
		}
	}
}

// standing is where a member stands, as far as tallies count it.
type standing struct {
	state                     memberState
	confirmed, failed, flying bool
}

// update takes note of a change to the member's host.
func (m *member) update() {
	next, old := m.judge(), standing{m.state, m.confirmed, m.failed, m.flying}
	if next == old {
		return
	}
	if next.state != old.state && next.state == untold {
		m.group.dirty = true // back among those still to come
	}
	m.count(-1)
	m.state, m.confirmed, m.failed, m.flying = next.state, next.confirmed, next.failed, next.flying
	m.count(1)
}

func (m *member) judge() standing {
	h, c, name := m.host, m.cohort, m.cohort.record.Spec.Variable
	if h.desired != nil {
		t, ok := h.desired.Told[name]
		value := h.desired.Values[name]
		switch {
		case ok && t.Rollout == c.id && c.rollback() && t.Released:
			return standing{state: had} // told while it was offline, and not waited for
		case ok && t.Rollout == c.id:
			s := standing{state: told, confirmed: h.confirms(name, value, t), failed: h.failed(name, t)}
			s.flying = !s.confirmed && !t.Released && !h.pinned(name)
			return s
		case c.rollback():
			if t.Rollout != c.record.Spec.Rollback {
				return standing{state: had} // another has told it since
			}
			return standing{}
		case ok && value == c.record.Spec.To:
			return standing{state: had}
		case ok && t.Rollout != "" && !c.newerThan(c.all[t.Rollout]) && !c.gaveUp(c.all[t.Rollout]):
			return standing{state: had} // by a newer rollout: a host is never taken back
		case c.record.Spec.Remove && value.IsZero():
			return standing{state: had}
		}
	}
	for _, o := range h.members {
		if o.cohort != c && !o.outside && o.cohort.record.Spec.Variable == name && o.cohort.newerThan(c) {
			return standing{state: had}
		}
	}
	return standing{}
}

// gaveUp says whether o is a rollback of c that was cancelled: whom it took back
// is c's again.
func (c *cohort) gaveUp(o *cohort) bool {
	return o != nil && o.record.Spec.Rollback == c.id && o.record.State == StateCancelled
}

// newerThan says whether c was created after d. Nothing is newer than a rollout
// whose record isn't known.
func (c *cohort) newerThan(d *cohort) bool {
	return d != nil && cmp.Or(c.record.Created.Compare(d.record.Created), cmp.Compare(c.id, d.id)) > 0
}

func (h *host) confirms(name Name, v Value, t Told) bool { return h.report.Confirms(name, v, t) }

// Confirms says whether the report's host runs the value that it was told, and
// the checks that were green then have passed since; the zero Value asks whether
// it has taken the document that is without the variable. There may be no
// report: nil confirms nothing.
func (r *Report) Confirms(name Name, v Value, t Told) bool {
	if r == nil || r.Generation < t.Generation {
		return false
	}
	if v.IsZero() {
		return true // taken out of its document, which it has
	}
	e := r.Enact[name]
	if e.Status == Unenacted || e.Status == "" {
		// Only a variable that lives in the files alone is confirmed so; the
		// scheduler says so by leaving no other way: see Told.File.
		if !t.File {
			return false
		}
	} else if !v.Matches(r.Actual[name]) {
		return false
	}
	for _, id := range t.Checks {
		// A check that is no longer there doesn't pass: the change may have
		// taken it away.
		if c := r.Checks[id]; c.Status != Passing || c.Generation < t.Generation {
			return false
		}
	}
	return true
}

func (h *host) failed(name Name, t Told) bool {
	if h.report == nil {
		return false
	}
	e := h.report.Enact[name]
	return e.Status == EnactFail && e.Generation >= t.Generation
}

// line is the ramp of the group's hosts that this rollout has to tell: those
// that have the value anyway take places of the target without being told.
func (g *group) line(c *cohort) line {
	theta, ok := c.record.Theta[g.key]
	if !ok {
		theta = unit(salted(c.record.Salt, "late role "+g.key))
	}
	return line{t: max(0, g.target(c)-g.had), theta: theta, curve: c.curve()}
}

// target is the group's T.
func (g *group) target(c *cohort) int {
	percent := c.record.Spec.Ramp.Percent.Or(100)
	if g.limit < 0 {
		return target(g.n, percent, nil)
	}
	l := &c.record.Spec.Limits[g.limit]
	return target(g.n, l.Percent.Or(percent), l)
}

// admit brings due up to date with the quota: the first quota − told untold
// hosts, in order.
func (g *group) admit(c *cohort, quota int) {
	if g.dirty {
		g.rebuild(c)
	}
	g.due = slices.DeleteFunc(g.due, func(m *member) bool { return m.state != untold })
	want := max(0, quota-g.told)
	if len(g.due) > want {
		g.rebuild(c)
	}
	for len(g.due) < want && g.next < len(g.queue) {
		if m := g.queue[g.next]; m.state == untold {
			g.due = append(g.due, m)
		}
		g.next++
	}
}

// rebuild makes the orders that aren't known, of all groups, on all
// processors: after a start, or for a plan, that is the whole fleet.
func (c *cohort) rebuild() {
	var todo []*group
	for _, g := range c.groups {
		if g.dirty {
			todo = append(todo, g)
		}
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(todo)) {
		workers.Go(func() {
			for i := int(next.Add(1)); i <= len(todo); i = int(next.Add(1)) {
				todo[i-1].rebuild(c)
			}
		})
	}
	workers.Wait()
}

func (g *group) rebuild(c *cohort) {
	ps := make([]place, 0, len(g.members))
	for _, m := range g.members {
		if !m.outside {
			ps = append(ps, place{key: m.key, m: m})
		}
	}
	if c.rollback() {
		c.lastFirst(ps)
	} else {
		arrange(ps, c.record.Salt, 0, len(c.record.Spec.Spread))
	}
	g.queue = g.queue[:0]
	for _, p := range ps {
		if p.m.state == untold {
			g.queue = append(g.queue, p.m)
		}
	}
	g.next, g.due, g.dirty = 0, g.due[:0], false
}

// lastFirst sorts the members of a rollback into the order in which they are
// told: the one that its original told last comes first.
func (c *cohort) lastFirst(ps []place) {
	told := func(p place) time.Time {
		if p.m.host.desired == nil {
			return time.Time{}
		}
		return p.m.host.desired.Told[c.record.Spec.Variable].Time
	}
	slices.SortFunc(ps, func(a, b place) int { return cmp.Or(told(b).Compare(told(a)), cmp.Compare(a.key, b.key)) })
}
