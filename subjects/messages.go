package subjects

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// The headers of records in the bucket. A sourced record gets a timestamp of
// its own, so the original one travels in HeaderTime.
const (
	HeaderRollout    = "Tsunami-Rollout"
	HeaderVariable   = "Tsunami-Variable"
	HeaderPrevious   = "Tsunami-Previous"   // the variable's value before, as JSON
	HeaderReason     = "Tsunami-Reason"     // a rollout.Reason, as JSON
	HeaderActor      = "Tsunami-Actor"      // who asked for it
	HeaderTime       = "Tsunami-Time"       // RFC 3339, by the writer's clock
	HeaderGeneration = "Tsunami-Generation" // of the host's document
	HeaderTold       = "Tsunami-Told"       // variable → rollout.Told, for the whole document, as JSON
	// HeaderAcknowledges stands on a record of the key stop that releases the
	// stop whose sequence it gives.
	HeaderAcknowledges = "Tsunami-Acknowledges"

	headerOperation = "KV-Operation"
)

// MaxBody bounds every message that is decoded here, in bytes.
const MaxBody = 1 << 20

// ErrForeign says that a record wasn't written by the part that owns its key:
// put, or deleted, by hand. Decode functions return errors that wrap it.
var ErrForeign = errors.New("not written by its owner")

// ErrUnreadable says that a record bears its owner's marks and can't be read:
// written by a newer version, as a rule. It is to be left alone, not put right.
// Errors that wrap it wrap ErrForeign too.
var ErrUnreadable = fmt.Errorf("written by its owner but not readable: %w", ErrForeign)

// Header is a message's header; nats.Header converts to it.
type Header map[string][]string

// Get returns the first value, or "".
func (h Header) Get(key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Size is what the header takes on the wire, in bytes.
func (h Header) Size() int {
	n := 0
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v) + 4
		}
	}
	return n
}

// Deleted says whether the record is a delete or purge marker.
func (h Header) Deleted() bool {
	op := h.Get(headerOperation)
	return op == "DEL" || op == "PURGE"
}

// Change is one desired-state record: what a host is told, by whom and why.
type Change struct {
	Host     rollout.Host
	Desired  rollout.Desired
	Rollout  rollout.ID   // "" where no rollout is behind it
	Variable rollout.Name // "" for a first document, which may carry several, and for a decommissioning
	Previous rollout.Value
	Reason   rollout.Reason
	Actor    rollout.ID
	Time     time.Time
	// Decommissioned marks the host's end: the record is a delete marker.
	Decommissioned bool
}

// Encode gives the record's header and body.
func (c *Change) Encode() (Header, []byte, error) {
	reason, err := json.Marshal(c.Reason)
	if err != nil {
		return nil, nil, err
	}
	h := Header{
		HeaderGeneration: {strconv.FormatUint(c.Desired.Generation, 10)},
		HeaderReason:     {string(reason)},
		HeaderTime:       {c.Time.UTC().Format(time.RFC3339Nano)},
	}
	set := func(key, value string) {
		if value != "" {
			h[key] = []string{value}
		}
	}
	set(HeaderActor, string(c.Actor))
	set(HeaderRollout, string(c.Rollout))
	set(HeaderVariable, string(c.Variable))
	if !c.Previous.IsZero() {
		b, err := c.Previous.MarshalJSON()
		if err != nil {
			return nil, nil, err
		}
		set(HeaderPrevious, string(b))
	}
	if c.Decommissioned {
		set(headerOperation, "DEL")
		return h, nil, nil
	}
	told, err := json.Marshal(c.Desired.Told)
	if err != nil {
		return nil, nil, err
	}
	set(HeaderTold, string(told))
	values := c.Desired.Values
	if values == nil {
		values = rollout.Document{}
	}
	body, err := Encode(values)
	return h, body, err
}

