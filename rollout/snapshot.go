package rollout

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"
)

// Presence is what the scheduler knows of a host from its heartbeats.
type Presence uint8

// The presences.
const (
	Offline Presence = iota // not heard for three heartbeats
	Online
	Gone    // not seen for 7 days: it doesn't count
	Unheard // not heard yet, by a scheduler that has not listened for long enough to call it offline
)

// Abort is the newest revision of abort.<id>, or of stop.
type Abort struct {
	Sequence uint64 // 0: there is none
	Why      string
	Actor    string
	Time     time.Time
	Released bool // stop only: the revision releases the one before it
}

// Snapshot holds the facts that decisions are made from, indexed so that a
// decision costs what is due. It is owned by one goroutine. The zero Snapshot
// isn't ready; use [NewSnapshot].
type Snapshot struct {
	hosts     map[Host]*host
	variables map[Name]*Variable
	cohorts   map[ID]*cohort
	ordered   []*cohort // by creation
	aborts    map[ID]Abort
	stop      Abort
	pins      map[Host]*Pin
	blackouts map[ID]*Blackout
	fleetwide []*Blackout   // those without a where, by name
	scopes    map[ID]*scope // those with one
	// objectives are the windows of those that there are, and clearances what the
	// guard says of rollouts.
	objectives map[ID]time.Duration
	clearances map[ID]Clearance
	waiting    []*host // that may need a document that no rollout gives them
	away       int     // hosts that aren't online
	behind     bool    // the audit log
	led        time.Duration
	ledAt      time.Time
	charge     time.Duration
}

// host is what is known of one machine.
type host struct {
	name           Host
	report         *Report  // nil: it never reported itself
	desired        *Desired // nil: it was never told anything, or was decommissioned
	floor          uint64   // the highest generation that it was told before it was decommissioned
	presence       Presence
	pin            *Pin
	damaged        bool // its document was overwritten or deleted by hand
	unfit          bool // it is left alone: see PutUnfit
	decommissioned bool
	queued         bool // in waiting
	members        []*member
	under          []*scope // blackouts that select it
}

// NewSnapshot makes an empty snapshot. The leaders' clock is charged at most
// charge between two renewals.
func NewSnapshot(charge time.Duration) *Snapshot {
	return &Snapshot{
		hosts:      make(map[Host]*host),
		variables:  make(map[Name]*Variable),
		cohorts:    make(map[ID]*cohort),
		aborts:     make(map[ID]Abort),
		pins:       make(map[Host]*Pin),
		blackouts:  make(map[ID]*Blackout),
		scopes:     make(map[ID]*scope),
		objectives: make(map[ID]time.Duration),
		charge:     charge,
	}
}

// PutLead sets the leaders' clock: led as of the last renewal, at now.
func (s *Snapshot) PutLead(led time.Duration, now time.Time) { s.led, s.ledAt = led, now }

// Led is what the leaders' clock shows at now. An interval between renewals
// that is longer than the charge counts as the charge: a scheduler that was
// held up for an hour makes up for seconds.
func (s *Snapshot) Led(now time.Time) time.Duration {
	if s.ledAt.IsZero() {
		return s.led
	}
	return s.led + min(max(0, now.Sub(s.ledAt)), s.charge)
}

// PutStop sets the newest revision of the red button.
func (s *Snapshot) PutStop(a Abort) { s.stop = a }

// Stop returns the newest revision of the red button.
func (s *Snapshot) Stop() Abort { return s.stop }

// Stopped says whether the red button is pressed.
func (s *Snapshot) Stopped() bool { return s.stop.Sequence > 0 && !s.stop.Released }

// PutAbort sets the newest revision of abort.<id>.
func (s *Snapshot) PutAbort(id ID, a Abort) { s.aborts[id] = a }

// AbortOf returns the newest revision of abort.<id>.
func (s *Snapshot) AbortOf(id ID) Abort { return s.aborts[id] }

// PutAuditBehind says whether the audit log is so far behind the bucket that
// more changes could outrun it.
func (s *Snapshot) PutAuditBehind(behind bool) { s.behind = behind }

// PutVariable sets a variable; nil removes it.
func (s *Snapshot) PutVariable(name Name, v *Variable) {
	if v == nil {
		delete(s.variables, name)
		return
	}
	s.variables[name] = v
	for _, h := range s.hosts {
		s.refresh(h)
	}
}

