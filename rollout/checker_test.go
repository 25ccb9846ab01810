package rollout

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"
)

// The checker is a second implementation of who may be told when. It is as
// plain as can be: it looks at the store alone, computes everything anew each
// time, and shares with the first only the definition of a line's due times
// and the order of a role.
type checker struct {
	tells   []tellSeen
	clocks  map[ID]clockSeen
	changes int // of membership, so far
}

// tellSeen is one host told by a rollout.
type tellSeen struct {
	rollout ID
	host    Host
	at      time.Time
	clock   time.Duration // the ramp's
	code    Code
	total   int // ΣT
	groups  int
	over    time.Duration
	changes int
}

type clockSeen struct {
	at      time.Time
	elapsed time.Duration
}

// view is what the checker knows of one rollout.
type view struct {
	id       ID
	spec     Spec
	record   Record
	progress Progress
	groups   map[string]*groupView
	total    int // ΣT
	hosts    int
	inFlight int
	inRole   map[Word]int // in flight
	ofRole   map[Word]int // hosts
}

type groupView struct {
	key          string
	role         Word
	n, had, told int
	target       int
	line         line
	places       []place
	states       map[Host]memberState
	waiting      []Host // the untold, in order
}

func percentOf(p Percent, n int) *big.Rat {
	r := new(big.Rat)
	if _, ok := r.SetString(strings.TrimSuffix(p.String(), "%")); !ok {
		panic("percent " + p.String())
	}
	r.Mul(r, big.NewRat(int64(n), 100))
	return r
}

func floorRat(r *big.Rat) int { return int(new(big.Int).Div(r.Num(), r.Denom()).Int64()) }

var wheres sync.Map // compiled expressions, by source

func whereOf(source string) Where {
	w, ok := wheres.Load(source)
	if !ok {
		w, _ = wheres.LoadOrStore(source, must(ParseWhere(source)))
	}
	return w.(Where)
}

func (st *store) selected(spec *Spec, h Host) (selected bool, limit int) {
	r, ok := st.reports[h]
	if !ok || st.out[h] || st.presence[h] == Gone {
		return false, -1
	}
	if yes, err := whereOf(spec.Where).Selects(h, r.Role, r.Labels); !yes || err != nil {
		return false, -1
	}
	for i, l := range spec.Limits {
		if yes, err := whereOf(l.Where).Selects(h, r.Role, r.Labels); yes && err == nil {
			return true, i
		}
	}
	return true, -1
}

// active says whether the rollout can still tell anybody.
func (st *store) active(id ID) bool {
	r := st.rollouts[id]
	if r.State != StateCompleted {
		return r.State.Live()
	}
	for _, o := range st.rollouts {
		if o.State == StateCompleted && o.Spec.Variable == r.Spec.Variable && o.Created.After(r.Created) && o.Spec.Covers() {
			return false
		}
	}
	return true
}

func (st *store) confirmed(h Host, name Name) bool {
	d, r := st.desired[h], st.reports[h]
	t := d.Told[name]
	return r.Generation >= t.Generation && r.Actual[name] == d.Values[name] && r.Enact[name].Status != Unenacted && r.Enact[name].Status != ""
}

func (st *store) stateOf(id ID, h Host) memberState {
	c := st.rollouts[id]
	d := st.desired[h]
	if t, ok := d.Told[c.Spec.Variable]; ok {
		if t.Rollout == id {
			return told
		}
		if d.Values[c.Spec.Variable] == c.Spec.To {
			return had
		}
		if t.Rollout != "" && st.rollouts[t.Rollout].Created.After(c.Created) {
			return had
		}
	}
	for other, o := range st.rollouts {
		if other != id && o.Spec.Variable == c.Spec.Variable && o.Created.After(c.Created) && st.active(other) {
			if yes, _ := st.selected(&o.Spec, h); yes {
				return had
			}
		}
	}
	return untold
}

