package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func newSigner(tb testing.TB) (*access.Signer, *access.Keyring) {
	tb.Helper()
	s, _, err := access.NewHostKey()
	if err != nil {
		tb.Fatal(err)
	}
	k, err := access.ParseKeyring([]byte(s.Public()))
	if err != nil {
		tb.Fatal(err)
	}
	return s, k
}

// ledger writes a bucket and its log as a scheduler and a broker would.
type ledger struct {
	tb      testing.TB
	signer  *access.Signer
	bucket  []bus.Msg
	origin  uint64
	last    map[string]uint64 // revision by subject
	history map[string]uint64 // generation by host
}

func newLedger(tb testing.TB, s *access.Signer) *ledger {
	return &ledger{tb: tb, signer: s, last: map[string]uint64{}, history: map[string]uint64{}}
}

func (l *ledger) write(subject string, h subjects.Header, body []byte, sealed bool) {
	l.origin++
	if sealed {
		l.signer.Seal(subject, h, body)
	}
	l.last[subject] = l.origin
	l.bucket = append(l.bucket, bus.Msg{Subject: subject, Header: h, Data: body, Sequence: l.origin})
}

func (l *ledger) tell(host rollout.Host) {
	l.history[string(host)]++
	generation := l.history[string(host)]
	c := subjects.Change{
		Host: host, Actor: "ada", Variable: "v", Time: time.Unix(int64(l.origin), 0).UTC(), Reason: rollout.Reason{Code: rollout.ByRamp},
		Desired: rollout.Desired{Generation: generation, Values: rollout.Document{}, Told: map[rollout.Name]rollout.Told{}},
	}
	h, body, err := c.Encode()
	if err != nil {
		l.tb.Fatal(err)
	}
	l.write(subjects.KindDesired.Subject(string(host)), h, body, true)
}

func (l *ledger) roll(id string) {
	subject := subjects.KindRollout.Subject(id)
	h := subjects.Header{subjects.HeaderActor: {"ada"}, subjects.HeaderFollows: {fmt.Sprint(l.last[subject])}}
	l.write(subject, h, fmt.Appendf(nil, `{"n":%d}`, l.origin), true)
}

// fleet is some history: hosts, rollouts, a stop and its release, an abort.
func fleet(l *ledger) *ledger {
	for range 3 {
		for _, host := range []rollout.Host{"a", "a.b", "c"} {
			l.tell(host)
		}
		l.roll("r1")
	}
	stop := subjects.KindStop.Subject("")
	l.write(stop, subjects.Header{}, []byte("incident"), false)
	l.write(stop, subjects.Header{subjects.HeaderAcknowledges: {fmt.Sprint(l.origin)}}, []byte(`{"why":"over"}`), true)
	l.write(subjects.KindAbort.Subject("r1"), subjects.Header{}, []byte("broken"), false)
	l.roll("r1")
	l.tell("a")
	return l
}

// log is the bucket as the broker copies it.
func (l *ledger) log() []bus.Msg {
	out := make([]bus.Msg, len(l.bucket))
	for i, m := range l.bucket {
		kind, name, err := subjects.ParseKey(m.Subject)
		if err != nil {
			l.tb.Fatal(err)
		}
		h := maps.Clone(m.Header)
		h["Nats-Stream-Source"] = []string{fmt.Sprintf("KV_tsunami %d $KV.tsunami.> tsunami.audit.>", m.Sequence)}
		out[i] = bus.Msg{Subject: subjects.AuditSubject(kind, name), Header: h, Data: m.Data, Sequence: uint64(i + 1)}
	}
	return out
}

func verified(o VerifyOptions, bucket, log []bus.Msg) *Verification {
	i := 0
	kept := &cursor{next: func() (bus.Msg, error, bool) {
		if i == len(bucket) {
			return bus.Msg{}, nil, false
		}
		i++
		return bucket[i-1], nil, true
	}}
	kept.advance()
	v := newVerifier(o, kept)
	for _, m := range log {
		v.take(m)
	}
	return v.end()
}

// renumber gives a tampered log sequences as if nothing had happened to it.
func renumber(log []bus.Msg) []bus.Msg {
	for i := range log {
		log[i].Sequence = uint64(i + 1)
	}
	return log
}

