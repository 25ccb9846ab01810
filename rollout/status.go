package rollout

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Status is a rollout as it stands.
type Status struct {
	ID     ID
	Record *Record
	// Layer says that it has completed and still covers hosts that join.
	Layer     bool
	Reason    Reason // why it isn't moving, or why it ended; zero while it moves
	Target    int    // hosts
	Told      int    // hosts that were told the value or had it before
	Confirmed int
	Failed    int
	InFlight  int
	Limit     int // of InFlight
	Planned   int // hosts that the straight line has told by now
	Pinned    int // hosts that it selects and that a pin holds at another value
	Elapsed   time.Duration
	Length    time.Duration // of the ramp's clock, from none to all
	Started   time.Time     // when the ramp's clock did
	// PlannedEnd is the end that was foreseen then, and Held for how long it
	// stood still since for each reason.
	PlannedEnd time.Time
	Held       map[Code]time.Duration
	// Rollback is what takes its hosts back, or has.
	Rollback        ID
	ApprovalsNeeded int
	Ends            time.Time // if nothing holds it from now on; zero where it is held or has ended
	Last            time.Time // when its ramp last told a host
	Next            time.Time // when the next host is due
	Roles           []RoleStatus
}

// RoleStatus is one role of a rollout.
type RoleStatus struct {
	Role                            Word
	Hosts                           int // that the rollout selects
	Target, Told, Confirmed, Failed int
	InFlight                        int
	Next                            time.Time // when its next host is due
}

// Flight is a host that was told and hasn't confirmed.
type Flight struct {
	Host   Host
	Role   Word
	Since  time.Time
	Enact  Enact
	Online bool
}

// Rollouts lists all rollouts by age.
func (s *Snapshot) Rollouts() []ID {
	ids := make([]ID, len(s.ordered))
	for i, c := range s.ordered {
		ids[i] = c.id
	}
	return ids
}

// Status says how a rollout stands. It returns an error wrapping ErrNotFound.
func (s *Snapshot) Status(id ID, now time.Time) (Status, error) {
	c, err := s.find(id)
	if err != nil {
		return Status{}, err
	}
	p, r := c.progress, c.record
	st := Status{
		ID: id, Record: r, Elapsed: p.Elapsed,
		Target: p.Target, Told: p.Told, Confirmed: p.Confirmed, Failed: p.Failed, Planned: p.Told,
		Reason: s.why(c, now), Last: p.Last, Length: c.length(), Started: r.Clock, PlannedEnd: r.Planned, Held: p.Held,
	}
	if o := s.rolledBack(c); o != nil {
		st.Rollback = o.id
	}
	if r.State.Live() {
		st.Held, st.ApprovalsNeeded = s.heldFor(c, now), r.Needed()
	}
	if !c.active {
		return st, nil
	}
	clock := s.elapsed(c, now)
	st.Layer = r.State == StateCompleted
	st.Elapsed, st.Target = min(clock, c.length()), c.target()
	st.Told, st.Confirmed, st.Failed = c.told+c.had, c.confirmed+c.had, c.failed
	st.InFlight, st.Limit = c.inFlight, c.limit()
	st.Planned = 0
	for _, g := range c.groups {
		st.Planned += min(g.had, g.target(c)) + g.line(c).quota(clock)
		for _, m := range g.members {
			if len(s.pins) > 0 && m.state == untold && !m.outside && m.host.pinned(r.Spec.Variable) {
				st.Pinned++
			}
		}
	}
	f := s.forecast(c, PlanOptions{}, now)
	moves := p.Running || s.timed(c)
	if !st.Layer && (moves || r.State == StatePending && r.Spec.After == "" && r.Needed() == 0) {
		st.Ends = f.ends()
	}
	if st.Reason.Code == ObjectiveWindow {
		st.Ends = st.Reason.Until
	}
	st.Roles = s.roles(f)
	for _, r := range st.Roles {
		if moves && !r.Next.IsZero() && (st.Next.IsZero() || r.Next.Before(st.Next)) {
			st.Next = r.Next
		}
	}
	return st, nil
}

// timed says whether what holds the rollout ends by itself at a time that is
// known.
func (s *Snapshot) timed(c *cohort) bool {
	if c.record.State != StateRunning || s.held().Code != "" {
		return false
	}
	switch h := c.progress.Hold; h.Code {
	case OutsideWindow, InBlackout, CanaryBake:
		return !h.Until.IsZero()
	}
	return false
}