// PutReport sets what a host says of itself. A host that was decommissioned
// and reports itself again is back.
func (s *Snapshot) PutReport(name Host, r *Report) {
	h := s.host(name)
	old := h.report
	back := h.decommissioned
	h.report, h.decommissioned = r, false
	if back || old == nil || old.Role != r.Role || !maps.Equal(old.Labels, r.Labels) {
		s.dismiss(h)
		s.cover(h)
		s.enlist(h)
	}
	s.refresh(h)
}

// PutDesired sets what a host was last told. A document that isn't newer, by
// its generation, than what is known changes nothing.
func (s *Snapshot) PutDesired(name Host, d *Desired) {
	h := s.host(name)
	if d.Generation <= h.floor {
		return
	}
	h.desired, h.damaged, h.unfit, h.decommissioned = d, false, false, false
	h.floor = max(h.floor, d.Generation)
	for _, m := range slices.Clone(h.members) {
		if m.cohort.rollback() && !m.cohort.selects(h) {
			h.leave(m.cohort)
		}
	}
	s.enlistIfMissing(h)
	for _, c := range s.ordered {
		if c.active && c.rollback() && !slices.ContainsFunc(h.members, func(m *member) bool { return m.cohort == c }) {
			s.join(h, c) // who it is about is said by documents
		}
	}
	s.refresh(h)
}

// PutDamaged says that the host's document in the bucket isn't the
// scheduler's. What the host was last told stays what it was.
func (s *Snapshot) PutDamaged(name Host) {
	h := s.host(name)
	h.damaged = true
	s.refresh(h)
}

// PutUnfit says that nothing can be told to the host: its document doesn't fit
// into a message, say, or was written by a newer scheduler. It is left alone
// until it is decommissioned, or a document of its arrives that can be read.
func (s *Snapshot) PutUnfit(name Host) { s.host(name).unfit = true }

// PutRolloutUnfit says that the rollout's newest record can't be read. The
// rollout is left alone until there is one that can.
func (s *Snapshot) PutRolloutUnfit(id ID) {
	if c := s.cohorts[id]; c != nil {
		c.unfit = true
	}
}

// MostLed is the highest reading of the leaders' clock that any progress has:
// it can't have been less.
func (s *Snapshot) MostLed() time.Duration {
	var most time.Duration
	for _, c := range s.cohorts {
		most = max(most, c.progress.Led)
	}
	return most
}

// PutDecommissioned takes a host out until it reports itself again. The
// generation is that of the delete marker.
func (s *Snapshot) PutDecommissioned(name Host, generation uint64) {
	h := s.host(name)
	h.desired, h.damaged, h.unfit, h.decommissioned = nil, false, false, true
	h.floor = max(h.floor, generation)
	s.dismiss(h)
}

// PutPresence sets what is known of a host from its heartbeats, and says
// whether that is news.
func (s *Snapshot) PutPresence(name Host, p Presence) bool {
	h := s.host(name)
	if h.presence == p {
		return false
	}
	counted := h.counts()
	if h.presence == Online {
		s.away++
	} else if p == Online {
		s.away--
	}
	h.presence = p
	if counted != h.counts() {
		s.enlist(h)
	}
	s.refresh(h)
	return true
}

// PutRollout sets a rollout's record. The records of rollouts come before the
// documents that name them: a host told by an unknown rollout is left alone. It
// returns an error for a record whose expressions don't compile.
func (s *Snapshot) PutRollout(id ID, r *Record) error {
	c := s.cohorts[id]
	if c == nil {
		var err error
		if c, err = newCohort(s.cohorts, id, r); err != nil {
			return err
		}
		s.cohorts[id] = c
		i, _ := slices.BinarySearchFunc(s.ordered, c, func(a, b *cohort) int {
			return cmp.Or(a.record.Created.Compare(b.record.Created), cmp.Compare(a.id, b.id))
		})
		s.ordered = slices.Insert(s.ordered, i, c)
	} else if !reflect.DeepEqual(c.record.Spec, r.Spec) {
		if err := c.set(r); err != nil {
			return err
		}
		if c.active { // whom it selects, and their limits, may have changed
			c.active = false
			for _, h := range s.hosts {
				h.leave(c)
			}
			c.clear()
		}
	}
	c.record, c.unfit = r, false
	if c.active || r.State.Live() || r.State == StateCompleted || c.rollback() {
		s.activate(r.Spec.Variable)
	}
	return nil
}