// DecodeChange reads a desired-state record, wherever it comes from: the
// bucket, an echo, a Direct Get or the audit log. The host is taken from the
// caller, who checked the subject. The error wraps ErrForeign where the record
// is not the scheduler's, which a reader leaves alone.
func DecodeChange(host rollout.Host, h Header, body []byte) (*Change, error) {
	c := &Change{Host: host}
	gen := h.Get(HeaderGeneration)
	if gen == "" {
		return nil, fmt.Errorf("desired state of %s: %w: no %s header", host, ErrForeign, HeaderGeneration)
	}
	var err error
	fail := func(err error) (*Change, error) {
		return nil, fmt.Errorf("desired state of %s: %w: %w", host, ErrUnreadable, err)
	}
	if c.Desired.Generation, err = strconv.ParseUint(gen, 10, 63); err != nil || c.Desired.Generation == 0 {
		return fail(fmt.Errorf("generation %q", gen))
	}
	if c.Time, err = time.Parse(time.RFC3339Nano, h.Get(HeaderTime)); err != nil {
		return fail(err)
	}
	if err = DecodeInto([]byte(h.Get(HeaderReason)), &c.Reason); err != nil {
		return fail(fmt.Errorf("%s: %w", HeaderReason, err))
	}
	if err = c.Actor.UnmarshalText([]byte(h.Get(HeaderActor))); err != nil {
		return fail(err)
	}
	if err = c.Rollout.UnmarshalText([]byte(h.Get(HeaderRollout))); err != nil {
		return fail(err)
	}
	if s := h.Get(HeaderVariable); s != "" {
		if c.Variable, err = rollout.ParseName(s); err != nil {
			return fail(err)
		}
	}
	if s := h.Get(HeaderPrevious); s != "" {
		if err = c.Previous.UnmarshalJSON([]byte(s)); err != nil {
			return fail(err)
		}
	}
	if h.Deleted() {
		c.Decommissioned = true
		return c, nil
	}
	if err = DecodeInto(body, &c.Desired.Values); err != nil {
		return fail(fmt.Errorf("body: %w", err))
	}
	if err = DecodeInto([]byte(h.Get(HeaderTold)), &c.Desired.Told); err != nil {
		return fail(fmt.Errorf("%s: %w", HeaderTold, err))
	}
	return c, nil
}

// Leader is the scheduler's lease and, by its revision, the fence.
type Leader struct {
	Holder string    `json:"holder"` // drawn at each start; "" after a clean stop
	Name   string    `json:"name"`   // of the process's host, for people
	Since  time.Time `json:"since"`
	// Renewed is the holder's clock at this renewal, for people: candidates go
	// by their own clock and by whether the revision changes.
	Renewed time.Time `json:"renewed"`
	// Led is the sum of all time in which a scheduler led, up to this renewal.
	Led time.Duration `json:"led"`
	// Step is the id of the step that this renewal belongs to.
	Step string `json:"step"`
	// Seed is drawn once for a bucket; rollouts' salts are made from it.
	Seed string `json:"seed"`
}

// Abort is the value of abort.<rollout> and of stop.
type Abort struct {
	Why      string          `json:"why"`
	Actor    string          `json:"actor,omitempty"`
	Time     time.Time       `json:"time,omitzero"`
	Evidence json.RawMessage `json:"evidence,omitempty"` // of the guard
	// Sequence is that of the record in the bucket. It isn't in the body.
	Sequence uint64 `json:"-"`
	// Released is, for the key stop, set on the scheduler's record that
	// releases the stop before it.
	Released bool `json:"-"`
}

// DecodeAbort reads a record of abort.<rollout> or stop. Whatever isn't such a
// JSON object is taken as the why, so that a plain `nats kv put` does, and a
// delete marker is an abort too. It never fails: an abort that can't be read
// is still an abort.
func DecodeAbort(h Header, body []byte, sequence uint64) Abort {
	var a Abort
	switch {
	case h.Deleted():
		a = Abort{Why: "the key was deleted by hand, which isn't a resume"}
	case DecodeInto(body, &a) != nil || text([]byte(a.Why)) == noReason:
		a = Abort{Why: text(body)}
	default:
		a.Why = text([]byte(a.Why))
	}
	a.Sequence = sequence
	if actor := h.Get(HeaderActor); actor != "" {
		a.Actor = actor
	}
	a.Released = h.Get(HeaderAcknowledges) != ""
	return a
}

const (
	noReason = "(no reason given)"
	maxWhy   = 1024 // bytes
)