// look computes everything about one rollout.
func (st *store) look(id ID, now time.Time) *view {
	r := st.rollouts[id]
	v := &view{id: id, spec: r.Spec, record: r, progress: st.progress[id], groups: map[string]*groupView{}, inRole: map[Word]int{}, ofRole: map[Word]int{}}
	for h, report := range st.reports {
		if t, ok := st.desired[h].Told[r.Spec.Variable]; ok && !st.out[h] && t.Rollout == id && !st.confirmed(h, r.Spec.Variable) {
			v.inFlight++ // wherever it is now
			v.inRole[report.Role]++
		}
		yes, limit := st.selected(&r.Spec, h)
		if !yes {
			continue
		}
		key := string(report.Role)
		if limit >= 0 {
			key += fmt.Sprint("/", limit)
		}
		g := v.groups[key]
		if g == nil {
			g = &groupView{key: key, role: report.Role, states: map[Host]memberState{}}
			g.line = line{over: time.Duration(r.Spec.Ramp.Over)}
			var ok bool
			if g.line.theta, ok = r.Theta[key]; !ok {
				g.line.theta = unit(salted(r.Salt, "late role "+key))
			}
			v.groups[key] = g
		}
		v.hosts++
		v.ofRole[report.Role]++
		g.n++
		g.states[h] = st.stateOf(id, h)
		switch g.states[h] {
		case had:
			g.had++
		case told:
			g.told++
		}
		g.places = append(g.places, place{key: salted(r.Salt, string(h)), m: &member{host: &host{name: h, report: &report}}})
	}
	for key, g := range v.groups {
		p := r.Spec.Ramp.Percent.or(100)
		var l *Limit
		if i := strings.LastIndexByte(key, '/'); i >= 0 {
			l = &r.Spec.Limits[key[i+1]-'0']
			p = l.Percent.or(p)
		}
		t := floorRat(new(big.Rat).Add(percentOf(p, g.n), big.NewRat(1, 2)))
		if l != nil {
			t = max(t, l.AtLeast)
			if l.AtMost != nil {
				t = min(t, *l.AtMost)
			}
		}
		g.target = min(t, g.n)
		g.line.t = max(0, g.target-g.had)
		v.total += max(g.target, min(g.n, g.had+g.told))
		arrangeBy(g.places, r.Salt, r.Spec.Spread)
		for _, p := range g.places {
			h := p.m.host.name
			if g.states[h] != untold {
				continue
			}
			g.waiting = append(g.waiting, h)
		}
	}
	return v
}

// quota counts the places that have come one by one.
func (g *groupView) quota(clock time.Duration) int {
	n := 0
	for i := 1; i <= g.line.t; i++ {
		if clock > 0 && g.line.due(i) <= clock || clock >= g.line.over {
			n++
		}
	}
	return n
}

// may lists who may be told when the ramp's clock shows clock: the untold hosts
// whose place has come, in order, that are online and settled.
func (st *store) may(v *view, g *groupView, clock time.Duration, now time.Time) []Host {
	var out []Host
	for _, h := range g.waiting[:max(0, min(len(g.waiting), g.quota(clock)-g.told))] {
		d, ok := st.desired[h]
		if !ok || st.damaged[h] || st.presence[h] != Online {
			continue
		}
		settled := true
		for _, t := range d.Told {
			if v.spec.Settle > 0 && t.Time.Add(time.Duration(v.spec.Settle)).After(now) {
				settled = false
			}
		}
		if settled {
			out = append(out, h)
		}
	}
	return out
}

func (v *view) limit() int { return max(1, floorRat(percentOf(v.spec.InFlight.Max.or(5), v.hosts))) }
func (v *view) roleLimit(role Word) int {
	return max(1, floorRat(percentOf(v.spec.InFlight.PerRole.or(20), v.ofRole[role])))
}

