package evidence

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// trial is one rollout that is watched.
type trial struct {
	id        rollout.ID
	spec      rollout.Spec
	state     rollout.State
	created   time.Time
	selection *rollout.Selection
	watch     *slo.Watch
	unknown   []rollout.ID // objectives that it names and that aren't there
	// acknowledged is the newest abort that an operator has acknowledged: with a
	// later one the evidence is begun anew.
	acknowledged uint64
	planned      bool
	verdict      *slo.Verdict
	aborted      bool // an abort in the bucket carries the verdict
	told         map[rollout.Host]telling
	moves        map[rollout.Host]int // how often it was placed elsewhere
}

// telling is when the rollout told a host, and with which generation; 0 where
// only the host has said so.
type telling struct {
	at         time.Time
	generation uint64
	// apart says that the rollout isn't judged by the host all the same: it ran the
	// value before, or a pin held it then or holds it now.
	apart bool
}

// objective takes an objective's record. Rollouts that are watched go by it as
// it was when they began to be.
func (f *Fold) objective(id rollout.ID, m Message) error {
	if m.Header.Deleted() {
		delete(f.objectives, id)
		return nil
	}
	o, err := DecodeObjective(m.Header, m.Data)
	if err == nil && o.Name != id {
		err = errForeign
	}
	if err == nil {
		f.objectives[id] = o
	}
	return err
}

// DecodeObjective reads an objective's record, which only the scheduler writes.
func DecodeObjective(h subjects.Header, data []byte) (*slo.Objective, error) {
	if h.Get(subjects.HeaderTime) == "" {
		return nil, errForeign
	}
	o, err := lenient[slo.Objective](data)
	if err == nil {
		err = o.Validate()
	}
	return o, err
}

// rollout takes a rollout's record.
func (f *Fold) rollout(id rollout.ID, m Message) error {
	r, err := DecodeRecord(m.Header, m.Data)
	if err != nil {
		return err
	}
	f.replaced(r)
	t := f.rollouts[id]
	if !Watched(r) && (f.instead == nil || !goesOn(r)) {
		f.forget(t)
		return nil
	}
	selection, err := r.Spec.Selection()
	if err != nil {
		return err
	}
	if t == nil {
		t = &trial{id: id, selection: selection, acknowledged: r.Acknowledged, told: make(map[rollout.Host]telling), moves: make(map[rollout.Host]int)}
		t.spec, t.state, t.created = r.Spec, r.State, r.Created
		f.rollouts[id] = t
		i, _ := slices.BinarySearchFunc(f.ordered, t, func(a, b *trial) int { return cmp.Compare(a.id, b.id) })
		f.ordered = slices.Insert(f.ordered, i, t)
		f.begin(t)
	} else {
		f.change(t, r, selection)
	}
	if !t.planned && !r.Clock.IsZero() {
		length := r.Length
		if r.Planned.After(r.Clock) { // by the wall clock, closed times included
			length = r.Planned.Sub(r.Clock)
		}
		if length == 0 {
			length = r.Spec.Ramp.Length()
		}
		t.planned = true
		t.watch.Plan(f.now, length)
	}
	if r.State == rollout.StateCompleted {
		t.watch.Settle(f.now)
	}
	return nil
}

// Watched says whether a rollout is watched: one that names objectives, from its
// creation until it has ended; a completed one as a layer.
func Watched(r *rollout.Record) bool {
	return r.Spec.Guard != nil && len(r.Spec.Guard.Objectives) > 0 && goesOn(r)
}

func goesOn(r *rollout.Record) bool { return r.State.Live() || r.State == rollout.StateCompleted }

// DecodeRecord reads a rollout's record, which only the scheduler writes, and puts
// back where somebody else has.
func DecodeRecord(h subjects.Header, data []byte) (*rollout.Record, error) {
	if h.Deleted() || h.Get(subjects.HeaderTime) == "" {
		return nil, errForeign
	}
	return lenient[rollout.Record](data)
}

func (f *Fold) forget(t *trial) {
	if t != nil {
		delete(f.rollouts, t.id)
		f.ordered = slices.DeleteFunc(f.ordered, func(o *trial) bool { return o == t })
	}
}

