package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// AuditFilter says which audit records to read. The zero filter is all of
// them.
type AuditFilter struct {
	Host     rollout.Host
	Variable rollout.Name // changes of this variable's value on hosts, and of the variable itself
	Rollout  rollout.ID   // what this rollout told, and what was done with it
	Since    time.Time    // when it was done, not when it came into the log
	Kinds    []subjects.Kind
}

// patterns are the audit subjects to read; nil means every one. What subjects
// can't say, matches does.
func (f AuditFilter) patterns() []string {
	kinds := f.Kinds
	if len(kinds) == 0 {
		kinds = subjects.Audited
	}
	var out []string
	for _, k := range kinds {
		switch {
		case f.Host != "":
			if k == subjects.KindDesired || k == subjects.KindPin {
				out = append(out, subjects.AuditSubject(k, string(f.Host)))
			}
			if k == subjects.KindJoin {
				out = append(out, subjects.AuditJoinHost(f.Host))
			}
		case f.Rollout != "" && (k == subjects.KindRollout || k == subjects.KindAbort):
			out = append(out, subjects.AuditSubject(k, string(f.Rollout)))
		case f.Rollout != "" && k != subjects.KindDesired:
		case f.Variable != "" && k == subjects.KindVariable:
			out = append(out, subjects.AuditSubject(k, string(f.Variable)))
		default:
			out = append(out, subjects.AuditPattern(k))
		}
	}
	return out
}

func (f AuditFilter) matches(r AuditRecord) bool {
	return (f.Rollout == "" || r.Rollout == f.Rollout) &&
		(f.Variable == "" || r.Variable == f.Variable) &&
		(f.Since.IsZero() || !r.Time.Before(f.Since))
}

// Audit yields the audit records that the filter matches, as far as they are
// in the log when it is called, oldest first. Every change is there, what
// nobody can read too: its Reason then says that it was written by hand. To a
// client with credentials, who is in a fleet with identities, it says of what
// bears no seal that its actor is unproven; whether seals are good is Verify's
// to say. An error ends the sequence. It needs no scheduler.
func (c *Client) Audit(ctx context.Context, f AuditFilter) iter.Seq2[AuditRecord, error] {
	return func(yield func(AuditRecord, error) bool) {
		patterns := f.patterns()
		if len(patterns) == 0 {
			return // the filter can match nothing
		}
		for m, err := range c.audited(ctx, patterns, f.Since) {
			if err != nil {
				yield(AuditRecord{}, err)
				return
			}
			for _, r := range auditRecords(m) {
				if c.credentials != nil {
					unproven(&r, m)
				}
				if f.matches(r) && !yield(r, nil) {
					return
				}
			}
		}
	}
}