// step judges a step that is about to be committed: its fences hold.
func (c *checker) step(f *fleet, step Step) {
	for _, t := range step.Tells {
		c.document(f, step, t)
	}
	for _, r := range step.Records {
		c.transition(f, step, r)
	}
	if p := step.Progress; p != nil {
		last, ok := c.clocks[step.Rollout]
		// One nanosecond: a place that waited for room is told one after it was held.
		if ok && (p.Elapsed < last.elapsed || p.Elapsed-last.elapsed > f.now.Sub(last.at)+1) {
			f.fail("the clock of %s went from %v to %v in %v", step.Rollout, last.elapsed, p.Elapsed, f.now.Sub(last.at))
		}
		c.clocks[step.Rollout] = clockSeen{f.now, p.Elapsed}
	}
	if step.Rollout == "" || len(step.Tells) == 0 {
		return
	}
	v := f.look(step.Rollout, f.now)
	switch {
	case f.stop.Sequence > 0 && !f.stop.Released:
		f.fail("%s tells %s after stop %d", step.Rollout, step.Tells[0].Host, f.stop.Sequence)
	case v.record.State != StateRunning && v.record.State != StateCompleted:
		f.fail("%s tells %s and is %s", step.Rollout, step.Tells[0].Host, v.record.State)
	case f.aborts[step.Rollout].Sequence > v.record.Acknowledged:
		f.fail("%s tells %s after abort %d", step.Rollout, step.Tells[0].Host, f.aborts[step.Rollout].Sequence)
	}
	clock := step.Progress.Elapsed
	may := map[string][]Host{}
	ready := map[string][]Host{}
	for key, g := range v.groups {
		may[key] = f.may(v, g, clock, f.now)
		ready[key] = slices.Clone(may[key])
	}
	newly := map[string]int{}
	catchUps := 0
	for _, t := range step.Tells {
		report := f.reports[t.Host]
		_, limit := f.selected(&v.spec, t.Host)
		key := groupKey(report.Role, limit)
		g := v.groups[key]
		if g == nil || g.states[t.Host] != untold {
			f.fail("%s tells %s, which it doesn't select or which has had its turn", step.Rollout, t.Host)
			return
		}
		if len(ready[key]) == 0 || ready[key][0] != t.Host {
			f.fail("%s tells %s of %s when the clock shows %v; next are %v (%d of %d told, quota %d)", step.Rollout, t.Host, key, clock, ready[key], g.told, g.line.t, g.quota(clock))
			return
		}
		ready[key] = ready[key][1:]
		newly[key]++
		if g.had+g.told+newly[key] > g.target {
			f.fail("%s puts %s over its target: %d had, %d told, %d now, of %d", step.Rollout, key, g.had, g.told, newly[key], g.target)
		}
		v.inFlight++
		v.inRole[report.Role]++
		if v.inFlight > v.limit() {
			f.fail("%s tells %s: %d hosts in flight of %d", step.Rollout, t.Host, v.inFlight, v.limit())
		}
		if n := v.inRole[report.Role]; n > v.roleLimit(report.Role) {
			f.fail("%s tells %s: %d hosts of %s in flight of %d", step.Rollout, t.Host, n, report.Role, v.roleLimit(report.Role))
		}
		if t.Reason.Code != ByRamp {
			catchUps++
		}
		over := time.Duration(v.spec.Ramp.Over)
		at := clock
		if t.Reason.Code == ByRamp {
			at = time.Duration(t.Reason.Share * float64(over)) // its place's
		}
		c.tells = append(c.tells, tellSeen{step.Rollout, t.Host, f.now, at, t.Reason.Code, v.total, len(v.groups), over, c.changes})
	}
	if catchUps > 1 {
		f.fail("%s tells %d overdue hosts at once", step.Rollout, catchUps)
	}
	fresh := c.tells[len(c.tells)-len(step.Tells):]
	slices.SortStableFunc(fresh, func(a, b tellSeen) int { return cmp.Compare(a.clock, b.clock) })
	for i := len(c.tells) - len(fresh) + 1; i <= len(c.tells); i++ {
		c.pace(f, c.tells[:i])
	}
}

// pace: in any interval of the ramp's clock of length d no more than
// 2·ΣT·d/over + (one a role for rounding) + 1 hosts are told, and one more for
// each change of membership within it, as a change moves the line.
func (c *checker) pace(f *fleet, tells []tellSeen) {
	last := tells[len(tells)-1]
	n, total := 0, 0
	for _, t := range slices.Backward(tells) {
		if t.rollout != last.rollout {
			continue
		}
		n++
		total = max(total, t.total)
		d := max(0, float64(last.clock-t.clock))
		most := 2*float64(total)*d/float64(t.over)*(1+1e-6) + float64(max(t.groups, last.groups)+1+last.changes-t.changes)
		if float64(n) > most+1e-6 {
			f.fail("%s told %d hosts while its clock went from %v to %v: at most %.2f", last.rollout, n, t.clock, last.clock, most)
			return
		}
	}
}

