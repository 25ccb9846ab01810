package slo

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Watch judges one rollout by its objectives: it follows which of its hosts are
// healthy, failing or silent, and scores the first failure of each. It is a fold:
// the same calls with the same times give the same verdict at the same call.
// One goroutine owns it.
//
// Of several objectives each has an equal share of the mean of their alphas:
// the rollout is frozen when Σ E/bar reaches 1, with bar = objectives/α. Its
// expected value is at most that mean if the rollout does no harm.
type Watch struct {
	id         field.ID
	now        time.Time
	objectives []*judged
	strata     map[string]int
	groups     []*group
	hosts      map[field.Host]*member
	quiet      map[field.Host]*member // that are silent
	spent      map[field.Host]bool    // have left after they had failed
	pending    pending
	failed     []Failure // of changed hosts, the newest, at most mostFailures
	failures   int       // of changed hosts
	verdict    *Verdict
	note       func(objective field.ID, f Failure)
}

// judged is one objective and what speaks against the rollout in it.
type judged struct {
	*Objective
	*Evidence
	looks
	seen  int // of its hosts, were seen healthy
	share float64
}

// group counts the control of a stratum that is at risk in any objective, and
// those of it that are silent.
type group struct {
	name            string
	control, silent int
}

// member is one host of the rollout.
type member struct {
	host    field.Host
	role    field.Word
	stratum int
	told    time.Time // zero: it hasn't been
	silent  bool
	since   time.Time // it has been silent
	session string    // of the guard that noticed
	slots   []slot    // one for each objective
}

// slot is where a host stands with one objective.
type slot struct {
	Subject
	failing bool
	queued  bool // it stands in pending
	done    bool // it has failed: nothing that comes later counts
	since   time.Time
	output  string
}

const (
	mostFailures = 20  // that a verdict lists
	mostOutput   = 300 // bytes of what a host reported, in a verdict

	// A role is blind while this share of its control, and so many hosts at the
	// least, are silent together: a fault of telemetry, not of the change.
	blindShare = 0.2
	blindHosts = 3
)

// NewWatch begins to judge a rollout. Of a rollback objectiveOnly is true.
func NewWatch(id field.ID, objectives []*Objective, objectiveOnly bool, now time.Time) *Watch {
	w := &Watch{id: id, now: now, strata: make(map[string]int), hosts: make(map[field.Host]*member), quiet: make(map[field.Host]*member), spent: make(map[field.Host]bool)}
	weighed := 0
	for _, o := range objectives {
		if !o.Gate() {
			weighed++
		}
	}
	for _, o := range objectives {
		j := &judged{Objective: o, Evidence: NewEvidence(o, objectiveOnly, now)}
		if !o.Gate() {
			j.share = o.alpha() / float64(weighed)
		}
		w.objectives = append(w.objectives, j)
	}
	return w
}

// Objectives are those that the rollout is judged by.
func (w *Watch) Objectives() []*Objective {
	out := make([]*Objective, len(w.objectives))
	for i, j := range w.objectives {
		out[i] = j.Objective
	}
	return out
}

// Objective is one of them; nil for another's name.
func (w *Watch) Objective(id field.ID) *Objective {
	if i := w.objective(id); i >= 0 {
		return w.objectives[i].Objective
	}
	return nil
}

// Note makes the watch say every failure that it counts, of changed hosts and of
// the others, with the objective that it counts in: for a replay.
func (w *Watch) Note(note func(objective field.ID, f Failure)) { w.note = note }

// Plan says when the ramp begins and for how long it is planned to run.
func (w *Watch) Plan(begins time.Time, length time.Duration) {
	for _, j := range w.objectives {
		j.advance(w.now)
		j.Plan(begins, length)
	}
}

// Settle says that the rollout has completed: from now on its hosts aren't judged
// by the steady budget any more, which was for it and not for ever.
func (w *Watch) Settle(now time.Time) {
	w.Advance(now)
	for _, j := range w.objectives {
		j.settle(w.now)
	}
}

// Join makes a host one of the rollout's, in a stratum by its name: a role, or a
// part of one. It isn't watched before it is seen healthy. told is when the
// rollout told it before it was watched; zero where it hasn't. One that failed and
// left doesn't come back: a host has one failure in a rollout.
func (w *Watch) Join(host field.Host, role field.Word, labels map[field.Word]field.Word, stratum string, told time.Time) {
	if w.hosts[host] != nil || w.spent[host] {
		return
	}
	i, ok := w.strata[stratum]
	if !ok {
		i = len(w.groups)
		w.strata[stratum] = i
		w.groups = append(w.groups, &group{name: stratum})
		for _, j := range w.objectives {
			j.Stratum(w.now)
		}
	}
	m := &member{host: host, role: role, stratum: i, told: told, slots: make([]slot, len(w.objectives))}
	for i, j := range w.objectives {
		j.Together(&m.slots[i].Subject, string(labels[j.domain()]))
	}
	w.hosts[host] = m
}