// audited is stored of the audit log.
func (c *Client) audited(ctx context.Context, patterns []string, since time.Time) iter.Seq2[bus.Msg, error] {
	return func(yield func(bus.Msg, error) bool) {
		for m, err := range c.stored(ctx, subjects.AuditStream, patterns, since) {
			if err != nil {
				yield(bus.Msg{}, fmt.Errorf("audit: %w", c.noLog(err)))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// noLog says in plain words that there is no audit log, where err says that.
func (c *Client) noLog(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Errorf(Unavailable, "there is no audit log at %s: has tsunamid been started there?", c.url())
	}
	return err
}

// stored yields the messages on these subjects that came into a stream at
// since or later and are in it when it is called, in stream order. An error
// ends the sequence.
func (c *Client) stored(ctx context.Context, stream string, patterns []string, since time.Time) iter.Seq2[bus.Msg, error] {
	return func(yield func(bus.Msg, error) bool) {
		start, err := bus.SequenceSince(ctx, c.js, stream, since)
		if err != nil {
			yield(bus.Msg{}, err)
			return
		}
		for m, err := range c.storedFrom(ctx, stream, patterns, start) {
			if !yield(m, err) {
				return
			}
		}
	}
}

// storedFrom is stored from a sequence on.
func (c *Client) storedFrom(ctx context.Context, stream string, patterns []string, start uint64) iter.Seq2[bus.Msg, error] {
	return func(yield func(bus.Msg, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		messages, err := bus.Consume(ctx, c.js, stream, bus.ConsumeOptions{Subjects: patterns, Start: start})
		if err != nil {
			yield(bus.Msg{}, err)
			return
		}
		for m := range messages {
			if m.Subject == "" || !yield(m, nil) {
				return
			}
		}
		if err = ctx.Err(); err == nil {
			err = errors.New("the connection was lost, or the log was set back")
		}
		yield(bus.Msg{}, err)
	}
}

// auditRecords reads one message of the log: for a document with several
// changes one record a variable. It never fails.
func auditRecords(m bus.Msg) []AuditRecord {
	kind, name, err := subjects.ParseKey(m.Subject)
	r := AuditRecord{Sequence: m.Sequence, Time: m.Time, Kind: string(kind), Name: name, Origin: origin(m.Header)}
	if t, err := time.Parse(time.RFC3339Nano, m.Header.Get(subjects.HeaderTime)); err == nil {
		r.Time = t
	}
	r.Actor = shorten(m.Header.Get(subjects.HeaderActor), 100)
	if err != nil {
		r.Kind, r.Name = m.Subject, ""
	}
	switch kind {
	case subjects.KindDesired:
		return desiredRecords(r, m)
	case subjects.KindAbort, subjects.KindStop:
		brakeRecord(&r, m)
	case subjects.KindRollout:
		rolloutRecord(&r, m)
	case subjects.KindVariable:
		variableRecord(&r, m)
	case subjects.KindJoin:
		joinRecord(&r, m)
	default:
		if host, err := rollout.ParseHost(r.Name); err == nil && kind == subjects.KindPin {
			r.Host, r.Name = host, ""
		}
		r.Reason = sentence(m)
		if r.Reason == "" {
			r.Reason = byHand(m)
		}
	}
	return []AuditRecord{r}
}

// unproven says of a record without a seal that nothing proves what it says:
// an abort or a stop is plain by design, anything else isn't the scheduler's.
func unproven(r *AuditRecord, m bus.Msg) {
	if m.Header.Get(subjects.HeaderSeal) != "" {
		return
	}
	if r.Actor != "" {
		r.Actor += " (unproven)"
	}
	if !plain(m) {
		r.Reason = "an admin's direct write, or of before there were identities: " + r.Reason
	}
}

// plain says whether a record bears no seal by design: aborts and stops have to
// work when all else is down and can only stop, and joins aren't the
// scheduler's.
func plain(m bus.Msg) bool {
	switch kind, _, _ := subjects.ParseKey(m.Subject); kind {
	case subjects.KindAbort, subjects.KindJoin:
		return true
	case subjects.KindStop:
		return m.Header.Get(subjects.HeaderAcknowledges) == ""
	}
	return false
}

// origin is the record's sequence in the bucket: the second field of
// Nats-Stream-Source, which the broker adds last.
func origin(h subjects.Header) uint64 {
	v := h["Nats-Stream-Source"]
	if len(v) == 0 {
		return 0
	}
	fields := strings.Fields(v[len(v)-1])
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// reason reads the reason that the scheduler's records carry; the zero Reason
// where there is none.
func reason(m bus.Msg) (r rollout.Reason) {
	if json.Unmarshal([]byte(m.Header.Get(subjects.HeaderReason)), &r) != nil {
		return rollout.Reason{}
	}
	return r
}

// sentence is that reason for people, or "".
func sentence(m bus.Msg) string {
	r := reason(m)
	if r.Code == rollout.ByOperator {
		return cmp.Or(r.Detail, "applied")
	}
	return r.String()
}

// byHand is the reason of a record that isn't its owner's.
func byHand(m bus.Msg) string {
	if m.Header.Deleted() {
		return "deleted by hand"
	}
	if len(m.Data) == 0 {
		return "written by hand: (empty)"
	}
	text := strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, shorten(string(m.Data[:min(len(m.Data), 400)]), 200))
	return "written by hand: " + strings.TrimSpace(text)
}

func desiredRecords(r AuditRecord, m bus.Msg) []AuditRecord {
	host, err := rollout.ParseHost(r.Name)
	if err == nil {
		r.Host, r.Name = host, ""
	}
	c, err := subjects.DecodeChange(host, m.Header, m.Data)
	if err != nil {
		r.Reason = byHand(m)
		return []AuditRecord{r}
	}
	r.Time, r.Rollout, r.Reason, r.Actor = c.Time, c.Rollout, c.Reason.String(), string(c.Actor)
	r.Variable, r.Previous, r.Generation = c.Variable, c.Previous, c.Desired.Generation
	if c.Variable != "" {
		r.Value = c.Desired.Values[c.Variable]
	}
	if c.Variable != "" || c.Decommissioned || len(c.Desired.Values) == 0 {
		return []AuditRecord{r}
	}
	var out []AuditRecord
	for name, value := range c.Desired.Values {
		each := r
		each.Variable, each.Value, each.Rollout = name, value, c.Desired.Told[name].Rollout
		out = append(out, each)
	}
	slices.SortFunc(out, func(a, b AuditRecord) int { return strings.Compare(string(a.Variable), string(b.Variable)) })
	return out
}

func brakeRecord(r *AuditRecord, m bus.Msg) {
	a := subjects.DecodeAbort(m.Header, m.Data, r.Origin)
	if id, err := rollout.ParseID("rollout", r.Name); err == nil {
		r.Rollout = id
	}
	if !a.Time.IsZero() {
		r.Time = a.Time
	}
	r.Actor, r.Reason = a.Actor, a.Why
	if a.Released {
		r.Reason = fmt.Sprintf("stop %s released: %s", m.Header.Get(subjects.HeaderAcknowledges), a.Why)
	}
}

// rolloutRecord reads a rollout's record. What is no transition (an approval, an
// advance, a changed document) is said in its header alone.
func rolloutRecord(r *AuditRecord, m bus.Msg) {
	if id, err := rollout.ParseID("rollout", r.Name); err == nil {
		r.Rollout = id
	}
	rec, err := subjects.Decode[rollout.Record](m.Data)
	if err != nil || m.Header.Deleted() {
		r.Reason = byHand(m)
		return
	}
	if m.Header.Get(subjects.HeaderTime) == "" && !rec.Changed.IsZero() {
		r.Time = rec.Changed
	}
	r.Actor = cmp.Or(r.Actor, string(rec.By))
	r.Variable, r.Value = rec.Spec.Variable, rec.Spec.To
	if reason(m).Code == rollout.ByOperator {
		r.Reason = sentence(m)
		return
	}
	r.Reason = string(rec.State)
	if rec.Why != "" && rec.Why != string(rec.State) {
		r.Reason += ": " + rec.Why
	}
}

func variableRecord(r *AuditRecord, m bus.Msg) {
	if name, err := rollout.ParseName(r.Name); err == nil {
		r.Variable = name
	}
	why := sentence(m)
	if m.Header.Deleted() && why != "" {
		r.Reason = why
		return
	}
	v, err := subjects.Decode[rollout.Variable](m.Data)
	if err != nil || why == "" {
		r.Reason = byHand(m)
		return
	}
	r.Value, r.Reason = v.Value, why
}