// document judges one tell by itself.
func (c *checker) document(f *fleet, step Step, t Tell) {
	old := f.desired[t.Host]
	floor := max(old.Generation, f.marker[t.Host], f.reports[t.Host].Generation)
	if t.Desired.Generation != floor+1 {
		f.fail("%s goes from generation %d to %d", t.Host, floor, t.Desired.Generation)
	}
	if t.Reason.Code == "" || t.Reason.String() == "" || t.Actor == "" {
		f.fail("%s is told %v without a reason or an actor: %+v", t.Host, t.Desired.Values, t)
	}
	if f.stop.Sequence > 0 && !f.stop.Released || f.behind {
		f.fail("%s is told something while everything is held", t.Host)
	}
	if _, ok := f.reports[t.Host]; !ok {
		f.fail("%s is told something and never reported itself", t.Host)
	}
	for name, v := range old.Values {
		if w := t.Desired.Values[name]; name != t.Variable && (w != v || t.Desired.Told[name].Generation != old.Told[name].Generation) {
			f.fail("%s: a change of %q took %s from %v to %v", t.Host, t.Variable, name, v, w)
		}
	}
	for name := range t.Desired.Values {
		if told := t.Desired.Told[name]; name == t.Variable || old.Values[name].IsZero() {
			if told.Generation != t.Desired.Generation || told.Rollout != step.Rollout || !told.Time.Equal(f.now) {
				f.fail("%s: %s is said to be told by %+v", t.Host, name, told)
			}
		}
	}
	if t.Variable != "" {
		if t.Previous != old.Values[t.Variable] {
			f.fail("%s: the previous value of %s is said to be %v, and is %v", t.Host, t.Variable, t.Previous, old.Values[t.Variable])
		}
		if by := old.Told[t.Variable].Rollout; by != "" && (step.Rollout == "" || !f.rollouts[step.Rollout].Created.After(f.rollouts[by].Created)) {
			f.fail("%s: %s takes back what %s told it", t.Host, step.Rollout, by)
		}
	}
	if step.Rollout == "" {
		// Only what the host runs anyway, or what it has nothing of; or its last
		// document again.
		for name, v := range t.Desired.Values {
			actual := f.reports[t.Host].Actual[name]
			if old.Values[name].IsZero() && !actual.IsZero() && !v.Matches(actual) {
				f.fail("%s runs %s=%v and its document says %v", t.Host, name, actual, v)
			}
		}
	}
}

// origins are the states that a state can be reached from; "" is none yet.
var origins = map[State][]State{
	StatePending:    {"", StateFrozen},
	StateRunning:    {StatePending, StatePaused, StateFrozen},
	StatePaused:     {StateRunning},
	StateFrozen:     {StatePending, StateRunning, StatePaused},
	StateCompleted:  {StateRunning, StateCompleted},
	StateCancelled:  {StatePending, StateRunning, StatePaused, StateFrozen},
	StateSuperseded: {StatePending, StateRunning, StatePaused, StateFrozen},
}

func (c *checker) transition(f *fleet, step Step, r RecordChange) {
	old := f.rollouts[r.ID]
	if !slices.Contains(origins[r.Record.State], old.State) {
		f.fail("%s goes from %q to %q", r.ID, old.State, r.Record.State)
	}
	if r.Record.By == "" || r.Record.Why == "" && r.Record.State != StateFrozen {
		f.fail("%s becomes %s by nobody, or without a why: %+v", r.ID, r.Record.State, r.Record)
	}
	if old.State != "" && (r.Record.Salt != old.Salt || !r.Record.Created.Equal(old.Created) || old.Theta != nil && len(r.Record.Theta) != len(old.Theta)) {
		f.fail("%s: a transition changed what was drawn at its start", r.ID)
	}
	if r.Record.State == StateRunning && r.Record.By == Scheduler {
		f.fail("%s was made to run by nobody", r.ID)
	}
	if r.Record.State != StateCompleted || old.State == StateCompleted {
		return
	}
	v := f.look(r.ID, f.now)
	if v.inFlight > 0 {
		f.fail("%s completes with %d hosts in flight", r.ID, v.inFlight)
	}
	for key, g := range v.groups {
		for _, h := range g.waiting[:max(0, min(len(g.waiting), g.line.t-g.told))] {
			if f.presence[h] == Online {
				f.fail("%s completes and %s of %s, which is online, was not told", r.ID, h, key)
			}
		}
	}
	if e := step.Progress.Elapsed; e < time.Duration(v.spec.Ramp.Over) {
		f.fail("%s completes when its clock shows %v", r.ID, e)
	}
}