func TestAWholeLogHasNoFindings(t *testing.T) {
	s, k := newSigner(t)
	l := fleet(newLedger(t, s))
	got := verified(VerifyOptions{Trust: k}, l.bucket, l.log())
	if got.FindingsTotal != 0 || got.Records != 17 || got.Compared != 17 || got.Hosts != 3 || got.Seals != 15 || got.NeedNone != 2 || got.Chained != 4 || !got.SealsChecked || got.Last != 17 {
		t.Errorf("%+v", got)
	}
	// The bucket keeps only the newest of a key; the log is checked all the same.
	got = verified(VerifyOptions{Trust: k}, l.bucket[9:], l.log())
	if got.FindingsTotal != 0 || got.Compared != 8 {
		t.Errorf("%+v", got)
	}
	if got = verified(VerifyOptions{}, l.bucket, l.log()); got.FindingsTotal != 0 || got.SealsChecked || got.Seals != 0 {
		t.Errorf("without keys: %+v", got)
	}
	if got = verified(VerifyOptions{Trust: k, From: 10}, l.bucket, l.log()[9:]); got.FindingsTotal != 0 || got.First != 10 {
		t.Errorf("from its middle: %+v", got)
	}
}

// A seal by the key before, while it is being replaced, is good; by another
// fleet's it isn't.
func TestSealsOfTwoKeys(t *testing.T) {
	before, _ := newSigner(t)
	after, _ := newSigner(t)
	l := newLedger(t, before)
	l.tell("a")
	l.signer = after
	l.tell("a")
	both, err := access.ParseKeyring([]byte(before.Public() + "\n" + after.Public()))
	if err != nil {
		t.Fatal(err)
	}
	if got := verified(VerifyOptions{Trust: both}, l.bucket, l.log()); got.FindingsTotal != 0 || got.Seals != 2 {
		t.Errorf("%+v", got)
	}
	one, err := access.ParseKeyring([]byte(after.Public()))
	if err != nil {
		t.Fatal(err)
	}
	got := verified(VerifyOptions{Trust: one}, l.bucket, l.log())
	if got.FindingsTotal != 1 || !strings.Contains(got.Findings[0].Problem, "key that isn't trusted") {
		t.Errorf("%+v", got)
	}
}

