package rollout

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"
)

// The oracle says who may be told when. It is as plain as can be: it looks at
// the store alone, computes everything anew each time, and shares with the
// scheduler only the order of a role and the phases that records keep. Quotas
// are counted place by place from the formulas of the shapes, calendars are
// read off the clock on the wall, minute by minute.

// view is what the oracle knows of one rollout.
type view struct {
	*store
	id        ID
	spec      Spec
	record    Record
	progress  Progress
	groups    map[string]*groupView
	keys      []string // of groups, sorted
	total     int      // ΣT
	hosts     int
	told      int
	inFlight  int
	inRole    map[Word]int // in flight
	ofRole    map[Word]int // hosts
	toldRole  map[Word]int
	blackouts []Blackout // that hold all of it
}

type groupView struct {
	key          string
	role         Word
	n, had, told int
	target       int
	t            int // of the target, those that this rollout has to tell
	theta        float64
	places       []place
	states       map[Host]memberState
	waiting      []Host // the untold, in order
}

var percents sync.Map // as fractions

func percentOf(p Percent, n int) *big.Rat {
	one, ok := percents.Load(p)
	if !ok {
		r, ok := new(big.Rat).SetString(strings.TrimSuffix(p.String(), "%"))
		if !ok {
			panic("percent " + p.String())
		}
		one, _ = percents.LoadOrStore(p, r)
	}
	return new(big.Rat).Mul(one.(*big.Rat), big.NewRat(int64(n), 100))
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

// selection is a question to an expression.
type selection struct {
	source string
	host   Host
	role   Word
	zone   Word
}

// matches says whether an expression holds for a host.
func (st *store) matches(source string, h Host) bool {
	r := st.reports[h]
	if source == "" {
		return true
	}
	key := selection{source, h, r.Role, r.Labels["zone"]} // tests know no other label
	yes, ok := st.selections[key]
	if !ok {
		var err error
		yes, err = whereOf(source).Selects(h, r.Role, r.Labels)
		yes = yes && err == nil
		st.selections[key] = yes
	}
	return yes
}

func (st *store) key(salt string, h Host) uint64 {
	k, ok := st.keys[[2]string{salt, string(h)}]
	if !ok {
		k = salted(salt, string(h))
		st.keys[[2]string{salt, string(h)}] = k
	}
	return k
}

// selected says whether the rollout is about the host, and which limit is.
func (st *store) selected(id ID, h Host) (selected bool, limit int) {
	spec := st.rollouts[id].Spec
	if _, ok := st.reports[h]; !ok || st.out[h] {
		return false, -1
	}
	if spec.Rollback != "" {
		by := st.desired[h].Told[spec.Variable].Rollout
		return by == id || by == spec.Rollback, -1
	}
	if st.presence[h] == Gone || slices.Contains(spec.Exclude, h) || !st.matches(spec.Where, h) {
		return false, -1
	}
	return true, slices.IndexFunc(spec.Limits, func(l Limit) bool { return st.matches(l.Where, h) })
}

func (st *store) newer(a, b ID) bool {
	return cmp.Or(st.rollouts[a].Created.Compare(st.rollouts[b].Created), cmp.Compare(a, b)) > 0
}

// rolledBack says whether there is a rollback of it that wasn't cancelled.
func (st *store) rolledBack(id ID) bool {
	for _, o := range st.rollouts {
		if o.Spec.Rollback == id && o.State != StateCancelled {
			return true
		}
	}
	return false
}

// layer says whether the rollout has completed and covers those who come.
func (st *store) layer(id ID) bool {
	r := st.rollouts[id]
	if r.State != StateCompleted || r.Spec.Rollback != "" {
		return false
	}
	for _, o := range st.rollouts {
		if o.Spec.Rollback == id {
			return false // whatever became of the rollback
		}
	}
	for other, o := range st.rollouts {
		if o.Spec.Variable == r.Spec.Variable && o.State == StateCompleted && covers(&o.Spec) && st.newer(other, id) && st.layer(other) {
			return false
		}
	}
	return true
}

func covers(s *Spec) bool {
	return s.Where == "" && s.Rollback == "" && s.Ramp.Percent.Or(100) == 100 && len(s.Limits)+len(s.Exclude) == 0
}

// active says whether the rollout can still tell anybody.
func (st *store) active(id ID) bool {
	if st.actives == nil { // until a record is written
		st.actives = map[ID]bool{}
		for id, r := range st.rollouts {
			st.actives[id] = r.State.Live() || st.layer(id)
		}
	}
	return st.actives[id]
}

func (st *store) confirmed(h Host, name Name) bool {
	d, r := st.desired[h], st.reports[h]
	if r.Generation < d.Told[name].Generation {
		return false
	}
	status := r.Enact[name].Status
	return d.Values[name].IsZero() || r.Actual[name] == d.Values[name] && status != Unenacted && status != ""
}

func (st *store) pinned(h Host, name Name) bool {
	_, ok := st.pins[h].Values[name]
	return ok
}

func (st *store) stateOf(id ID, h Host) memberState {
	spec := st.rollouts[id].Spec
	d := st.desired[h]
	t, ok := d.Told[spec.Variable]
	switch {
	case t.Rollout == id && spec.Rollback != "" && t.Released:
		return had // told while it was offline
	case t.Rollout == id:
		return told
	case spec.Rollback != "":
		return untold
	case ok && d.Values[spec.Variable] == spec.To, d.Generation > 0 && spec.Remove && d.Values[spec.Variable].IsZero():
		return had
	case t.Rollout != "" && st.newer(t.Rollout, id) && !(st.rollouts[t.Rollout].Spec.Rollback == id && st.rollouts[t.Rollout].State == StateCancelled):
		return had // never taken back
	}
	for other, o := range st.rollouts {
		if o.Spec.Variable == spec.Variable && st.newer(other, id) && st.active(other) {
			if yes, _ := st.selected(other, h); yes {
				return had // the newer one's
			}
		}
	}
	return untold
}

// look computes everything about one rollout.
func (st *store) look(id ID) *view {
	r := st.rollouts[id]
	v := &view{store: st, id: id, spec: r.Spec, record: r, progress: st.progress[id], groups: map[string]*groupView{}, inRole: map[Word]int{}, ofRole: map[Word]int{}, toldRole: map[Word]int{}}
	name := r.Spec.Variable
	under := map[ID]int{}
	for h, report := range st.reports {
		if t := st.desired[h].Told[name]; !st.out[h] && t.Rollout == id && !t.Released && !st.confirmed(h, name) && !st.pinned(h, name) {
			v.inFlight++ // wherever it is now
			v.inRole[report.Role]++
		}
		yes, limit := st.selected(id, h)
		if !yes {
			continue
		}
		key := groupKey(report.Role, limit)
		g := v.groups[key]
		if g == nil {
			g = &groupView{key: key, role: report.Role, states: map[Host]memberState{}}
			var ok bool
			if g.theta, ok = r.Theta[key]; !ok {
				g.theta = unit(salted(r.Salt, "late role "+key))
			}
			v.groups[key] = g
			v.keys = append(v.keys, key)
		}
		v.hosts++
		v.ofRole[report.Role]++
		for name, b := range st.blackouts {
			if b.Where != "" && st.matches(b.Where, h) {
				under[name]++
			}
		}
		g.n++
		g.states[h] = st.stateOf(id, h)
		switch g.states[h] {
		case had:
			g.had++
		case told:
			g.told++
			v.told++
			v.toldRole[report.Role]++
		}
		g.places = append(g.places, place{key: st.key(r.Salt, h), m: &member{name: h, host: &host{name: h, report: &report}}})
	}
	slices.Sort(v.keys)
	for name, b := range sorted(st.blackouts) {
		if r.Spec.Rollback == "" && (b.Where == "" || under[name] > 0 && under[name] == v.hosts) {
			v.blackouts = append(v.blackouts, b)
		}
	}
	for key, g := range v.groups {
		p := r.Spec.Ramp.Percent.Or(100)
		var l *Limit
		if i := strings.LastIndexByte(key, '/'); i >= 0 {
			l = &r.Spec.Limits[key[i+1]-'0']
			p = l.Percent.Or(p)
		}
		t := floorRat(new(big.Rat).Add(percentOf(p, g.n), big.NewRat(1, 2)))
		if l != nil {
			t = max(t, l.AtLeast)
			if l.AtMost != nil {
				t = min(t, *l.AtMost)
			}
		}
		g.target = min(t, g.n)
		g.t = max(0, g.target-g.had)
		v.total += max(g.target, min(g.n, g.had+g.told))
		if r.Spec.Rollback == "" {
			arrangeBy(g.places, r.Salt, r.Spec.Spread)
		} else { // last told first
			at := func(p place) time.Time { return st.desired[p.m.name].Told[name].Time }
			slices.SortFunc(g.places, func(a, b place) int { return cmp.Or(at(b).Compare(at(a)), cmp.Compare(a.key, b.key)) })
		}
		for _, p := range g.places {
			if g.states[p.m.name] == untold {
				g.waiting = append(g.waiting, p.m.name)
			}
		}
	}
	return v
}

func (v *view) limit() int { return max(1, floorRat(percentOf(v.spec.InFlight.Max.Or(5), v.hosts))) }
func (v *view) roleLimit(role Word) int {
	return max(1, floorRat(percentOf(v.spec.InFlight.PerRole.Or(20), v.ofRole[role])))
}

func (v *view) room(role Word) bool {
	return v.inFlight < v.limit() && v.inRole[role] < v.roleLimit(role)
}

// nominal is how long the ramp takes by its words.
func nominal(r *Ramp) time.Duration {
	sum := time.Duration(r.Over)
	for _, w := range r.Waves {
		sum += time.Duration(w.Hold)
	}
	for _, p := range r.Points {
		sum = time.Duration(p.At)
	}
	return sum + map[string]time.Duration{"rapid": 24 * time.Hour, "common": 48 * time.Hour, "risky": 72 * time.Hour}[r.Preset]
}

// length is how long the ramp's clock runs.
func (v *view) length() time.Duration {
	if v.record.Length > 0 {
		return v.record.Length
	}
	return nominal(&v.spec.Ramp)
}

func (v *view) gap() time.Duration { return v.length() / time.Duration(max(1, v.total)) }

// share is S of design.md §6 when the ramp's clock shows e.
func (v *view) share(e time.Duration) float64 {
	x, r := float64(e)/float64(v.length()), &v.spec.Ramp
	switch {
	case e <= 0:
		return 0
	case x >= 1:
		return 1
	case r.Shape == Exponential:
		g := r.Growth
		if g == 0 {
			g = 10
		}
		return (math.Pow(g, x) - 1) / (g - 1)
	case r.Shape == Waves: // 3 of 10 are 30 %, though not in floats
		s, at := 0.0, time.Duration(0)
		for _, w := range r.Waves {
			if x*float64(nominal(r)) >= float64(at)-0.5 {
				s = float64(w.Percent)/100 + 1e-12
			}
			at += time.Duration(w.Hold)
		}
		return s
	case r.Shape == Points:
		t, from := x*float64(nominal(r)), Point{}
		for _, to := range r.Points {
			if t <= float64(to.At) {
				return (float64(from.Percent) + (t-float64(from.At))/float64(to.At-from.At)*float64(to.Percent-from.Percent)) / 100
			}
			from = to
		}
	}
	return x
}

// slack is how much the scheduler's clock may be off by rounding.
func (v *view) slack() time.Duration { return 2 + v.length()/1e12 }

// quota counts, one by one, the places (i−θ)/T that the share has reached when
// the clock shows e.
func (v *view) quota(g *groupView, e time.Duration) int {
	n, s := 0, v.share(e)
	for i := 1; i <= g.t; i++ {
		if e > 0 && (float64(i)-g.theta)/float64(g.t) <= s {
			n++
		}
	}
	return n
}

// reaches is what the clock shows when the share reaches s, by bisection.
func (v *view) reaches(s float64) time.Duration {
	low, high := time.Duration(0), v.length() // share(low) < s <= share(high)
	for high-low > 1 {
		if mid := low + (high-low)/2; v.share(mid) >= s {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// gate is what the clock shows when the first wave starts that an operator has
// yet to approve.
func (v *view) gate() (at time.Duration, wave int, closed bool) {
	before := 0.0
	for i, w := range v.spec.Ramp.Waves {
		given := slices.ContainsFunc(v.record.Approvals, func(a Approval) bool { return a.Wave == i+1 })
		if w.Approval && !given && v.record.State == StateRunning {
			if i == 0 {
				return 1, 1, true
			}
			return v.reaches(before + 1e-9), i + 1, true
		}
		before = float64(w.Percent) / 100
	}
	return 0, 0, false
}

// tellable says whether the host could be told by the rollout at now, if its
// place had come.
func (v *view) tellable(h Host, now time.Time) bool {
	d, ok := v.desired[h]
	if !ok || v.damaged[h] || v.store.presence[h] != Online || v.pinned(h, v.spec.Variable) {
		return false
	}
	for _, t := range d.Told {
		if v.spec.Settle > 0 && t.Time.Add(time.Duration(v.spec.Settle)).After(now) {
			return false
		}
	}
	return !v.deferred(h, now)
}

// deferred says whether a blackout with a where keeps the host from being told.
func (v *view) deferred(h Host, now time.Time) bool {
	for _, b := range v.store.blackouts {
		if v.spec.Rollback == "" && b.Where != "" && v.matches(b.Where, h) && inForce(&b, now) {
			return true
		}
	}
	return false
}

// due lists the untold hosts whose places have come, in order.
func (g *groupView) due(quota int) []Host {
	return g.waiting[:max(0, min(len(g.waiting), quota-g.told))]
}

// may lists those of them that can be told.
func (v *view) may(g *groupView, quota int, now time.Time) (out []Host) {
	for _, h := range g.due(quota) {
		if v.tellable(h, now) {
			out = append(out, h)
		}
	}
	return out
}

// canaries lists who can be told before the ramp's clock starts, and says
// whether the canaries stand: nobody more can be picked, and all that were told
// have confirmed.
func (v *view) canaries(now time.Time) (ready []Host, stand bool) {
	c := v.spec.Canary
	roles, wanted := map[Word]int{}, false
	for _, key := range v.keys {
		g := v.groups[key]
		most := g.t - g.told
		switch {
		case c.PerRole > 0:
			most = min(most, c.PerRole-v.toldRole[g.role]-roles[g.role])
		case c.Hosts > 0 && v.told >= c.Hosts:
			most = 0
		}
		n := 0
		for _, h := range g.waiting {
			if n >= most {
				break
			}
			if !v.matches(c.Where, h) {
				continue
			}
			wanted = true
			if v.tellable(h, now) {
				n++
				ready = append(ready, h)
			}
		}
		roles[g.role] += n
	}
	if c.Hosts > 0 {
		slices.SortFunc(ready, func(a, b Host) int { return cmp.Compare(v.key(v.record.Salt, a), v.key(v.record.Salt, b)) })
		ready = ready[:max(0, min(len(ready), c.Hosts-v.told))]
	}
	nobody := c.Where != "" && v.told == 0 && v.hosts > 0 && !v.record.Baked
	for _, g := range v.groups {
		for h := range g.states {
			nobody = nobody && !v.matches(c.Where, h)
		}
	}
	return ready, len(ready) == 0 && v.inFlight == 0 && (v.told > 0 || !wanted) && !nobody
}

// closed says why nobody may be told at an instant.
func (v *view) closed(t time.Time) Code {
	if v.spec.Rollback != "" {
		return ""
	}
	for i := range v.blackouts {
		if inForce(&v.blackouts[i], t) {
			return InBlackout
		}
	}
	if len(v.spec.Windows) > 0 && !anyShows(v.spec.Windows, t) {
		return OutsideWindow
	}
	return ""
}

// open is the time between two instants in which the calendar is open, counted
// up to most, and looked up once a minute: tests have whole minutes only.
func (v *view) open(from, until time.Time, most time.Duration) (sum time.Duration) {
	if len(v.blackouts)+len(v.spec.Windows) == 0 || v.spec.Rollback != "" {
		return min(most, max(0, until.Sub(from)))
	}
	for from.Before(until) && sum < most {
		next := from.Truncate(time.Minute).Add(time.Minute)
		if next.After(until) {
			next = until
		}
		if v.closed(from) == "" {
			sum += next.Sub(from)
		}
		from = next
	}
	return min(sum, most)
}

func inForce(b *Blackout, t time.Time) bool {
	return !t.Before(b.From) && (b.Until.IsZero() || t.Before(b.Until)) && (len(b.Every) == 0 || anyShows(b.Every, t))
}

func anyShows(rules []Rule, t time.Time) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return shows(&r, t) })
}

// shows says whether the clock on the wall shows one of the rule's times.
func shows(r *Rule, t time.Time) bool {
	wall := t.In(must(r.Zone.Location()))
	clock := TimeOfDay(time.Duration(wall.Hour())*time.Hour + time.Duration(wall.Minute())*time.Minute)
	noon := time.Date(wall.Year(), wall.Month(), wall.Day(), 12, 0, 0, 0, time.UTC)
	if r.To > r.From {
		return clock >= r.From && clock < r.To && onDay(r, noon)
	}
	return clock >= r.From && onDay(r, noon) || clock < r.To && onDay(r, noon.AddDate(0, 0, -1))
}

func onDay(r *Rule, d time.Time) bool {
	if len(r.Days)+len(r.Months)+len(r.MonthDays) == 0 {
		return true
	}
	day := Weekday(strings.ToLower(d.Format("Mon")))
	month := Month(strings.ToLower(d.Format("Jan")))
	last := time.Date(d.Year(), d.Month()+1, 0, 12, 0, 0, 0, time.UTC).Day()
	nth := func(n int) int {
		if n < 0 {
			return last + 1 + n
		}
		return n
	}
	return (len(r.Days) == 0 || slices.Contains(r.Days, day)) && (len(r.Months) == 0 || slices.Contains(r.Months, month)) &&
		(len(r.MonthDays) == 0 || slices.ContainsFunc(r.MonthDays, func(m MonthDays) bool { return nth(m.First) <= d.Day() && d.Day() <= nth(m.Last) }))
}

func (v *view) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s, clock %v of %v, running %v, hold %q, %d in flight of %d)", v.id, v.record.State, v.progress.Elapsed, v.length(), v.progress.Running, v.progress.Hold.Code, v.inFlight, v.limit())
	return b.String()
}
