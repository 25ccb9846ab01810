package evidence

import (
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// host is what is known of one host.
type host struct {
	name     rollout.Host
	reported time.Time // its newest report
	role     rollout.Word
	labels   map[rollout.Word]rollout.Word
	actual   rollout.Document
	pinned   []rollout.Name
	checks   map[rollout.ID]slo.State

	boot     string
	sequence uint64   // of the newest health event of that boot
	boots    []string // before, the newest last
	reporter string   // the boot that wrote its newest report

	gaveUp map[rollout.Name]uint64 // by its newest report: the generations that it couldn't make true

	silent  bool
	session string // of the guard that noticed

	changed   time.Time  // when it was last told anything
	changedBy rollout.ID // the rollout that did, if it was one
}

// What is kept of the starts of an agent: how many earlier ones, and how long
// the name of one may be.
const (
	mostBoots = 8
	mostBoot  = 64 // bytes
)

// fresh says whether an event of a start of the agent is news, and takes note.
func (h *host) fresh(boot string, sequence uint64) bool {
	switch {
	case boot == h.boot && sequence <= h.sequence, slices.Contains(h.boots, boot):
		return false
	case boot != h.boot:
		if h.boot != "" {
			if len(h.boots) == mostBoots {
				h.boots = slices.Delete(h.boots, 0, 1)
			}
			h.boots = append(h.boots, h.boot)
		}
		h.boot = boot
	}
	h.sequence = sequence
	return true
}

func (f *Fold) health(name rollout.Host, m Message) error {
	e, err := lenient[subjects.HealthEvent](m.Data)
	if err != nil {
		return err
	}
	h := f.hosts[name]
	if h == nil || e.Boot == "" || len(e.Boot) > mostBoot || e.Sequence == 0 || !h.fresh(e.Boot, e.Sequence) {
		return nil
	}
	f.heard(h)
	if t := f.rollouts[e.Rollout]; t != nil && e.Generation > 0 && t.believes(name) {
		f.told(t, h)
	}
	switch e.Kind {
	case subjects.HealthCheck:
		f.check(h, e.Check, e.Status, e.Output)
	case subjects.HealthEnact:
		if e.Status == string(rollout.EnactFail) {
			f.gaveUp(h, e.Rollout, e.Variable, e.Output)
		}
	}
	return nil
}

// check takes what a check says.
func (f *Fold) check(h *host, id rollout.ID, status, output string) {
	if id == "" {
		return
	}
	state, known := map[rollout.CheckStatus]slo.State{
		rollout.Failing: slo.Fails, rollout.Pending: slo.PassesYet, rollout.Passing: slo.Passes,
	}[rollout.CheckStatus(status)]
	if !known {
		return // a newer agent's word for something else
	}
	if h.checks == nil {
		h.checks = make(map[rollout.ID]slo.State, 1)
	}
	if _, had := h.checks[id]; !had && len(h.checks) == mostChecks {
		return
	}
	h.checks[id] = state
	for _, t := range f.ordered {
		t.watch.Check(h.name, id, state, output, f.now)
	}
}

// mostChecks bounds what is kept of one host.
const mostChecks = 64

// gaveUp takes that a host couldn't make a rollout's value true.
func (f *Fold) gaveUp(h *host, id rollout.ID, variable rollout.Name, output string) {
	if t := f.rollouts[id]; t != nil && t.spec.Variable == variable {
		t.watch.Enact(h.name, output, f.now)
	}
}

// watched says whether any watch has the host at risk.
func (f *Fold) watched(h *host) bool {
	return slices.ContainsFunc(f.ordered, func(t *trial) bool { return t.watch.AtRisk(h.name) })
}

// report takes a host's record of the inventory.
func (f *Fold) report(name rollout.Host, m Message) error {
	if m.Header.Deleted() {
		return nil // its agent never deletes; whoever did harms nothing
	}
	r, err := lenient[rollout.Report](m.Data)
	if err != nil {
		return err
	}
	if r.Role == "" || len(r.Boot) > mostBoot {
		return errForeign
	}
	h := f.hosts[name]
	if h == nil {
		h = &host{name: name}
		f.hosts[name] = h
	}
	f.heard(h)
	h.reported, h.role, h.labels, h.actual = f.now, r.Role, r.Labels, r.Actual
	current := h.current(r)
	h.pinned = nil
	if current {
		h.gaveUp = nil
	}
	for variable, e := range r.Enact {
		if e.Pinned {
			h.pinned = append(h.pinned, variable)
		}
		if current && e.Status == rollout.EnactFail {
			if h.gaveUp == nil {
				h.gaveUp = make(map[rollout.Name]uint64, 1)
			}
			h.gaveUp[variable] = e.Generation
		}
	}
	for _, t := range f.ordered {
		f.place(t, h)
	}
	if !current {
		return nil
	}
	// It names all checks that there are: those that it doesn't name are gone.
	maps.DeleteFunc(h.checks, func(id rollout.ID, _ slo.State) bool { _, there := r.Checks[id]; return !there })
	for _, id := range sortedKeys(r.Checks) {
		c := r.Checks[id]
		f.check(h, id, string(c.Status), c.Output)
	}
	for _, variable := range sortedKeys(h.gaveUp) {
		f.failedBefore(h, variable, r.Enact[variable])
	}
	return nil
}

// current says whether what a report says of checks is as new as the newest event.
// Reports come in their order, and may come later than events: a report of a start of the
// agent that has sent no event is of a later one if the one before it has reported
// itself already, and else of an earlier one.
func (h *host) current(r *rollout.Report) bool {
	before := h.reporter
	h.reporter = r.Boot
	switch {
	case r.Boot == h.boot:
		if r.Event < h.sequence {
			return false
		}
		h.sequence = r.Event
		return true
	case slices.Contains(h.boots, r.Boot), h.boot != "" && before != h.boot:
		return false
	}
	return h.fresh(r.Boot, r.Event)
}

// failedBefore takes from a report that a host gave up, should the event have
// been lost.
func (f *Fold) failedBefore(h *host, variable rollout.Name, e rollout.Enact) {
	for _, t := range f.ordered {
		if at, ok := t.told[h.name]; ok && t.spec.Variable == variable && e.Generation >= at.generation && at.generation > 0 {
			t.watch.Enact(h.name, e.Error, f.now)
		}
	}
}

// desired takes what a host was told.
func (f *Fold) desired(name rollout.Host, m Message) error {
	c, err := subjects.DecodeChange(name, m.Header, m.Data)
	if err != nil {
		return err
	}
	h := f.hosts[name]
	if c.Decommissioned {
		for _, t := range f.ordered {
			t.watch.Leave(name, f.now)
		}
		delete(f.hosts, name)
		return nil
	}
	for _, t := range f.ordered {
		switch told := c.Desired.Told[t.spec.Variable]; {
		case told.Rollout == t.id && c.Rollout == t.id:
			if h != nil {
				f.told(t, h)
			}
			tell := t.told[name]
			if tell.at.IsZero() { // it isn't in the inventory yet
				tell.at = f.now
			}
			tell.generation = told.Generation
			t.told[name] = tell
		case c.Variable == t.spec.Variable:
			// A pin, or another rollout, has told it something else: it is no
			// longer this rollout's to be judged by.
			t.watch.Leave(name, f.now)
			if tell, ok := t.told[name]; ok {
				tell.apart = true
				t.told[name] = tell
			}
		}
	}
	if h != nil {
		h.changed, h.changedBy = f.now, c.Rollout
	}
	return nil
}

// silence takes that a host has fallen silent, or is heard again.
func (f *Fold) silence(name rollout.Host, m Message) error {
	s, err := lenient[subjects.Silence](m.Data)
	if err != nil {
		return err
	}
	h := f.hosts[name]
	switch {
	case h == nil:
	case s.Kind == subjects.HostHeard:
		f.heard(h)
	case s.Kind == subjects.HostSilent && s.Session != "":
		h.silent, h.session = true, s.Session
		for _, t := range f.ordered {
			t.watch.Silent(name, s.Session, f.now)
		}
	}
	return nil
}

// heard takes a sign of life.
func (f *Fold) heard(h *host) {
	if !h.silent {
		return
	}
	h.silent = false
	for _, t := range f.ordered {
		t.watch.Heard(h.name, f.now)
	}
	for _, t := range f.ordered {
		f.checks(t, h)
	}
}

// checks says to a watch what the host's checks say: it may not have been
// healthy so far.
func (f *Fold) checks(t *trial, h *host) {
	for _, id := range sortedKeys(h.checks) {
		t.watch.Check(h.name, id, h.checks[id], "", f.now)
	}
	f.outside(t, h)
}

// listening takes that the guard has been listening until now.
func (f *Fold) listening(m Message) error {
	s, err := lenient[subjects.Silence](m.Data)
	if err != nil {
		return err
	}
	if s.Kind == subjects.Listens && s.Session != "" {
		for _, t := range f.ordered {
			t.watch.Tick(s.Session, f.now)
		}
	}
	return nil
}

// Silent says whether the host is known to be silent, and whether by this
// session of the guard. A host that isn't known isn't.
func (f *Fold) Silent(name rollout.Host, session string) (silent, bySession bool) {
	h := f.hosts[name]
	if h == nil || !h.silent {
		return false, false
	}
	return true, h.session == session
}

// Hosts calls yield for each host that has reported itself within Lookback,
// with whether any rollout watches it.
func (f *Fold) Hosts(yield func(name rollout.Host, watched bool) bool) {
	for name, h := range f.hosts {
		if f.now.Sub(h.reported) <= Lookback && !yield(name, f.watched(h)) {
			return
		}
	}
}