// change takes what is new in a rollout's record. Before its start it is another
// rollout if its document is another; later only whom it selects can change.
func (f *Fold) change(t *trial, r *rollout.Record, selection *rollout.Selection) {
	was := t.spec
	t.spec, t.state, t.selection = r.Spec, r.State, selection
	started := r.Theta != nil || !r.Clock.IsZero()
	switch {
	case r.Acknowledged > t.acknowledged:
		t.acknowledged = r.Acknowledged
		f.begin(t)
	case !started && !reflect.DeepEqual(was, r.Spec), !reflect.DeepEqual(was.Guard, r.Spec.Guard):
		f.begin(t)
	case was.Where != r.Spec.Where, !slices.Equal(was.Exclude, r.Spec.Exclude), !reflect.DeepEqual(was.Limits, r.Spec.Limits):
		f.placeAll(t)
	}
}

// replaced forgets the layers that a rollout replaces: those that one covers which
// has completed after them, and the one that a rollback takes back.
func (f *Fold) replaced(r *rollout.Record) {
	covers := r.State == rollout.StateCompleted && r.Spec.Covers()
	for _, t := range slices.Clone(f.ordered) {
		if t.spec.Variable != r.Spec.Variable || t.id == r.Spec.Name || t.state != rollout.StateCompleted {
			continue
		}
		if t.id == r.Spec.Rollback || covers && t.created.Before(r.Created) {
			f.forget(t)
		}
	}
}

// begin begins to watch a rollout, or begins anew.
func (f *Fold) begin(t *trial) {
	objectives := f.instead
	t.unknown = nil
	if objectives == nil {
		for _, id := range t.spec.Guard.Objectives {
			if o := f.objectives[id]; o != nil {
				objectives = append(objectives, o)
			} else {
				t.unknown = append(t.unknown, id)
			}
		}
	}
	t.watch = slo.NewWatch(t.id, objectives, t.spec.Rollback != "", f.now)
	if f.note != nil {
		t.watch.Note(func(objective rollout.ID, failure slo.Failure) { f.note(t.id, objective, failure) })
	}
	t.verdict, t.planned, t.aborted = nil, false, false
	f.placeAll(t)
	f.firesAlready(t)
}

// placeAll makes every host that is known the rollout's, if it is.
func (f *Fold) placeAll(t *trial) {
	for _, name := range sortedKeys(f.hosts) { // in one order: strata are numbered by it
		if h := f.hosts[name]; f.now.Sub(h.reported) <= Lookback {
			f.place(t, h)
		}
	}
}

// place makes a host one of the rollout's, if it is. One whose role or labels
// put it elsewhere now leaves and comes back, unless it is treated: it stays
// where it was then.
func (f *Fold) place(t *trial, h *host) {
	group, ok := t.selection.Group(h.name, h.role, h.labels)
	told, treated := t.told[h.name]
	if was, joined := t.watch.Stratum(h.name); joined {
		if treated || ok && (was == group || t.moves[h.name] >= mostMoves) {
			return
		}
		t.moves[h.name]++
		t.watch.Leave(h.name, f.now)
	}
	switch {
	case told.apart:
		return
	case treated && told.generation > 0 && h.gaveUp[t.spec.Variable] >= told.generation:
		return // its failure was counted before the evidence was begun anew
	case treated: // it was told before the evidence was begun anew
	case !ok || t.spec.Rollback != "", t.apart(h):
		return
	}
	f.join(t, h, group, told.at)
}

// mostMoves bounds how often a host's report may put it into another stratum of a
// rollout: each is made for good.
const mostMoves = 8

func (f *Fold) join(t *trial, h *host, group string, told time.Time) {
	if group == "" {
		group = string(h.role)
	}
	t.watch.Join(h.name, h.role, h.labels, group, told)
	if h.silent {
		t.watch.Silent(h.name, h.session, f.now)
	}
	f.checks(t, h)
}

// apart says whether the host has nothing to do with the rollout: a pin holds it,
// or it runs the value without it.
func (t *trial) apart(h *host) bool {
	return slices.Contains(h.pinned, t.spec.Variable) || t.has(h)
}

// believes says whether a host's own word, that the rollout told it, counts: not
// that of a host that isn't one of the rollout's. A rollback knows its hosts only
// by what they are told.
func (t *trial) believes(name rollout.Host) bool {
	_, joined := t.watch.Stratum(name)
	return joined || t.spec.Rollback != ""
}