// Stratum is the stratum of a host that has joined.
func (w *Watch) Stratum(host field.Host) (string, bool) {
	m := w.hosts[host]
	if m == nil {
		return "", false
	}
	return w.groups[m.stratum].name, true
}

// Told says that the rollout told the host: from now on it is treated. One that
// is failing or silent just then has begun to fail before: it stays with the control
// until that has come to count there, or is over.
func (w *Watch) Told(host field.Host, now time.Time) {
	m := w.at(host, now)
	if m == nil || !m.told.IsZero() {
		return
	}
	w.change(m, func() { m.told = w.now })
	w.treat(m)
}

// treat moves a host that was told to the treated, where it is well.
func (w *Watch) treat(m *member) {
	if m.told.IsZero() || m.silent {
		return
	}
	for i, j := range w.objectives {
		if s := &m.slots[i]; !s.failing {
			w.change(m, func() { j.Treat(&s.Subject, w.now) })
		}
	}
}

// Leave takes a host out of the rollout.
func (w *Watch) Leave(host field.Host, now time.Time) {
	m := w.at(host, now)
	if m == nil {
		return
	}
	w.change(m, func() {
		for i, j := range w.objectives {
			s := &m.slots[i]
			if s.AtRisk() || s.done {
				j.seen--
			}
			j.Leave(&s.Subject, w.now)
		}
	})
	if slices.ContainsFunc(m.slots, func(s slot) bool { return s.done }) {
		w.spent[host] = true
	}
	delete(w.hosts, host)
	delete(w.quiet, host)
}

// State is what a check says.
type State uint8

// The states of a check. One that passes, but hasn't for long enough yet, doesn't
// fail, and doesn't show that its host is healthy either.
const (
	Fails State = iota
	PassesYet
	Passes
)

// Check takes what a check of a host says. It is harmless to say it again.
func (w *Watch) Check(host field.Host, check field.ID, state State, output string, now time.Time) {
	m := w.at(host, now)
	if m == nil {
		return
	}
	for i, j := range w.objectives {
		s := &m.slots[i]
		if j.Signal() || j.Check != check || s.done {
			continue
		}
		switch {
		case state != Fails:
			s.failing, s.output = false, ""
			w.pass(m, i, state)
		case !s.failing && s.AtRisk():
			w.fail(m, i, output)
			w.await(m, i)
		}
	}
	w.Advance(w.now)
}

// fail takes that a host has begun to fail.
func (w *Watch) fail(m *member, objective int, output string) {
	s := &m.slots[objective]
	s.failing, s.since, s.output = true, w.now, short(output)
}

// await lets a failure count by itself if it lasts.
func (w *Watch) await(m *member, objective int) {
	if s := &m.slots[objective]; !s.queued { // a host that flaps stands there once
		s.queued = true
		w.pending.add(due{w.now.Add(w.objectives[objective].failing()), m.host, objective})
	}
}

// pass takes that a host doesn't fail: from when it is seen healthy it is
// watched.
func (w *Watch) pass(m *member, objective int, state State) {
	j, s := w.objectives[objective], &m.slots[objective]
	if state == Passes && !s.AtRisk() && !m.silent {
		j.seen++
		w.change(m, func() { j.Enter(&s.Subject, m.stratum, !m.told.IsZero(), w.now) })
	}
	w.treat(m)
}

// Enact says that a host gave up making the rollout's value true.
func (w *Watch) Enact(host field.Host, output string, now time.Time) {
	m := w.at(host, now)
	if m == nil || m.told.IsZero() {
		return
	}
	for i := range m.slots {
		w.score(m, i, FailedEnact, w.now, short(output))
	}
}

// Silent says that a host's heartbeats have stopped, as a guard noticed that was
// connected all the while; session names the time for which it has been.
func (w *Watch) Silent(host field.Host, session string, now time.Time) {
	m := w.at(host, now)
	if m == nil || m.silent && m.session == session {
		return
	}
	w.change(m, func() { m.silent, m.since, m.session = true, w.now, session })
	w.quiet[host] = m
}

// Heard says that a silent host is back.
func (w *Watch) Heard(host field.Host, now time.Time) {
	if m := w.at(host, now); m != nil && m.silent {
		w.change(m, func() { m.silent = false })
		delete(w.quiet, host)
		w.treat(m)
	}
}

