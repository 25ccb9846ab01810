package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Past is what one host had been told of one variable at a moment, as the audit
// log has it.
type Past struct {
	Host     rollout.Host  `json:"host"`
	Variable rollout.Name  `json:"variable"`
	At       time.Time     `json:"at,omitzero"`
	Value    rollout.Value `json:"value,omitzero"` // absent where Missing says why
	Previous rollout.Value `json:"previous,omitzero"`
	Told     time.Time     `json:"told,omitzero"` // or, where it was removed, when that was told
	Rollout  rollout.ID    `json:"rollout,omitempty"`
	// Reason and Actor are empty where the log begins after the change.
	Reason string     `json:"reason,omitempty"`
	Actor  rollout.ID `json:"actor,omitempty"`
	// Confirmed says that the host had confirmed the value by then, ConfirmedAt
	// when it first did, which may have been later. ConfirmedUnknown says that
	// the evidence of that isn't kept any more.
	Confirmed        bool      `json:"confirmed"`
	ConfirmedAt      time.Time `json:"confirmedAt,omitzero"`
	ConfirmedUnknown bool      `json:"confirmedUnknown,omitempty"`
	Missing          Missing   `json:"missing,omitempty"`
	// Decommissioned is the record of the host's end, where that was before. The
	// value is what it had been told last.
	Decommissioned *AuditRecord `json:"decommissioned,omitempty"`
	// ByHand is the record by which somebody had overwritten or deleted the
	// host's document by hand, where nothing had put it right yet. Hosts don't
	// take such a document.
	ByHand *AuditRecord `json:"byHand,omitempty"`
	// Later is the next change of the variable on the host, or the host's end,
	// which names no variable.
	Later *AuditRecord `json:"later,omitempty"`
	// LogBegins is when the log's first record was made, where that matters:
	// where it is missing what was asked for.
	LogBegins time.Time `json:"logBegins,omitzero"`
}

// Missing says why there is no value.
type Missing string

// Why there is no value.
const (
	NoDocument Missing = "no_document" // the host had no document yet
	NotTold    Missing = "not_told"    // its document had other variables only
	Removed    Missing = "removed"     // it was told to do without the variable
	BeforeLog  Missing = "before_log"  // the audit log doesn't reach back so far
)

// skew is how far the clocks of the scheduler and the broker may differ where
// one tells where to look in records that bear the other's times.
const skew = time.Hour

// Past says what a host had been told of a variable at a moment, and what
// became of it; the zero moment is after all that is in the log, whatever the
// clocks of those who wrote it showed. It reads the audit log and the evidence, so it needs no
// scheduler and outlives the rollout's record. A host that the log has no
// record of at all is an *Error with the code NotFound.
func (c *Client) Past(ctx context.Context, host rollout.Host, variable rollout.Name, at time.Time) (*Past, error) {
	t := tale{past: &Past{Host: host, Variable: variable, At: at}}
	for m, err := range c.audited(ctx, []string{subjects.AuditSubject(subjects.KindDesired, string(host))}, time.Time{}) {
		if err != nil {
			return nil, err
		}
		if !t.hear(m) {
			break
		}
	}
	p := t.past
	begins := time.Time{}
	if !t.heard || t.incomplete() {
		var err error
		if begins, err = c.begins(ctx, subjects.AuditStream); err != nil {
			return nil, fmt.Errorf("audit: %w", c.noLog(err))
		}
	}
	if !t.heard {
		if begins.IsZero() {
			return nil, Errorf(NotFound, "host %s: not found: the audit log is empty", host)
		}
		return nil, Errorf(NotFound, "host %s: not found: the audit log, which begins on %s, has nothing about it", host, begins.Format(time.RFC3339))
	}
	switch {
	case t.incomplete():
		p.LogBegins = begins
		if p.Value.IsZero() {
			p.Missing = BeforeLog
		}
	case !t.document:
		p.Missing = NoDocument
	}
	if !p.Value.IsZero() {
		if err := c.confirmation(ctx, p, t.now.told, t.later); err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
	}
	return p, nil
}

// begins is when a stream's first message came; zero where it is empty.
func (c *Client) begins(ctx context.Context, stream string) (time.Time, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return time.Time{}, err
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return time.Time{}, nil
	}
	return state.FirstTime, nil
}

// standing is where a host stands with a variable.
type standing struct {
	value rollout.Value
	told  rollout.Told
	ended bool // the host is decommissioned
}

// tale is told by a host's records, one after the other, in their order.
type tale struct {
	past     *Past
	now      standing // as it was at the moment
	heard    bool     // any record
	owned    bool     // any record of the scheduler's
	document bool     // one of the scheduler's, by the moment
	unknown  bool     // the log has no beginning of the host: there were earlier records
	later    uint64   // generation of the next change of the variable, or 0
}

// incomplete says that the log doesn't hold all of the answer.
func (t *tale) incomplete() bool {
	return t.unknown && (t.past.Value.IsZero() && t.past.Missing == "" || !t.past.Value.IsZero() && t.past.Reason == "")
}