// why is the reason that a person is shown.
func (s *Snapshot) why(c *cohort, now time.Time) Reason {
	if c.unfit {
		return Reason{Code: RecordDamaged, Detail: "its record can't be read by this scheduler, which leaves it alone"}
	}
	switch c.record.State {
	case StatePending:
		return s.pending(c, now)
	case StateRunning:
		if r := s.held(); r.Code != "" {
			return r
		}
		if r := s.calendar(c).at(now).why; r.Code != "" && !c.progress.Running && c.progress.Hold.Code == r.Code {
			return r
		}
		switch c.progress.Hold.Code { // with today's numbers
		case NoFreshEvidence:
			if r := s.unclear(c, now); r.Code != "" {
				return r
			}
		case ObjectiveWindow:
			return Reason{Code: ObjectiveWindow, Until: s.watchedUntil(c)}
		case InFlightLimit:
			return Reason{Code: InFlightLimit, InFlight: c.inFlight, Limit: c.limit()}
		case Unconfirmed:
			return c.unconfirmed()
		}
		return c.progress.Hold
	case StatePaused:
		return Reason{Code: Paused, Detail: c.record.Why}
	case StateFrozen:
		a := s.aborts[c.id]
		return Reason{Code: Frozen, Sequence: a.Sequence, Detail: a.Why}
	case StateCompleted:
		if a := s.aborts[c.id]; c.active && a.Sequence > c.record.Acknowledged {
			return Reason{Code: Aborted, Sequence: a.Sequence, Detail: a.Why}
		}
		if back := s.rolledBack(c); back != nil {
			return Reason{Code: RolledBack, Rollout: back.id}
		}
		return Reason{}
	default:
		return Reason{Code: Ended, Detail: c.record.Why}
	}
}

// roles sums the groups up by role.
func (s *Snapshot) roles(f *forecast) []RoleStatus {
	c := f.c
	out := make([]RoleStatus, 0, len(c.roles))
	at := make(map[Word]int, len(c.roles))
	for _, g := range c.groups {
		i, ok := at[g.role.name]
		if !ok {
			i = len(out)
			at[g.role.name] = i
			out = append(out, RoleStatus{Role: g.role.name})
		}
		r := &out[i]
		r.Hosts += g.n
		r.Target += max(g.target(c), min(g.n, g.had+g.told))
		r.Told += g.told + g.had
		r.Confirmed += g.confirmed + g.had
		r.Failed += g.failed
		r.InFlight += g.inFlight
		if l := g.line(c); l.quota(f.clock) < l.t {
			if due := f.wall(l.due(max(g.told, l.quota(f.clock)) + 1)); !due.IsZero() && (r.Next.IsZero() || due.Before(r.Next)) {
				r.Next = due
			}
		}
	}
	return out
}

// Flights lists who is in flight, the longest first, at most limit of them.
func (s *Snapshot) Flights(id ID, limit int) []Flight {
	c := s.cohorts[id]
	if c == nil || !c.active {
		return nil
	}
	var out []Flight
	for _, g := range c.groups {
		for _, m := range g.members {
			if m.flying {
				h := m.host
				f := Flight{Host: h.name, Role: g.role.name, Since: h.desired.Told[c.record.Spec.Variable].Time, Online: h.presence == Online}
				if h.report != nil {
					f.Enact = h.report.Enact[c.record.Spec.Variable]
				}
				out = append(out, f)
			}
		}
	}
	slices.SortFunc(out, func(a, b Flight) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Host, b.Host)) })
	return out[:min(len(out), limit)]
}

// HostStatus is one host as it stands.
type HostStatus struct {
	Host           Host
	Report         *Report  // nil: it never reported itself
	Desired        *Desired // nil: it was never told anything
	Presence       Presence
	Damaged        bool
	Decommissioned bool
	Pin            *Pin // nil: nothing is pinned
	// Next is the generation of the next document, or of the delete marker.
	Next uint64
}

// Host says how a host stands. It returns an error wrapping ErrNotFound.
func (s *Snapshot) Host(name Host) (HostStatus, error) {
	h := s.hosts[name]
	if h == nil || h.report == nil && h.desired == nil && !h.decommissioned {
		return HostStatus{}, notFound("host", string(name))
	}
	return h.status(), nil
}

