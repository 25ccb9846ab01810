package control

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Seals of so many records, and so many bytes, are verified at a time, on all
// processors: a signature takes far longer than all else.
const (
	verifyRecords = 1024
	verifyBytes   = 8 << 20
)

// verifier takes the log's records in the log's order, and the bucket's beside
// them.
type verifier struct {
	trust  *access.Keyring
	begins bool // the log is read from its beginning
	kept   *cursor
	out    Verification

	waiting []bus.Msg // whose seals aren't verified yet
	bytes   int

	next        uint64                 // the sequence in the log that is to come
	origin      uint64                 // the highest that came
	generations map[string]uint64      // by host
	revisions   map[subjectName]uint64 // by key: the newest, but for hosts' documents
}

type subjectName struct {
	kind subjects.Kind
	name string
}

func newVerifier(o VerifyOptions, kept *cursor) *verifier {
	return &verifier{
		trust: o.Trust, begins: o.From <= 1, kept: kept,
		out:         Verification{SealsChecked: o.Trust != nil, Findings: []Finding{}},
		generations: map[string]uint64{}, revisions: map[subjectName]uint64{},
	}
}

func (v *verifier) found(f Finding) {
	if v.out.FindingsTotal++; len(v.out.Findings) < maxFindings {
		v.out.Findings = append(v.out.Findings, f)
	}
}

func (v *verifier) take(m bus.Msg) {
	v.out.Last = m.Sequence
	v.waiting, v.bytes = append(v.waiting, m), v.bytes+len(m.Data)
	if len(v.waiting) >= verifyRecords || v.bytes >= verifyBytes {
		v.flush()
	}
}

// flush judges the records that wait.
func (v *verifier) flush() {
	seals := make([]error, len(v.waiting))
	if v.trust != nil {
		var wg sync.WaitGroup
		workers := runtime.GOMAXPROCS(0)
		for first := range workers {
			wg.Go(func() {
				for i := first; i < len(v.waiting); i += workers {
					seals[i] = v.seal(&v.waiting[i])
				}
			})
		}
		wg.Wait()
	}
	for i := range v.waiting {
		v.judge(&v.waiting[i], seals[i])
	}
	clear(v.waiting) // their bodies are needed no more
	v.waiting, v.bytes = v.waiting[:0], 0
}

// errNeedsNone says that a record is plain by design.
var errNeedsNone = errors.New("it needs no seal")

// seal verifies a record's seal, over the subject that stores it in the bucket.
func (v *verifier) seal(m *bus.Msg) error {
	kind, name, err := subjects.ParseKey(m.Subject)
	if err != nil {
		return nil // judge says so
	}
	if plain(*m) && m.Header.Get(subjects.HeaderSeal) == "" {
		return errNeedsNone
	}
	return v.trust.Verify(kind.Subject(name), m.Header, m.Data)
}

func (v *verifier) judge(m *bus.Msg, seal error) {
	kind, name, err := subjects.ParseKey(m.Subject)
	f := Finding{Sequence: m.Sequence, Origin: origin(m.Header), Kind: kind, Name: name}
	wrong := func(format string, args ...any) {
		each := f
		each.Problem = fmt.Sprintf(format, args...)
		v.found(each)
	}
	v.gap(m.Sequence)
	v.out.Records++
	switch {
	case err != nil || !slices.Contains(subjects.Audited, kind):
		f.Kind, f.Name = "", ""
		wrong("its subject %s is none of the log's", shorten(m.Subject, 200))
		return
	case f.Origin == 0:
		wrong("it doesn't say which record of the bucket it is: nothing copied it here")
		return
	}
	switch {
	case errors.Is(seal, errNeedsNone):
		v.out.NeedNone++
	case errors.Is(seal, access.ErrUnsealed):
		wrong("it bears no seal: an admin wrote it by hand, its seal was taken off, or it is from before there were identities")
	case seal != nil:
		wrong("%v", seal)
	case v.trust != nil:
		v.out.Seals++
	}
	if f.Origin <= v.origin {
		what := "after record %d"
		if f.Origin == v.origin {
			what = "once more, as record %d"
		}
		wrong("it comes "+what+" of the bucket: it was doubled, or moved", v.origin)
		return
	}
	for !v.kept.ended && v.kept.at.Sequence < f.Origin {
		v.missing()
	}
	v.origin = f.Origin
	v.compare(m, f, wrong)
	if !errors.Is(seal, access.ErrUnsealed) { // nobody goes on from what was put by hand
		v.follow(m, f, wrong)
	}
}

