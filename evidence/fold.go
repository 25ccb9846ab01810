package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Lookback is how old what is known of a host may be when a rollout begins to
// be watched: three times the period in which agents report themselves.
const Lookback = 36 * time.Hour

// Message is one message of the evidence stream.
type Message struct {
	Subject  string
	Header   subjects.Header
	Data     []byte
	Sequence uint64
	Time     time.Time // when the broker stored it
}

// Fold is what the messages so far come to. It is owned by one goroutine.
type Fold struct {
	now        time.Time
	last       time.Time // of the newest message: now, unless the clock has gone back
	sequence   uint64
	hosts      map[rollout.Host]*host
	objectives map[rollout.ID]*slo.Objective
	rollouts   map[rollout.ID]*trial
	ordered    []*trial // by id
	signals    map[rollout.ID]*signals
	alerts     alerts
	instead    []*slo.Objective
	unread     int
	note       func(id, objective rollout.ID, f slo.Failure)
}

// New makes an empty fold.
func New() *Fold {
	return &Fold{
		hosts: make(map[rollout.Host]*host), objectives: make(map[rollout.ID]*slo.Objective), rollouts: make(map[rollout.ID]*trial),
		signals: make(map[rollout.ID]*signals), alerts: newAlerts(),
	}
}

// Instead makes the fold judge every rollout by these objectives, in place of
// those that it names: for a replay, before the first message.
func (f *Fold) Instead(objectives []*slo.Objective) { f.instead = objectives }

// Note makes the fold say every failure that it counts, of changed hosts and of
// the others: for a replay, before the first message.
func (f *Fold) Note(note func(id, objective rollout.ID, f slo.Failure)) { f.note = note }

// Seed says how an objective stood before the first message.
func (f *Fold) Seed(o *slo.Objective) { f.objectives[o.Name] = o }

// Recall takes a record that the bucket keeps of an objective, the oldest first, for
// a fold that begins at a time: one that is newer comes with the stream.
func (f *Fold) Recall(m Message, begins time.Time) {
	if o, err := DecodeObjective(m.Header, m.Data); err == nil && !m.Time.After(begins) {
		f.Seed(o)
	}
}

// Sequence is that of the newest message that was taken, and Now its time.
func (f *Fold) Sequence() uint64 { return f.sequence }

// Now is the time of the newest message.
func (f *Fold) Now() time.Time { return f.now }

// Unread counts messages that couldn't be read.
func (f *Fold) Unread() int { return f.unread }

// errForeign says that a record isn't its owner's; it changes nothing.
var errForeign = errors.New("not written by its owner")

// Take takes the next message and returns the verdicts that fall with it, as a
// rule none. The error says that it couldn't be read; it changes nothing then,
// but for the time.
func (f *Fold) Take(m Message) ([]slo.Verdict, error) {
	f.sequence, f.last = m.Sequence, m.Time
	if m.Time.After(f.now) {
		f.now = m.Time
	}
	for _, t := range f.ordered {
		t.watch.Advance(f.now)
	}
	kind, name, err := subjects.ParseEvidence(m.Subject)
	if err == nil {
		err = f.take(kind, name, m)
	}
	if err != nil {
		f.unread++
		err = fmt.Errorf("evidence %d on %.300s: %w", m.Sequence, m.Subject, err)
	}
	return f.verdicts(), err
}

func (f *Fold) take(kind subjects.Kind, name string, m Message) error {
	if kind == subjects.KindSilence && m.Subject == subjects.Listening {
		return f.listening(m)
	}
	switch kind {
	case subjects.KindHealth, subjects.KindSilence, subjects.KindHost, subjects.KindDesired:
		host, err := rollout.ParseHost(name)
		if err != nil {
			return err
		}
		switch kind {
		case subjects.KindHealth:
			return f.health(host, m)
		case subjects.KindSilence:
			return f.silence(host, m)
		case subjects.KindHost:
			return f.report(host, m)
		}
		return f.desired(host, m)
	}
	id, err := rollout.ParseID(string(kind), name)
	if err != nil {
		return err
	}
	switch kind {
	case subjects.KindObjective:
		return f.objective(id, m)
	case subjects.KindRollout:
		return f.rollout(id, m)
	case subjects.KindAbort:
		f.abort(id, m)
		return nil
	case subjects.KindSignal:
		return f.signal(id, m)
	case subjects.KindAlert:
		return f.alertsReceived(m)
	}
	return fmt.Errorf("%q isn't a kind of evidence", kind)
}

// verdicts are those that fell with this message.
func (f *Fold) verdicts() (out []slo.Verdict) {
	for _, t := range f.ordered {
		if v := t.watch.Verdict(); v != nil && t.verdict == nil {
			w := *v
			w.Sequence = f.sequence
			t.verdict = &w
			f.otherChanges(t)
			out = append(out, w)
		}
	}
	return out
}

// lenient decodes JSON of a writer that may be newer: fields that aren't known
// are left aside.
func lenient[T any](data []byte) (*T, error) {
	if len(data) > subjects.MaxBody {
		return nil, fmt.Errorf("%d bytes are more than %d", len(data), subjects.MaxBody)
	}
	v := new(T)
	return v, json.Unmarshal(data, v)
}

// Knows says whether the host has reported itself.
func (f *Fold) Knows(name rollout.Host) bool { return f.hosts[name] != nil }

// Rollouts are the ids of the rollouts that are watched.
func (f *Fold) Rollouts() []rollout.ID {
	return slices.Sorted(maps.Keys(f.rollouts))
}

// Due is when something comes to count if no message comes until then; the zero
// time is never. A silence comes to count by the guard's word alone.
func (f *Fold) Due() time.Time {
	var first time.Time
	for _, t := range f.ordered {
		if at := t.watch.Due(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