// text makes what somebody wrote fit for a line of text: control characters
// become spaces, and what isn't UTF-8 is left out.
func text(b []byte) string {
	b = bytes.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, bytes.ToValidUTF8(b, nil))
	b = bytes.TrimSpace(b)
	b = bytes.TrimSpace(bytes.ToValidUTF8(b[:min(len(b), maxWhy)], nil))
	if len(b) == 0 {
		return noReason
	}
	return string(b)
}

// Guard is the guard's lease, and what it says of each rollout that names
// objectives.
type Guard struct {
	Holder string    `json:"holder"` // drawn at each start; "" after a clean stop
	Name   string    `json:"name"`   // of the process's host, for people
	Since  time.Time `json:"since"`
	// Renewed is the holder's clock at this renewal, for people: others go by
	// their own clock and by whether the revision changes.
	Renewed time.Time `json:"renewed"`
	// Sequence is that of the newest evidence that it has weighed.
	Sequence uint64                    `json:"sequence"`
	Rollouts map[rollout.ID]*Clearance `json:"rollouts,omitempty"`
}

// Clearance is what the guard says of one rollout.
type Clearance struct {
	// For is for how long from this record on the evidence is fresh enough to go
	// on; 0: it isn't, and Why says why. Until is the same by the guard's clock,
	// for people.
	For   rollout.Duration `json:"for,omitempty"`
	Until time.Time        `json:"until,omitzero"`
	Why   string           `json:"why,omitempty"`
	// Standings are the evidence against it, an objective each.
	Standings []slo.Standing `json:"standings,omitempty"`
}

// SloGuard is the actor of the guard's aborts.
const SloGuard = rollout.SloGuard

// HealthKind says what a health event is about.
type HealthKind string

// The kinds of health events.
const (
	HealthCheck   HealthKind = "check"   // a check changed its status
	HealthEnact   HealthKind = "enact"   // an enactment came to a result
	HealthRefused HealthKind = "refused" // the agent refused a desired state
)

// HealthEvent is one event from a host, into the evidence stream. (host, Boot,
// Sequence) is unique; the host is the subject's.
type HealthEvent struct {
	Kind       HealthKind    `json:"kind"`
	Boot       string        `json:"boot"`
	Sequence   uint64        `json:"sequence"` // from 1 at each start of the agent
	Time       time.Time     `json:"time"`     // by the host's clock, for people
	Generation uint64        `json:"generation"`
	Rollout    rollout.ID    `json:"rollout,omitempty"` // that told the generation
	Check      rollout.ID    `json:"check,omitempty"`
	Variable   rollout.Name  `json:"variable,omitempty"`
	Value      rollout.Value `json:"value,omitzero"`
	// Status is a rollout.CheckStatus or rollout.EnactStatus.
	Status   string `json:"status"`
	Attempts int    `json:"attempts,omitempty"`
	Output   string `json:"output,omitempty"` // bounded
}

// SilenceKind says what a Silence is about.
type SilenceKind string

// The kinds of Silence.
const (
	HostSilent SilenceKind = "silent"    // three heartbeats of the host were missed
	HostHeard  SilenceKind = "heard"     // it is heard again
	Listens    SilenceKind = "listening" // the guard has been listening until now
)

// Silence is what the guard records of hosts' heartbeats, which nobody keeps.
// Session names the time for which it has been connected without a break: only
// that of one session makes silence a failure.
type Silence struct {
	Kind    SilenceKind `json:"kind"`
	Session string      `json:"session"`
	// Heard is when the host was last heard, by the guard's clock, for people.
	Heard time.Time `json:"heard,omitzero"`
}

// Encode gives the JSON of any record or request: Leader, Abort, HealthEvent,
// rollout.Record, rollout.Progress, rollout.Variable, rollout.Report. It leaves
// < > & as they are: people read it too.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode reads such JSON strictly: an unknown field, trailing data or more than
// MaxBody is an error.
func Decode[T any](body []byte) (*T, error) {
	v := new(T)
	if err := DecodeInto(body, v); err != nil {
		return nil, err
	}
	return v, nil
}

// DecodeInto is Decode into a value that is there.
func DecodeInto(body []byte, v any) error {
	if len(body) > MaxBody {
		return fmt.Errorf("%d bytes are more than %d", len(body), MaxBody)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}