// gap says that the log has lost records of its own.
func (v *verifier) gap(sequence uint64) {
	switch {
	case v.out.First > 0 && sequence != v.next:
		v.found(Finding{Sequence: v.next, Problem: fmt.Sprintf("the log goes on with record %d: what was between is missing", sequence)})
	case v.out.First == 0 && v.begins && sequence > 1:
		v.found(Finding{Sequence: 1, Problem: fmt.Sprintf("the log begins with record %d: those before it are missing", sequence)})
	}
	if v.out.First == 0 {
		v.out.First = sequence
	}
	v.next = sequence + 1
}

// compare finds the bucket's own of a record, where it is still kept.
func (v *verifier) compare(m *bus.Msg, f Finding, wrong func(string, ...any)) {
	if v.kept.ended || v.kept.at.Sequence != f.Origin {
		return // the bucket keeps so many of a key, and no more
	}
	at := &v.kept.at
	switch kind, name, err := subjects.ParseKey(at.Subject); {
	case err != nil || kind != f.Kind || name != f.Name:
		wrong("the bucket has %s there", strings.TrimPrefix(at.Subject, subjects.Kind("").Subject("")))
	case !bytes.Equal(at.Data, m.Data):
		wrong("it isn't what the bucket has there: the bodies differ")
	case !sameHeader(at.Header, m.Header):
		wrong("it isn't what the bucket has there: the headers differ")
	}
	v.out.Compared++
	v.kept.advance()
}

// missing says that the log lacks the record that the cursor is at, unless it is
// one of before where the log is read from.
func (v *verifier) missing() {
	if v.begins || v.origin > 0 {
		kind, name, _ := subjects.ParseKey(v.kept.at.Subject)
		v.found(Finding{Origin: v.kept.at.Sequence, Kind: kind, Name: name, Problem: "the bucket has it, and the log doesn't"})
	}
	v.kept.advance()
}

// sameHeader compares what writers write, and not what brokers add on the way.
func sameHeader(a, b subjects.Header) bool {
	written := func(h subjects.Header) (n int) {
		for name := range h {
			if !strings.HasPrefix(name, "Nats-") {
				n++
			}
		}
		return n
	}
	for name, values := range a {
		if !strings.HasPrefix(name, "Nats-") && !slices.Equal(values, b[name]) {
			return false
		}
	}
	return written(a) == written(b)
}

// follow checks that what a record says was before it was.
func (v *verifier) follow(m *bus.Msg, f Finding, wrong func(string, ...any)) {
	if f.Kind == subjects.KindDesired {
		host, err := rollout.ParseHost(f.Name)
		if err != nil {
			return // nobody hears such a one
		}
		c, err := subjects.DecodeChange(host, m.Header, m.Data)
		if err != nil {
			return // hosts don't take it
		}
		last, known := v.generations[f.Name]
		switch got := c.Desired.Generation; {
		case known && got != last+1:
			wrong("it has generation %d and the one before has %d: want %d", got, last, last+1)
		case !known && v.begins && got > 1 && c.Reason.Code != rollout.ByFirst:
			wrong("it has generation %d, is no first document, and nothing is before it", got)
		}
		v.generations[f.Name] = c.Desired.Generation
		return
	}
	key := subjectName{f.Kind, f.Name}
	last, known := v.revisions[key]
	v.revisions[key] = f.Origin
	text := m.Header.Get(subjects.HeaderFollows)
	if text == "" || !known && !v.begins {
		return
	}
	v.out.Chained++
	if follows, err := strconv.ParseUint(text, 10, 64); err != nil || follows != last {
		wrong("it was written over record %s of the bucket, and the one before it in the log is %d", shorten(text, 20), last)
	}
}

// end takes what the log lacks at its end.
func (v *verifier) end() *Verification {
	v.flush()
	for !v.kept.ended {
		v.missing()
	}
	v.out.Hosts = len(v.generations)
	return &v.out
}