// hear takes a record; false says that the tale is told.
func (t *tale) hear(m bus.Msg) bool {
	p := t.past
	t.heard = true
	records := auditRecords(m)
	r := records[0]
	for _, each := range records {
		if each.Variable == p.Variable {
			r = each
		}
	}
	after := !p.At.IsZero() && r.Time.After(p.At)
	c, err := subjects.DecodeChange(p.Host, m.Header, m.Data)
	if err != nil {
		if !after {
			p.ByHand = &r
		}
		return true
	}
	if !t.owned {
		t.owned, t.unknown = true, c.Desired.Generation > 1 && c.Reason.Code != rollout.ByFirst
	}
	next := standing{t.now.value, t.now.told, c.Decommissioned}
	if !c.Decommissioned {
		next.value, next.told = c.Desired.Values[p.Variable], c.Desired.Told[p.Variable]
	}
	if !after {
		t.document, p.ByHand = true, nil
		t.become(c, next, &r)
		return true
	}
	if t.unknown && !t.document {
		return t.infer(c, next, &r)
	}
	if !next.differs(t.now) {
		return true
	}
	t.change(c, next, &r)
	return false
}

// change takes the next change after the moment.
func (t *tale) change(c *subjects.Change, next standing, r *AuditRecord) {
	if t.past.Later = r; !c.Decommissioned {
		r.Variable, r.Value = t.past.Variable, next.value // a new first document may be without it
		t.later = c.Desired.Generation
	}
}

func (s standing) differs(was standing) bool {
	return s.value != was.value || s.ended && !was.ended ||
		!s.value.IsZero() && (s.told.Generation != was.told.Generation || s.told.Rollout != was.told.Rollout)
}

// become takes a record of before the moment.
func (t *tale) become(c *subjects.Change, next standing, r *AuditRecord) {
	p, was := t.past, t.now
	changed := next.differs(was)
	t.now = next
	p.Decommissioned = nil
	if next.ended {
		p.Decommissioned = r
	}
	p.Missing = ""
	if next.value.IsZero() && !next.ended {
		p.Missing = NotTold
		if !p.Told.IsZero() && was.value.IsZero() {
			p.Missing = Removed // and so it has stayed
		}
	}
	if !changed || next.ended {
		return
	}
	p.Value, p.Previous = next.value, was.value
	p.Told, p.Rollout, p.Reason, p.Actor = time.Time{}, "", "", ""
	switch {
	case c.Variable == p.Variable, !next.value.IsZero() && next.told.Generation == c.Desired.Generation:
		p.Told, p.Rollout, p.Reason, p.Actor = c.Time, r.Rollout, r.Reason, c.Actor
		if !c.Previous.IsZero() {
			p.Previous = c.Previous
		}
		if next.value.IsZero() {
			p.Missing = Removed
		}
	case !next.value.IsZero():
		// The document was told it before the log begins.
		p.Told, p.Rollout = next.told.Time, next.told.Rollout
	}
}

// infer takes the first record of a log that begins after the moment; false
// says that the tale is told. A document carries when it was told what.
func (t *tale) infer(c *subjects.Change, next standing, r *AuditRecord) bool {
	p := t.past
	switch {
	case c.Decommissioned, c.Variable == p.Variable:
		t.change(c, next, r)
		return false
	case next.value.IsZero(), next.told.Time.After(p.At): // or between the two, which the log would not have
		return false
	}
	t.document, t.now = true, next
	p.Value, p.Told, p.Rollout = next.value, next.told.Time, next.told.Rollout
	return true
}

// confirmation finds out when the host first confirmed what it was told: with
// which of its reports. Those from the generation until on, if there is one,
// are about a later value.
func (c *Client) confirmation(ctx context.Context, p *Past, told rollout.Told, until uint64) error {
	begins, err := c.begins(ctx, subjects.EvidenceStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = nil
	}
	if err != nil {
		return err
	}
	if begins.IsZero() {
		p.ConfirmedUnknown = true
		return nil
	}
	// Evidence that begins later may hold a confirmation, but not the first.
	p.ConfirmedUnknown = begins.After(told.Time)
	reports := subjects.EvidenceOf(subjects.KindHost, string(p.Host))
	for m, err := range c.stored(ctx, subjects.EvidenceStream, []string{reports}, told.Time.Add(-skew)) {
		if err != nil {
			return err
		}
		var r rollout.Report
		if m.Header.Deleted() || json.Unmarshal(m.Data, &r) != nil {
			continue
		}
		if until > 0 && r.Generation >= until {
			break
		}
		if r.Confirms(p.Variable, p.Value, told) {
			p.Confirmed = p.At.IsZero() || !m.Time.After(p.At)
			if !p.ConfirmedUnknown {
				p.ConfirmedAt = m.Time
			}
			break
		}
	}
	return nil
}