// has says whether the host runs the rollout's value without it.
func (t *trial) has(h *host) bool {
	if t.spec.Remove {
		return h.actual[t.spec.Variable].IsZero()
	}
	return t.spec.To.Matches(h.actual[t.spec.Variable])
}

// told takes that the rollout told a host. A rollback's hosts are those that it
// tells.
func (f *Fold) told(t *trial, h *host) {
	if _, already := t.told[h.name]; already {
		return
	}
	tell := telling{at: f.now}
	if t.spec.Rollback != "" {
		f.join(t, h, string(h.role), time.Time{})
	} else if _, joined := t.watch.Stratum(h.name); !joined {
		tell.apart = t.apart(h)
	}
	t.told[h.name] = tell
	t.watch.Told(h.name, f.now)
}

// abort takes an abort's record: whether it is the guard's own, of the verdict
// that fell here.
func (f *Fold) abort(id rollout.ID, m Message) {
	if t := f.rollouts[id]; t != nil && t.verdict != nil && Carries(m.Header, m.Data, t.verdict) {
		t.aborted = true
	}
}

// Carries says whether an abort's record is the guard's, of this verdict.
func Carries(h subjects.Header, data []byte, v *slo.Verdict) bool {
	a := subjects.DecodeAbort(h, data, 0)
	carried, err := lenient[slo.Verdict](a.Evidence)
	return err == nil && a.Actor == string(subjects.SloGuard) && carried.Rollout == v.Rollout && carried.Sequence == v.Sequence
}

// Pending are the verdicts that no abort in the bucket carries yet, as far as
// the stream has said.
func (f *Fold) Pending() (out []slo.Verdict) {
	for _, t := range f.ordered {
		if t.verdict != nil && !t.aborted {
			out = append(out, *t.verdict)
		}
	}
	return out
}

// View is how a rollout stands with the guard.
type View struct {
	// Unclear says in plain words why the evidence can't be relied on now, or that
	// it has spoken; "" where all is well.
	Unclear string
	// Fresh is how old evidence may be.
	Fresh     time.Duration
	Standings []slo.Standing
}

// View shows a rollout that is watched. ok is false for another.
func (f *Fold) View(id rollout.ID) (v View, ok bool) {
	t := f.rollouts[id]
	if t == nil {
		return v, false
	}
	v.Unclear, v.Fresh = f.Clear(id)
	v.Standings = t.watch.Standings()
	return v, true
}

// mostBack is by how much the broker's clock may go back, as when another server
// leads the stream, without that mattering.
const mostBack = 5 * time.Second

// Clear is what View says without the standings, which cost more.
func (f *Fold) Clear(id rollout.ID) (unclear string, fresh time.Duration) {
	t := f.rollouts[id]
	switch {
	case t == nil:
		return "it isn't watched", 0
	case len(f.hosts) == 0:
		return "no host has reported itself yet", t.watch.Fresh()
	case f.now.Sub(f.last) > mostBack:
		return fmt.Sprintf("the broker's clock has gone back by %s: nothing can come to count until it has caught up", f.now.Sub(f.last).Round(time.Second)), t.watch.Fresh()
	case len(t.unknown) > 0:
		return fmt.Sprintf("there is no objective %s", t.unknown[0]), t.watch.Fresh()
	case t.verdict != nil:
		return fmt.Sprintf("the evidence against it suffices (%s of %s, at sequence %d)", t.verdict.Kind, t.verdict.Objective, t.verdict.Sequence), t.watch.Fresh()
	}
	return t.watch.Unclear(), t.watch.Fresh()
}

// otherChanges adds to a verdict whether the hosts that failed had been told
// something else as well, shortly before.
func (f *Fold) otherChanges(t *trial) {
	n := 0
	by := make(map[string]bool)
	for _, failure := range t.verdict.Failed {
		h := f.hosts[failure.Host]
		if h == nil || h.changedBy == t.id || !h.changed.After(failure.Told) {
			continue
		}
		n++
		by[cmp.Or(string(h.changedBy), "a pin or an operator")] = true
	}
	if n == 0 {
		t.verdict.RuledOut = append(t.verdict.RuledOut, "not another change: none of the failed hosts has been told anything else since")
		return
	}
	t.verdict.RuledOut = append(t.verdict.RuledOut, fmt.Sprintf("another change isn't ruled out: %d of them were told something else since, by %s", n, strings.Join(sortedKeys(by), ", ")))
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