// idle judges a decision to do nothing: nobody who may be told has room and
// isn't, but for those who are catching up one a gap; and it wakes in time.
func (c *checker) idle(f *fleet, d Decision) {
	if len(f.inflight) > 0 {
		return // the mirror is behind
	}
	held := f.stop.Sequence > 0 && !f.stop.Released || f.behind
	for id, r := range f.rollouts {
		if !f.active(id) {
			continue
		}
		if r.State.Live() && r.State != StateFrozen && f.aborts[id].Sequence > r.Acknowledged {
			f.fail("%s is %s after abort %d", id, r.State, f.aborts[id].Sequence)
		}
		if held || r.State != StateRunning && r.State != StateCompleted || f.aborts[id].Sequence > r.Acknowledged {
			if r.State != StateCompleted && f.progress[id].Running {
				f.fail("%s is held and its clock runs", id)
			}
			continue
		}
		v := f.look(id, f.now)
		clock := v.progress.Elapsed
		if !v.progress.Running {
			if v.inFlight < v.limit() {
				f.fail("the clock of %s stands (%s), and there is room", id, v.progress.Hold)
			}
			continue
		}
		clock += f.snap.Led(f.now) - v.progress.Led
		gap := time.Duration(v.spec.Ramp.Over) / time.Duration(max(1, v.total))
		wake := time.Duration(-1)
		for key, g := range v.groups {
			if g.told < g.line.t && r.State == StateRunning {
				for i := 1; i <= g.line.t; i++ {
					if at := g.line.due(i); at > clock {
						wake = earlier(wake, at)
						break
					}
				}
			}
			may := f.may(v, g, clock, f.now)
			if len(may) == 0 || v.inFlight >= v.limit() || v.inRole[g.role] >= v.roleLimit(g.role) {
				continue
			}
			due := v.progress.CaughtUp + gap
			if v.progress.CaughtUp < 0 || clock >= due {
				f.fail("%s could tell %s of %s and doesn't (clock %v, caught up at %v, gap %v)", id, may[0], key, clock, v.progress.CaughtUp, gap)
				return
			}
			wake = earlier(wake, due)
		}
		if wake >= 0 && (d.Next.IsZero() || d.Next.After(f.now.Add(wake-clock))) {
			f.fail("%s has somebody to tell at %v, and is to be asked at %v", id, f.now.Add(wake-clock), d.Next)
		}
	}
	c.counts(f)
}

// counts compares what the snapshot says with what the checker counts.
func (c *checker) counts(f *fleet) {
	for id := range f.rollouts {
		if !f.active(id) {
			continue
		}
		v := f.look(id, f.now)
		st, err := f.snap.Status(id, f.now)
		if err != nil {
			f.fail("%s: %v", id, err)
			return
		}
		sum := 0
		for _, g := range v.groups {
			sum += g.had + g.told
		}
		if st.Target != v.total || st.Told != sum || st.InFlight != v.inFlight || st.Limit != v.limit() {
			f.fail("%s: target %d, told %d, in flight %d of %d; counted anew: %d, %d, %d of %d", id, st.Target, st.Told, st.InFlight, st.Limit, v.total, sum, v.inFlight, v.limit())
		}
		for _, role := range st.Roles {
			if role.Hosts != v.ofRole[role.Role] || role.InFlight != v.inRole[role.Role] {
				f.fail("%s: role %s has %d hosts and %d in flight; counted anew: %d and %d", id, role.Role, role.Hosts, role.InFlight, v.ofRole[role.Role], v.inRole[role.Role])
			}
		}
	}
}

// toldBy lists the hosts that the rollout told, by their places.
func (c *checker) toldBy(id ID) []tellSeen {
	out := slices.DeleteFunc(slices.Clone(c.tells), func(t tellSeen) bool { return t.rollout != id })
	slices.SortStableFunc(out, func(a, b tellSeen) int { return cmp.Compare(a.clock, b.clock) })
	return out
}