func TestTamperedLogs(t *testing.T) {
	s, k := newSigner(t)
	other, _ := newSigner(t)
	// Numbers count from 0: 3 is r1's first record, 4 is a's second document, 12
	// the stop, 13 its release, 16 a's last.
	for name, tt := range map[string]struct {
		tamper    func(log []bus.Msg) []bus.Msg
		forgotten bool // the bucket has been tampered with too, or doesn't keep it any more
		want      []string
	}{
		"removed":                {func(l []bus.Msg) []bus.Msg { return slices.Delete(l, 4, 5) }, false, []string{"the log goes on with record 6", "desired a: the bucket has it", "generation 3 and the one before has 1"}},
		"removed and renumbered": {func(l []bus.Msg) []bus.Msg { return renumber(slices.Delete(l, 4, 5)) }, true, []string{"desired a: it has generation 3 and the one before has 1: want 2"}},
		"rollout's removed":      {func(l []bus.Msg) []bus.Msg { return renumber(slices.Delete(l, 7, 8)) }, true, []string{"rollout r1: it was written over record 8 of the bucket, and the one before it in the log is 4"}},
		"first removed":          {func(l []bus.Msg) []bus.Msg { return renumber(slices.Delete(l, 0, 1)) }, true, []string{"desired a: it has generation 2, is no first document"}},
		"last removed":           {func(l []bus.Msg) []bus.Msg { return l[:16] }, false, []string{"desired a: the bucket has it, and the log doesn't"}},
		"beginning removed":      {func(l []bus.Msg) []bus.Msg { return l[12:] }, true, []string{"the log begins with record 13", "rollout r1: it was written over record 12", "desired a: it has generation 4, is no first"}},
		"an abort removed":       {func(l []bus.Msg) []bus.Msg { return renumber(slices.Delete(l, 14, 15)) }, false, []string{"abort r1: the bucket has it"}},
		"doubled":                {func(l []bus.Msg) []bus.Msg { return renumber(slices.Insert(l, 5, l[4])) }, false, []string{"once more, as record 5 of the bucket"}},
		"reordered":              {func(l []bus.Msg) []bus.Msg { l[4], l[5] = l[5], l[4]; return renumber(l) }, true, []string{"it comes after record 6 of the bucket"}},
		"body changed":           {func(l []bus.Msg) []bus.Msg { l[4].Data = []byte(`{"v":"evil"}`); return l }, false, []string{"its seal is not over what it says", "the bodies differ"}},
		"actor changed":          {func(l []bus.Msg) []bus.Msg { l[4].Header[subjects.HeaderActor] = []string{"eve"}; return l }, true, []string{"its seal is not over what it says"}},
		"header added":           {func(l []bus.Msg) []bus.Msg { l[4].Header[subjects.HeaderRollout] = []string{"r2"}; return l }, false, []string{"its seal is not over", "the headers differ"}},
		"seal stripped":          {func(l []bus.Msg) []bus.Msg { delete(l[4].Header, subjects.HeaderSeal); return l }, true, []string{"bears no seal"}},
		"sealed by another":      {func(l []bus.Msg) []bus.Msg { other.Seal("$KV.tsunami.desired.a", l[4].Header, l[4].Data); return l }, true, []string{"sealed by a key that isn't trusted"}},
		"moved to another host":  {func(l []bus.Msg) []bus.Msg { l[4].Subject = "tsunami.audit.desired.d"; return l }, false, []string{"its seal is not over", "the bucket has desired.a there"}},
		"a release stripped":     {func(l []bus.Msg) []bus.Msg { delete(l[13].Header, subjects.HeaderSeal); return l }, true, []string{"stop: it bears no seal"}},
		"not copied by a broker": {func(l []bus.Msg) []bus.Msg { delete(l[4].Header, "Nats-Stream-Source"); return l }, true, []string{"nothing copied it here"}},
		"of a kind that isn't":   {func(l []bus.Msg) []bus.Msg { l[4].Subject = "tsunami.audit.leader"; return l }, true, []string{"is none of the log's"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := fleet(newLedger(t, s))
			bucket := l.bucket
			if tt.forgotten {
				bucket = nil
			}
			got := verified(VerifyOptions{Trust: k}, bucket, tt.tamper(l.log()))
			var all []string
			for _, f := range got.Findings {
				all = append(all, strings.TrimSuffix(fmt.Sprintf("%s %s", f.Kind, f.Name), " ")+": "+f.Problem)
			}
			text := strings.Join(all, "\n")
			for _, w := range tt.want {
				if !strings.Contains(text, w) {
					t.Errorf("lacks %q:\n%s", w, text)
				}
			}
			if got.FindingsTotal == 0 {
				t.Error("nothing was found")
			}
		})
	}
}

func TestFindingsAreBounded(t *testing.T) {
	s, k := newSigner(t)
	l := newLedger(t, s)
	for range maxFindings + 5 {
		l.write("$KV.tsunami.desired.a", subjects.Header{}, []byte("x"), false)
	}
	got := verified(VerifyOptions{Trust: k}, l.bucket, l.log())
	if len(got.Findings) != maxFindings || got.FindingsTotal != maxFindings+5 {
		t.Errorf("%d of %d", len(got.Findings), got.FindingsTotal)
	}
}

// What a log of a million records takes is b.N of these.
func BenchmarkVerifyRecord(b *testing.B) {
	s, k := newSigner(b)
	l := newLedger(b, s)
	const hosts = 1000
	for i := range 50 * hosts {
		l.tell(rollout.Host(fmt.Sprintf("h%d.example.net", i%hosts)))
	}
	log := l.log()
	for name, o := range map[string]VerifyOptions{"sealed": {Trust: k}, "unsealed": {}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if got := verified(o, l.bucket, log); got.FindingsTotal != 0 {
					b.Fatalf("%+v", got.Findings[0])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(log)), "ns/record")
		})
	}
}
