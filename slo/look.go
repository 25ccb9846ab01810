package slo

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// looks is what an objective's looks from outside have come to.
type looks struct {
	heard    time.Time              // the last look that was conclusive
	outcome  Outcome                // of the last look; "" before the first
	why      string                 // in its words
	inARow   int                    // looks that came to the same
	failures int                    // of a gate, since the change began
	bad      map[field.Host]*member // hosts that the last look at them saw fail
}

// GateStanding is where an objective stands that is about more than single
// hosts, or that looks at hosts from outside.
type GateStanding struct {
	Outcome  Outcome   `json:"outcome,omitempty"` // of the last look
	Why      string    `json:"why,omitempty"`
	Heard    time.Time `json:"heard,omitzero"` // the last conclusive look
	Failures int       `json:"failures,omitempty"`
	Limit    int       `json:"limit"` // how many failures are tolerated
}

// Said takes what a look says of one host. Looked ends the look.
func (w *Watch) Said(host field.Host, objective field.ID, state State, output string, now time.Time) {
	m := w.at(host, now)
	i := w.objective(objective)
	if m == nil || i < 0 {
		return
	}
	j, s := w.objectives[i], &m.slots[i]
	switch {
	case s.done:
	case state != Fails:
		s.failing, s.output = false, ""
		delete(j.bad, host)
		w.pass(m, i, state)
	case !s.failing && s.AtRisk():
		w.fail(m, i, output)
		if j.Alert != nil { // it is said when it ends: time alone makes it count
			w.await(m, i)
			w.Advance(w.now)
			return
		}
		if j.bad == nil {
			j.bad = make(map[field.Host]*member)
		}
		j.bad[host] = m
	}
}

// Looked says that a look at an objective's hosts is complete, and what it came to
// as a whole: a success where it had an answer, whatever that was. Between two
// looks nobody knows how a host does: one comes to count when a look sees it
// fail that is at least the objective's `for` after the one that saw it fail first,
// with no gap between them that is longer than evidence may be old.
func (w *Watch) Looked(objective field.ID, outcome Outcome, why string, now time.Time) {
	w.Advance(now)
	i := w.objective(objective)
	if i < 0 {
		return
	}
	j := w.objectives[i]
	gap := w.now.Sub(j.heard) > j.Fresh()
	j.look(outcome, why, w.now)
	if outcome != Success {
		return
	}
	for _, m := range slices.SortedFunc(maps.Values(j.bad), func(a, b *member) int {
		return cmp.Or(a.slots[i].since.Compare(b.slots[i].since), cmp.Compare(a.host, b.host))
	}) {
		s := &m.slots[i]
		switch {
		case !s.failing || w.hosts[m.host] != m:
			delete(j.bad, m.host)
		case gap:
			s.since = w.now
		case w.now.Sub(s.since) >= j.failing():
			delete(j.bad, m.host)
			w.score(m, i, FailedSignal, s.since, s.output)
		}
	}
}

// Gate takes a look at an objective that is about all hosts of a role, or of the
// rollout where role is "". A failure counts, if it is news, once the rollout has
// changed one of them.
func (w *Watch) Gate(objective field.ID, role field.Word, outcome Outcome, why string, news bool, now time.Time) {
	w.Advance(now)
	i := w.objective(objective)
	if i < 0 {
		return
	}
	j := w.objectives[i]
	joined, changed := w.has(role)
	if !joined {
		return
	}
	j.look(outcome, why, w.now)
	if outcome != Failing || !changed || !news || j.Ratio != nil {
		return
	}
	if j.failures++; j.failures > j.Limit() {
		w.decideBy(j)
	}
}

// Heartbeat says that the alert which always fires was heard.
func (w *Watch) Heartbeat(objective field.ID, now time.Time) {
	w.Advance(now)
	if i := w.objective(objective); i >= 0 {
		w.objectives[i].heard = w.now
	}
}

// has says whether hosts of a role, or any where it is "", are the rollout's, and
// whether one of them has been changed.
func (w *Watch) has(role field.Word) (joined, changed bool) {
	for _, m := range w.hosts {
		if role == "" || m.role == role {
			joined = true
			if !m.told.IsZero() {
				return true, true
			}
		}
	}
	return joined, false
}

// Changed says whether the rollout has changed a host.
func (w *Watch) Changed(host field.Host) bool {
	m := w.hosts[host]
	return m != nil && !m.told.IsZero()
}

func (w *Watch) objective(id field.ID) int {
	return slices.IndexFunc(w.objectives, func(j *judged) bool { return j.Name == id })
}

// look notes what a look came to.
func (l *looks) look(outcome Outcome, why string, now time.Time) {
	if l.outcome != outcome {
		l.inARow = 0
	}
	l.outcome, l.why = outcome, short(why)
	l.inARow++
	if outcome == Success || outcome == Failing {
		l.heard = now
	}
}

// Limit is how many failures are tolerated, where there is a limit.
func (o *Objective) Limit() int {
	if o.FailureLimit == nil {
		return 0
	}
	return *o.FailureLimit
}

// unclear says why an objective that looks from outside can't be relied on now.
func (j *judged) unclear(now time.Time) string {
	stale := now.Sub(j.heard) > j.Fresh()
	switch {
	case !j.Signal() || j.NoData == NoDataPass:
	case j.Ratio != nil && j.outcome == Failing:
		return fmt.Sprintf("%s: the error budget of %s in %s burns too fast: %s", j.Name, j.Ratio.Target, j.Ratio.Over(), j.why)
	case j.Gate() && j.outcome == Failing && j.failures == 0:
		return fmt.Sprintf("%s: it fails already, whatever the change does: %s", j.Name, j.why)
	case j.Alert != nil && j.Alert.Watchdog != "" && stale:
		return fmt.Sprintf("%s: Alertmanager's alert %s, which always fires, hasn't been heard for longer than %s", j.Name, j.Alert.Watchdog, field.Duration(j.Fresh()))
	case j.Alert != nil:
	case j.outcome == "":
		return fmt.Sprintf("%s: Prometheus hasn't been asked yet: tsunamid's --prometheus says where it is", j.Name)
	case j.outcome == Errored && j.inARow > or(j.Asked().ConsecutiveErrorLimit, DefaultConsecutiveErrorLimit):
		return fmt.Sprintf("%s: Prometheus gave no answer %d times in a row: %s", j.Name, j.inARow, j.why)
	case j.outcome == Inconclusive && j.inARow > or(j.Asked().InconclusiveLimit, DefaultInconclusiveLimit):
		return fmt.Sprintf("%s: what Prometheus answers was inconclusive %d times in a row: %s", j.Name, j.inARow, j.why)
	case stale:
		return fmt.Sprintf("%s: no answer of Prometheus has said anything for longer than %s: %s", j.Name, field.Duration(j.Fresh()), j.why)
	}
	return ""
}

// standing shows the looks.
func (j *judged) standing() *GateStanding {
	if !j.Signal() {
		return nil
	}
	return &GateStanding{Outcome: j.outcome, Why: j.why, Heard: j.heard, Failures: j.failures, Limit: j.Limit()}
}