// Tick says that the guard whose session it is has been connected until now. It
// is what makes silence a failure: nothing else can say that a host wasn't
// heard.
func (w *Watch) Tick(session string, now time.Time) {
	w.Advance(now)
	var quiet []*member
	for _, m := range w.quiet {
		if m.session == session && m.atRisk() {
			quiet = append(quiet, m)
		}
	}
	slices.SortFunc(quiet, func(a, b *member) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.host, b.host)) })
	for _, m := range quiet {
		if w.groups[m.stratum].blind() {
			m.since = w.now // its grace begins when the role is seen again
			continue
		}
		for i, j := range w.objectives {
			if w.now.Sub(m.since) >= j.silence() {
				w.score(m, i, FailedSilence, m.since, "")
			}
		}
	}
}

// at finds a host and lets time pass until now.
func (w *Watch) at(host field.Host, now time.Time) *member {
	w.Advance(now)
	return w.hosts[host]
}

// Advance lets time pass, as every other method does: checks that have failed for
// long enough count, each as of that moment.
func (w *Watch) Advance(now time.Time) {
	for d, ok := w.pending.pop(now); ok; d, ok = w.pending.pop(now) {
		m := w.hosts[d.host]
		if m == nil {
			continue
		}
		s := &m.slots[d.objective]
		s.queued = false
		if !s.failing {
			continue
		}
		at := s.since.Add(w.objectives[d.objective].failing())
		if at.After(d.at) { // it passed in between
			s.queued = true
			w.pending.add(due{at, d.host, d.objective})
			continue
		}
		w.now = later(w.now, at)
		w.score(m, d.objective, FailedCheck, s.since, s.output)
	}
	w.now = later(w.now, now)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// score counts a host's first failure in an objective.
func (w *Watch) score(m *member, objective int, how How, since time.Time, output string) {
	j, s := w.objectives[objective], &m.slots[objective]
	s.failing, s.output = false, ""
	if !s.AtRisk() {
		return
	}
	known := slices.ContainsFunc(m.slots, func(o slot) bool { return o.done })
	w.change(m, func() { j.Fail(&s.Subject, w.now) })
	s.done = true
	if !m.atRisk() {
		delete(w.quiet, m.host)
	}
	treated := s.treated
	f := Failure{Host: m.host, Role: m.role, How: how, Treated: treated, Told: m.told, Time: since, Output: output}
	if w.note != nil {
		w.note(j.Name, f)
	}
	if treated && !known {
		w.failures++
		if len(w.failed) == mostFailures {
			w.failed = slices.Delete(w.failed, 0, 1)
		}
		w.failed = append(w.failed, f)
	}
	w.decide()
}

// change keeps a stratum's counts right over what happens to one of its hosts.
func (w *Watch) change(m *member, do func()) {
	g := w.groups[m.stratum]
	g.count(m, -1)
	do()
	g.count(m, 1)
}

func (g *group) count(m *member, sign int) {
	if !m.told.IsZero() || !m.atRisk() {
		return
	}
	g.control += sign
	if m.silent {
		g.silent += sign
	}
}

// blind says whether so much of the control is silent that it can't be the
// change.
func (g *group) blind() bool {
	return g.silent >= blindHosts && float64(g.silent) >= blindShare*float64(g.control)
}

func (m *member) atRisk() bool {
	return slices.ContainsFunc(m.slots, func(s slot) bool { return s.AtRisk() })
}

// AtRisk says whether the host is watched.
func (w *Watch) AtRisk(host field.Host) bool {
	m := w.hosts[host]
	return m != nil && m.atRisk()
}

// Due is when something comes to count if nothing happens until then; the zero
// time is never.
func (w *Watch) Due() time.Time { return w.pending.first() }

// Unclear says in plain words why the evidence can't be relied on now; "" where
// it can.
func (w *Watch) Unclear() string {
	for _, g := range w.groups {
		if g.blind() {
			return fmt.Sprintf("%d of %d hosts of %s that aren't changed are silent together, as if nobody could hear them", g.silent, g.control, g.name)
		}
	}
	for _, j := range w.objectives {
		if why := j.unclear(w.now); why != "" {
			return why
		}
		if j.seen == 0 && len(w.hosts) > 0 && j.NoData != NoDataPass && !j.Gate() {
			by := "to pass the check " + string(j.Check)
			if j.Signal() {
				by = "healthy"
			}
			return fmt.Sprintf("%s: none of its %d hosts has been seen %s", j.Name, len(w.hosts), by)
		}
	}
	return ""
}

// Fresh is how old evidence may be, by the strictest of the objectives.
func (w *Watch) Fresh() time.Duration {
	fresh := time.Duration(math.MaxInt64)
	for _, j := range w.objectives {
		fresh = min(fresh, j.Objective.Fresh())
	}
	return fresh
}

// short bounds what a host reported.
func short(s string) string {
	if len(s) <= mostOutput {
		return s
	}
	return strings.ToValidUTF8(s[:mostOutput], "") + "…" // a copy: it doesn't hold on to all of s
}