func (h *host) status() HostStatus {
	return HostStatus{h.name, h.report, h.desired, h.presence, h.damaged, h.decommissioned, h.pin, h.nextGeneration()}
}

// Hosts lists the hosts that count, by name.
func (s *Snapshot) Hosts() []Host {
	out := make([]Host, 0, len(s.hosts))
	for name, h := range s.hosts {
		if h.report != nil && !h.decommissioned {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Variables lists the variables by name.
func (s *Snapshot) Variables() []*Variable {
	out := slices.Collect(maps.Values(s.variables))
	slices.SortFunc(out, func(a, b *Variable) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Variable returns a variable, or an error wrapping ErrNotFound.
func (s *Snapshot) Variable(name Name) (*Variable, error) {
	if v := s.variables[name]; v != nil {
		return v, nil
	}
	return nil, notFound("variable", string(name))
}

// LiveRollout names the variable's live rollout, or "".
func (s *Snapshot) LiveRollout(variable Name) ID {
	if c := s.liveOf(variable); c != nil {
		return c.id
	}
	return ""
}

// Movers are the rollouts that may still tell hosts a value of the variable, live
// ones and layers, and that value.
func (s *Snapshot) Movers(variable Name) map[ID]Value {
	out := make(map[ID]Value)
	for _, c := range s.ordered {
		if c.active && c.record.Spec.Variable == variable {
			out[c.id] = c.record.Spec.To
		}
	}
	return out
}

// Carriers counts the hosts that were told a value of the variable, those that
// never reported themselves included.
func (s *Snapshot) Carriers(variable Name) int {
	n := 0
	for _, h := range s.hosts {
		if h.desired != nil && !h.decommissioned {
			if _, ok := h.desired.Values[variable]; ok {
				n++
			}
		}
	}
	return n
}

// Drifted says whether the host runs something else than it was told, or,
// untold, than the variable's value. A host that is still enacting hasn't
// drifted.
func (h HostStatus) Drifted(v *Variable) bool {
	if h.Report == nil {
		return false
	}
	actual := h.Report.Actual[v.Name]
	if actual.IsZero() {
		return false
	}
	if h.Desired != nil {
		if want, ok := h.Desired.Values[v.Name]; ok {
			if t := h.Desired.Told[v.Name]; t.Pin && !v.Value.IsZero() && !want.Matches(v.Value) && (h.Pin == nil || h.Pin.Values[v.Name].IsZero()) {
				return true // a pin that has ended left it so
			}
			e := h.Report.Enact[v.Name]
			return (e.Status == Enacted || e.Status == DriftedOff) && h.Report.Generation >= h.Desired.Told[v.Name].Generation && !want.Matches(actual)
		}
	}
	return !v.Value.IsZero() && !v.Value.Matches(actual)
}

// Explanation says why a host has a variable's value, and why not yet another.
type Explanation struct {
	Value     Value // that it was told; absent: none
	Actual    Value
	Told      Told
	Confirmed bool
	// Next is the rollout that has yet to tell the host To, when it is due, as
	// far as that can be said, and what stands in the way.
	Next    ID
	To      Value
	Due     time.Time
	Blocked []Reason
}

// Explain answers why, and why not yet. It returns an error wrapping
// ErrNotFound for an unknown host or variable.
func (s *Snapshot) Explain(name Host, variable Name, now time.Time) (Explanation, error) {
	h := s.hosts[name]
	if h == nil || h.report == nil {
		return Explanation{}, notFound("host", string(name))
	}
	v, err := s.Variable(variable)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Actual: h.report.Actual[variable]}
	if h.desired != nil {
		e.Value, e.Told = h.desired.Values[variable], h.desired.Told[variable]
		e.Confirmed = !e.Value.IsZero() && h.confirms(variable, e.Value, e.Told)
	}
	switch {
	case h.decommissioned:
		e.Blocked = append(e.Blocked, Reason{Code: Decommissioned})
		return e, nil
	case h.presence == Gone:
		e.Blocked = append(e.Blocked, Reason{Code: HostGone})
		return e, nil
	}
	c := s.nextFor(h, variable)
	if c == nil {
		if live := s.liveOf(variable); live != nil && e.Told.Rollout != live.id && e.Value != live.record.Spec.To {
			e.Blocked = append(e.Blocked, Reason{Code: NotSelected, Rollout: live.id})
		} else if e.Value.IsZero() {
			e.Blocked = append(e.Blocked, Reason{Code: NoRollout})
		}
		if h.pinned(variable) {
			e.Blocked = append(e.Blocked, h.pin.blocked())
		} else if e.Told.Pin && !e.Value.Matches(v.Value) {
			e.Blocked = append(e.Blocked, Reason{Code: Drifted, Detail: "a pin that has ended left it at " + e.Value.String() + "; a rollout can move it"})
		}
		if h.status().Drifted(v) {
			e.Blocked = append(e.Blocked, Reason{Code: Drifted, Detail: "the host runs " + e.Actual.String() + "; a rollout can move it"})
		}
		return e, nil
	}
	e.Next, e.To = c.id, c.value(h)
	s.explain(h, c, now, &e)
	return e, nil
}

func (s *Snapshot) nextFor(h *host, variable Name) *cohort {
	for _, m := range h.members {
		if m.cohort.record.Spec.Variable == variable && m.state == untold && !m.outside {
			return m.cohort
		}
	}
	return nil
}

func (s *Snapshot) explain(h *host, c *cohort, now time.Time, e *Explanation) {
	block := func(r Reason) {
		if r.Code != "" && !slices.ContainsFunc(e.Blocked, func(b Reason) bool { return b.Code == r.Code && b.Blackout == r.Blackout }) {
			e.Blocked = append(e.Blocked, r)
		}
	}
	why, moves := s.why(c, now), c.progress.Running || s.timed(c)
	block(why)
	if c.record.State == StateCompleted { // of a layer no reason is shown
		unclear := s.unclear(c, now)
		block(unclear)
		moves = moves && unclear.Code == ""
	}
	switch h.presence {
	case Offline:
		block(Reason{Code: HostOffline})
	case Unheard:
		block(Reason{Code: HostUnheard})
	}
	if h.pinned(c.record.Spec.Variable) {
		block(h.pin.blocked())
	}
	if why, deferred := h.deferred(now); deferred && !c.rollback() {
		block(why)
	}
	if h.damaged || h.unfit || h.desired == nil {
		block(Reason{Code: RecordDamaged, Detail: "the host has no good document"})
	}
	m := h.members[slices.IndexFunc(h.members, func(m *member) bool { return m.cohort == c })]
	g := m.group
	due, place, late, ok := s.dueOf(m, now)
	if !ok {
		block(Reason{Code: BeyondTarget, Role: g.role.name, Target: g.target(c), Position: g.had + place})
		return
	}
	r := Reason{Code: NotDueYet, Role: g.role.name, Position: g.had + place, Target: g.target(c)}
	if late {
		r.Code = CatchingUp
		if !(&round{s: s, c: c}).roleRoom(g.role) {
			block(Reason{Code: RoleInFlightLimit, Role: g.role.name, InFlight: g.role.inFlight, Limit: c.roleLimit(g.role)})
		}
	}
	block(r)
	if settled := h.lastTold(now).Add(time.Duration(c.record.Spec.Settle)); settled.After(now) {
		block(Reason{Code: HostSettling, Until: settled.UTC()})
	}
	if moves || c.record.State == StatePending && why.Code != WaitingForRollout && why.Code != AwaitingApproval {
		e.Due = due
		if why, deferred := h.deferred(now); deferred && !c.rollback() && due.Before(cmp.Or(why.Until, forever)) {
			e.Due = why.Until
		}
		if h.pinned(c.record.Spec.Variable) && due.Before(cmp.Or(h.pin.Until, forever)) {
			e.Due = h.pin.Until
		}
	}
}

// Presences counts the hosts of the inventory by presence.
func (s *Snapshot) Presences() map[Presence]int {
	out := map[Presence]int{Offline: 0, Online: 0, Gone: 0, Unheard: 0}
	for _, h := range s.hosts {
		if h.report != nil && !h.decommissioned {
			out[h.presence]++
		}
	}
	return out
}

// String names the presence.
func (p Presence) String() string {
	switch p {
	case Online:
		return "online"
	case Gone:
		return "gone"
	case Unheard:
		return "unheard"
	}
	return "offline"
}
