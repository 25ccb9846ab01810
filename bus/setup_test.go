package bus_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

var everyStream = []string{subjects.Stream, subjects.HostsStream, subjects.AuditStream, subjects.EvidenceStream}

func config(t *testing.T, js jetstream.JetStream, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(within(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

func TestSetupMakesTheStreamsAndTakesThemAsTheyAre(t *testing.T) {
	b, js := start(t)
	// Several processes may do it at once.
	var wg sync.WaitGroup
	for range 4 {
		js := connect(t, b, bus.ConnectOptions{})
		wg.Go(func() {
			if err := bus.Setup(within(t), js, 1); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, name := range everyStream {
		c := config(t, js, name)
		if !c.DenyDelete || !c.DenyPurge || c.AllowRollup || c.AllowMsgTTL || c.Storage != jetstream.FileStorage || c.Compression != jetstream.NoCompression {
			t.Errorf("%s: %+v", name, c)
		}
	}
	c := config(t, js, subjects.Stream)
	if c.MaxMsgsPerSubject != 64 || c.Discard != jetstream.DiscardNew || !c.AllowDirect || !c.AllowAtomicPublish || c.RePublish == nil {
		t.Errorf("%+v", c)
	}
	if c := config(t, js, subjects.EvidenceStream); c.MaxAge <= time.Duration(rollout.MaxOver) {
		t.Errorf("evidence is kept for %s, a ramp may take %s", c.MaxAge, rollout.MaxOver)
	}
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client is back", js.Conn().IsConnected)
	if err := bus.Setup(within(t), js, 1); err != nil {
		t.Error(err)
	}
	if err := bus.Setup(within(t), js, 2); err == nil {
		t.Error("2 replicas were taken")
	}
}

func TestSetupReportsDriftAndChangesNothing(t *testing.T) {
	_, js := start(t)
	// What `nats kv add` and an operator's hand would make.
	if _, err := js.CreateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: subjects.Bucket, History: 5}); err != nil {
		t.Fatal(err)
	}
	audit := jetstream.StreamConfig{
		Name: subjects.AuditStream, Compression: jetstream.S2Compression, MaxAge: time.Hour,
		Sources: []*jetstream.StreamSource{{Name: subjects.Stream, FilterSubject: "$KV.tsunami.desired.>"}},
	}
	if _, err := js.CreateStream(within(t), audit); err != nil {
		t.Fatal(err)
	}
	before := config(t, js, subjects.Stream)
	err := bus.Setup(within(t), js, 1)
	drift, ok := errors.AsType[*bus.DriftError](err)
	if !ok {
		t.Fatalf("got %v, want a drift", err)
	}
	var got []string
	for _, d := range drift.Drifts {
		got = append(got, d.Stream+" "+d.Field)
		if d.Want == d.Have || !strings.Contains(err.Error(), d.Have) {
			t.Errorf("%+v in %v", d, err)
		}
	}
	want := []string{
		"KV_tsunami max_msgs_per_subject", "KV_tsunami deny_purge", "KV_tsunami allow_rollup_hdrs", "KV_tsunami allow_atomic", "KV_tsunami republish",
		"TSUNAMI_AUDIT max_age", "TSUNAMI_AUDIT deny_delete", "TSUNAMI_AUDIT deny_purge", "TSUNAMI_AUDIT compression", "TSUNAMI_AUDIT sources",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if after := config(t, js, subjects.Stream); after.AllowAtomicPublish != before.AllowAtomicPublish || after.MaxMsgsPerSubject != before.MaxMsgsPerSubject {
		t.Errorf("the stream was changed: %+v", after)
	}
}

func TestNothingErasesARecord(t *testing.T) {
	_, js := setUp(t)
	report := subjects.HostSubject("h1.example.net")
	health := subjects.Health("h1.example.net")
	for stream, subject := range map[string]string{subjects.Stream: abort, subjects.HostsStream: report, subjects.EvidenceStream: health} {
		seq := put(t, js, subject, "x")
		for name, h := range map[string]nats.Header{
			"rollup all":     {jetstream.MsgRollup: {jetstream.MsgRollupAll}},
			"rollup subject": {jetstream.MsgRollup: {jetstream.MsgRollupSubject}},
			"ttl":            {jetstream.MsgTTLHeader: {"1s"}},
		} {
			if _, err := js.PublishMsg(within(t), &nats.Msg{Subject: subject, Header: h}); err == nil {
				t.Errorf("%s: %s was taken", stream, name)
			}
		}
		s, err := js.Stream(within(t), stream)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Purge(within(t), jetstream.WithPurgeSubject(subject)); err == nil {
			t.Errorf("%s: a purge was taken", stream)
		}
		if err := s.DeleteMsg(within(t), seq); err == nil {
			t.Errorf("%s: a deletion was taken", stream)
		}
		if m, err := bus.Last(within(t), js, stream, subject); err != nil || m.Sequence != seq {
			t.Errorf("%s: the record became %+v, %v", stream, m, err)
		}
	}
	kv, err := js.KeyValue(within(t), subjects.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(within(t), subjects.KindAbort.Key("r1")); err == nil {
		t.Error("the key was purged")
	}
	for _, stream := range []string{subjects.AuditStream} {
		s, err := js.Stream(within(t), stream)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Purge(within(t)); err == nil {
			t.Errorf("%s was purged", stream)
		}
	}
}

// The bucket is one to the KV interface, so `nats kv` works on it.
func TestTheBucketWorksAsOne(t *testing.T) {
	_, js := setUp(t)
	heard := echoes(t, js)
	kv, err := js.KeyValue(within(t), subjects.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	key := subjects.KindAbort.Key("r1")
	for _, why := range []string{"one", "two"} {
		if _, err := kv.PutString(within(t), key, why); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := kv.Get(within(t), key); err != nil || string(e.Value()) != "two" {
		t.Errorf("%+v, %v", e, err)
	}
	if h, err := kv.History(within(t), key); err != nil || len(h) != 2 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := kv.Delete(within(t), key); err != nil {
		t.Fatal(err)
	}
	var last *nats.Msg
	for range 3 {
		last = <-heard
	}
	if last.Subject != subjects.KindAbort.Echo("r1") || !subjects.Header(last.Header).Deleted() {
		t.Errorf("the last echo: %+v", last)
	}
}

func TestTheAuditLogAndTheEvidence(t *testing.T) {
	_, js := setUp(t)
	for _, k := range []subjects.Kind{subjects.KindLeader, subjects.KindGuard, subjects.KindEpoch, subjects.KindStop} {
		put(t, js, k.Subject(""), string(k))
	}
	for _, k := range []subjects.Kind{
		subjects.KindDesired, subjects.KindRollout, subjects.KindProgress, subjects.KindAbort,
		subjects.KindVariable, subjects.KindObjective, subjects.KindBlackout, subjects.KindPin,
	} {
		put(t, js, k.Subject("a.b"), string(k))
	}
	put(t, js, subjects.HostSubject("a.b"), "host")
	put(t, js, subjects.Health("a.b"), "health")
	put(t, js, "tsunami.silence.a.b", "silence")

	for stream, want := range map[string][]string{
		subjects.AuditStream: {
			"tsunami.audit.stop", "tsunami.audit.desired.a.b", "tsunami.audit.rollout.a.b", "tsunami.audit.abort.a.b", "tsunami.audit.variable.a.b",
			"tsunami.audit.objective.a.b", "tsunami.audit.blackout.a.b", "tsunami.audit.pin.a.b",
		},
		subjects.EvidenceStream: {
			"tsunami.evidence.desired.a.b", "tsunami.evidence.rollout.a.b", "tsunami.evidence.abort.a.b", "tsunami.evidence.objective.a.b", "tsunami.evidence.host.a.b",
			"tsunami.health.a.b", "tsunami.silence.a.b",
		},
	} {
		eventually(t, stream+" has all", func() bool {
			seq, err := bus.LastSequence(within(t), js, stream)
			return err == nil && seq >= uint64(len(want))
		})
		all, err := bus.History(within(t), js, stream, ">")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range all {
			got = append(got, m.Subject)
			source := strings.Fields(m.Header.Get("Nats-Stream-Source"))
			if own := strings.HasPrefix(m.Subject, "tsunami.health") || strings.HasPrefix(m.Subject, "tsunami.silence"); own != (len(source) == 0) {
				t.Errorf("%s: source %q", m.Subject, source)
			}
			if stream == subjects.AuditStream && (len(source) < 2 || source[0] != subjects.Stream) {
				t.Errorf("%s: source %q", m.Subject, source)
			}
		}
		if stream == subjects.EvidenceStream { // of three origins, in any order
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s\ngot  %q\nwant %q", stream, got, want)
		}
	}
}