// PutProgress sets a rollout's progress.
func (s *Snapshot) PutProgress(id ID, p Progress) {
	if c := s.cohorts[id]; c != nil {
		c.progress = p
	}
}

func (s *Snapshot) host(name Host) *host {
	h := s.hosts[name]
	if h == nil {
		h = &host{name: name}
		s.hosts[name] = h
		s.away++
	}
	return h
}

// counts says whether the host is one of the fleet's.
func (h *host) counts() bool {
	return h.report != nil && !h.decommissioned && h.presence != Gone
}

// activate indexes the variable's live rollouts and layers, and drops the
// index of those that can't tell anybody any more: a completed rollout that is
// covered by a newer one that completed with full coverage, or was rolled back.
func (s *Snapshot) activate(variable Name) {
	covered := false
	back := make(map[ID]bool) // rolled back
	for _, c := range slices.Backward(s.ordered) {
		if c.record.Spec.Variable != variable {
			continue
		}
		back[c.record.Spec.Rollback] = true // a rollback that is cancelled starts no layer anew
		layer := c.record.State == StateCompleted && !covered && !c.rollback() && !back[c.id]
		active := c.record.State.Live() || layer
		covered = covered || layer && c.record.Spec.Covers()
		if active == c.active {
			continue
		}
		c.active = active
		for _, h := range s.hosts {
			if active {
				s.join(h, c)
			} else {
				h.leave(c)
			}
		}
		if !active {
			c.clear()
		}
		for _, h := range s.hosts { // who is covered by a newer rollout has changed
			s.refresh(h)
		}
	}
}

// enlist finds anew which rollouts select the host.
func (s *Snapshot) enlist(h *host) {
	s.dismiss(h)
	s.enlistIfMissing(h)
}

func (s *Snapshot) enlistIfMissing(h *host) {
	if len(h.members) > 0 {
		return
	}
	for _, c := range s.ordered {
		if c.active {
			s.join(h, c)
		}
	}
}

func (s *Snapshot) dismiss(h *host) {
	for _, m := range slices.Clone(h.members) {
		h.leave(m.cohort)
	}
}

// join makes the host a member of the rollout if it selects it. One that was
// told and is no longer selected, or gone, stays as an outsider: a host that
// never confirms keeps its place in flight.
func (s *Snapshot) join(h *host, c *cohort) {
	if h.decommissioned {
		return
	}
	outside := !h.counts() && !(c.rollback() && h.report != nil) || !c.selects(h)
	if !outside || h.desired != nil && h.desired.Told[c.record.Spec.Variable].Rollout == c.id {
		h.members = append(h.members, c.add(h, outside))
	}
}

func (h *host) leave(c *cohort) {
	for i, m := range h.members {
		if m.cohort == c {
			c.remove(m)
			h.members = slices.Delete(h.members, i, i+1)
			return
		}
	}
}

// refresh takes note of a change to a host.
func (s *Snapshot) refresh(h *host) {
	h.update()
	if !h.queued && s.needs(h).Code != "" {
		h.queued = true
		s.waiting = append(s.waiting, h)
	}
}

func (h *host) update() {
	for _, m := range h.members {
		m.update()
	}
}

// lastTold is when the host was last told anything: not after now, whatever the
// clock of the scheduler said that told it.
func (h *host) lastTold(now time.Time) time.Time {
	var last time.Time
	if h.desired != nil {
		for _, t := range h.desired.Told {
			if t.Time.After(last) {
				last = t.Time
			}
		}
	}
	if last.After(now) {
		return now
	}
	return last
}

// maxGeneration is more than any host ever reaches: a report that claims so
// much isn't believed, or the next generation would overflow.
const maxGeneration = 1 << 53

// nextGeneration is 1 + the highest of the last document's and of what the
// host reported as applied.
func (h *host) nextGeneration() uint64 {
	g := h.floor
	if h.report != nil && h.report.Generation < maxGeneration {
		g = max(g, h.report.Generation)
	}
	return g + 1
}
