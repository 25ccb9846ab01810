package notify

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// fold turns the bucket's records into events. It is pure: records and times go
// in, events come out.
type fold struct {
	rollouts map[rollout.ID]*tracked
	stop     subjects.Abort // the newest; zero where none was ever
	// marks are what has been said of each rollout that no record says.
	marks     map[rollout.ID]*marks
	heldAfter time.Duration
}

// marks are kept over restarts.
type marks struct {
	Waves int   `json:"waves,omitempty"` // that were said to be done
	Hold  *hold `json:"hold,omitempty"`
}

// tracked is what is known of one rollout. What is absent hasn't been read.
type tracked struct {
	record   *rollout.Record
	progress *rollout.Progress
	stepped  time.Time      // when the progress was written, by the broker's clock
	abort    subjects.Abort // the newest; zero where none was ever
}

func newFold(heldAfter time.Duration, m map[rollout.ID]*marks) *fold {
	if m == nil {
		m = make(map[rollout.ID]*marks)
	}
	return &fold{rollouts: make(map[rollout.ID]*tracked), marks: m, heldAfter: heldAfter}
}

// take folds one record of the kinds rollout, abort, stop and progress, and gives
// the event that it makes, if any. Records of each kind and name come in their
// order. What isn't readable makes none: a rollout's record that was written by
// hand is put back by the scheduler, which pauses it, and that is told.
func (f *fold) take(m bus.Msg) (Event, bool) {
	kind, name, err := subjects.ParseKey(m.Subject)
	if err != nil {
		return Event{}, false
	}
	if kind == subjects.KindStop {
		return f.takeStop(m)
	}
	id, err := rollout.ParseID("rollout", name)
	if err != nil {
		return Event{}, false
	}
	t := f.rollouts[id]
	if t == nil {
		t = &tracked{}
		f.rollouts[id] = t
	}
	switch kind {
	case subjects.KindRollout:
		return t.takeRecord(m)
	case subjects.KindAbort:
		return t.takeAbort(id, m)
	case subjects.KindProgress:
		t.takeProgress(m)
	}
	return Event{}, false
}

func (t *tracked) takeRecord(m bus.Msg) (Event, bool) {
	r, ok := decode[rollout.Record](m)
	if !ok {
		return Event{}, false
	}
	was := t.record
	t.record = r
	kind := transition(was, r)
	if kind == "" {
		return Event{}, false
	}
	e := event(kind, string(r.Spec.Name), m)
	e.Why, e.Actor = plain(r.Why), string(r.By)
	if r.Why == "started" || r.Why == "created" {
		e.Why = "" // the scheduler's words for what was said already
	}
	if kind == Resumed && r.Acknowledged > was.Acknowledged {
		e.Sequence = r.Acknowledged
	}
	t.describe(&e)
	return e, true
}

// transition says what it means that a rollout's record has become another; ""
// where that is no news. A freeze isn't: the abort that caused it was told.
func transition(was, is *rollout.Record) Kind {
	rollback := is.Spec.Rollback != ""
	switch {
	case was == nil && rollback && is.State == rollout.StatePending:
		return RollbackStarted
	case was == nil:
		return ""
	case is.State == was.State:
		if is.State == rollout.StateCompleted && is.Acknowledged > was.Acknowledged {
			return Resumed // as a layer
		}
		return ""
	}
	switch is.State {
	case rollout.StateRunning:
		switch {
		case was.State != rollout.StatePending:
			return Resumed
		case !rollback: // a rollback's start was told when it was asked for
			return Started
		}
	case rollout.StatePending: // it was held before its start
		return Resumed
	case rollout.StatePaused:
		return Paused
	case rollout.StateCompleted:
		if rollback {
			return RolledBack
		}
		return Completed
	case rollout.StateCancelled:
		return Cancelled
	case rollout.StateSuperseded:
		return Superseded
	}
	return ""
}

// takeAbort tells each abort that says something new of a rollout that may still
// tell hosts, and also one of a rollout that there isn't: whoever wrote that
// believes to have stopped something.
func (t *tracked) takeAbort(id rollout.ID, m bus.Msg) (Event, bool) {
	before := t.abort
	t.abort = subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
	repeats := before.Sequence > 0 && before.Why == t.abort.Why && (t.record == nil || before.Sequence > t.record.Acknowledged)
	if repeats || t.record != nil && !t.record.State.Live() && t.record.State != rollout.StateCompleted {
		return Event{}, false
	}
	e := event(Aborted, string(id), m)
	e.Rollout, e.Sequence = id, m.Sequence
	e.Why, e.Actor = plain(t.abort.Why), plain(t.abort.Actor)
	if len(t.abort.Evidence) <= maxEvidence {
		e.Evidence = t.abort.Evidence
	}
	t.describe(&e)
	if t.record != nil && t.record.State.Live() {
		e.State = rollout.StateFrozen // nothing of it commits any more, whatever its record still says
	}
	return e, true
}

func (f *fold) takeStop(m bus.Msg) (Event, bool) {
	before := f.stop
	f.stop = subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
	pressed := before.Sequence > 0 && !before.Released
	kind := Stopped
	switch {
	case f.stop.Released && !pressed, !f.stop.Released && pressed && f.stop.Why == before.Why:
		return Event{}, false
	case f.stop.Released:
		kind = Released
	}
	e := event(kind, "stop", m)
	e.Why, e.Actor, e.Sequence = plain(f.stop.Why), plain(f.stop.Actor), m.Sequence
	brake(&e)
	return e, true
}

func (t *tracked) takeProgress(m bus.Msg) {
	if p, ok := decode[rollout.Progress](m); ok {
		t.progress, t.stepped = p, m.Time
	}
}

// decode reads a record that the scheduler wrote, a newer one's too.
func decode[T any](m bus.Msg) (*T, bool) {
	v := new(T)
	if m.Header.Deleted() || m.Header.Get(subjects.HeaderTime) == "" || len(m.Data) > subjects.MaxBody {
		return nil, false
	}
	return v, json.Unmarshal(m.Data, v) == nil
}

// event begins the event that a record makes. A record makes one of a kind at
// most, so the id is nobody else's.
func event(k Kind, name string, m bus.Msg) Event {
	return Event{ID: fmt.Sprintf("%s.%s.%d", name, k, m.Sequence), Kind: k, Time: m.Time.UTC()}
}

const (
	maxText     = 1024     // bytes, of what somebody said
	maxEvidence = 16 << 10 // bytes
)

// plain makes what somebody wrote fit for a line: it may come from anybody who may
// write an abort, and goes into environments and chats.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return cut(strings.TrimSpace(s), maxText)
}

// cut shortens a text to so many bytes.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most -= len("…"); most > 0 && !utf8.RuneStart(s[most]); most-- {
	}
	return s[:most] + "…"
}
