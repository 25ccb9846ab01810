package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func newSigner(t *testing.T) *access.Signer {
	t.Helper()
	s, _, err := access.NewHostKey() // any user's key
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyring(t *testing.T, trusted ...*access.Signer) *access.Keyring {
	t.Helper()
	var text strings.Builder
	for _, s := range trusted {
		text.WriteString(s.Public() + "\n")
	}
	k, err := access.ParseKeyring([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealedRig is a rig with identities.
func sealedRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.signer = newSigner(t)
	r.keyring = keyring(t, r.signer)
	return r
}

// last is the newest record of a key.
func (r *rig) last(kind subjects.Kind, name string) bus.Msg {
	r.t.Helper()
	m, err := bus.Last(r.t.Context(), r.js, subjects.Stream, kind.Subject(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return *m
}

// put writes a record as somebody who may write everything, such as a broker
// that was broken into.
func (r *rig) put(kind subjects.Kind, name string, h subjects.Header, body []byte) uint64 {
	r.t.Helper()
	clean := subjects.Header{}
	for k, v := range h {
		if strings.HasPrefix(k, "Tsunami-") || k == "KV-Operation" {
			clean[k] = v
		}
	}
	seq, err := bus.Put(r.t.Context(), r.js, bus.Message{Subject: kind.Subject(name), Header: clean, Data: body})
	if err != nil {
		r.t.Fatal(err)
	}
	return seq
}

// Every record of a whole rollout is sealed, but the lease.
func TestEverythingIsSealed(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(6)
	r.mustCall(control.Apply, control.ApplyRequest{Documents: []control.Document{
		document(t, `{"kind":"Blackout","name":"freeze","from":"2999-01-01T00:00:00Z","until":"2999-01-02T00:00:00Z","why":"x"}`),
		document(t, `{"kind":"Objective","name":"errors","check":"docker"}`),
	}}, nil)
	r.mustCall(control.HostPin, control.PinRequest{Host: "h00.example.net", Variable: "docker_version", ValueText: "1.10.3", Why: "x"}, nil)
	r.start("up", time.Second)
	r.until("it has told all", func() bool { return r.show("up").Told >= 5 })
	seq, err := bus.Put(t.Context(), r.js, bus.Message{Subject: subjects.KindStop.Subject(""), Data: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	r.until("it is released", func() bool {
		return r.call(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: seq}, nil) == nil
	})
	r.mustCall(control.HostUnpin, control.PinRequest{Host: "h00.example.net", Why: "x"}, nil)
	all, err := bus.History(t.Context(), r.js, subjects.Stream, subjects.AllKeys)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[subjects.Kind]int{}
	for _, m := range all {
		kind, _, err := subjects.ParseKey(m.Subject)
		if err != nil {
			t.Fatal(err)
		}
		if kind == subjects.KindLeader || m.Sequence == seq {
			continue
		}
		kinds[kind]++
		if err := r.keyring.Verify(m.Subject, m.Header, m.Data); err != nil {
			t.Errorf("%s at %d: %v", m.Subject, m.Sequence, err)
		}
	}
	for _, k := range []subjects.Kind{
		subjects.KindDesired, subjects.KindRollout, subjects.KindProgress, subjects.KindVariable, subjects.KindObjective,
		subjects.KindBlackout, subjects.KindPin, subjects.KindStop, subjects.KindEpoch,
	} {
		if kinds[k] == 0 {
			t.Errorf("no record of kind %s was written: %v", k, kinds)
		}
	}
	e, err := subjects.DecodeEpoch(r.last(subjects.KindEpoch, "").Data)
	if err != nil || time.Since(e.Time) > time.Minute {
		t.Errorf("the epoch is %v, %v", e, err)
	}
}

func TestTheEpochGoesOn(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	s := r.bare(Options{})
	s.take(t.Context())
	now := time.Now()
	epochs := func() int {
		h, err := bus.History(t.Context(), r.js, subjects.Stream, subjects.KindEpoch.Subject(""))
		if err != nil {
			t.Fatal(err)
		}
		return len(h)
	}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {30 * time.Second, 1}, {61 * time.Second, 2}, {90 * time.Second, 2}, {122 * time.Second, 3}} {
		if err := s.write(t.Context(), now.Add(tt.after)); err != nil {
			t.Fatal(err)
		}
		if n := epochs(); n != tt.want {
			t.Errorf("after %s there are %d epochs, want %d", tt.after, n, tt.want)
		}
	}
}

// What a broker that was broken into, or somebody who may write everything,
// puts into the bucket orders nothing.
func TestForgedRecords(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", time.Hour)
	document := func(host string) string { return string(r.last(subjects.KindDesired, host).Data) }
	restored := func(host string, seq uint64) {
		t.Helper()
		r.until("the document of "+host+" is put back", func() bool {
			m := r.last(subjects.KindDesired, host)
			return m.Sequence > seq && string(m.Data) == `{"docker_version":"1.10.3"}` && r.keyring.Verify(m.Subject, m.Header, m.Data) == nil
		})
	}
	foreign := newSigner(t)
	const host = "h00.example.net"
	subject := subjects.KindDesired.Subject(host)
	next := func() subjects.Header {
		h := subjects.Header(maps.Clone(r.last(subjects.KindDesired, host).Header))
		g, err := strconv.Atoi(h.Get(subjects.HeaderGeneration))
		if err != nil {
			t.Fatal(err)
		}
		h[subjects.HeaderGeneration] = []string{strconv.Itoa(g + 1)}
		return h
	}
	evil := []byte(`{"docker_version":"6.6.6"}`)
	for name, forge := range map[string]func() (subjects.Header, []byte){
		"sealed by a stranger": func() (subjects.Header, []byte) {
			h := next()
			foreign.Seal(subject, h, evil)
			return h, evil
		},
		"the seal stripped": func() (subjects.Header, []byte) {
			h := next()
			delete(h, subjects.HeaderSeal)
			return h, evil
		},
		"the seal of another": func() (subjects.Header, []byte) { return next(), evil },
		"another host's document": func() (subjects.Header, []byte) {
			m := r.last(subjects.KindDesired, "h01.example.net")
			return m.Header, m.Data
		},
	} {
		h, body := forge()
		restored(host, r.put(subjects.KindDesired, host, h, body))
		if document(host) != `{"docker_version":"1.10.3"}` {
			t.Errorf("%s: the host is told %s", name, document(host))
		}
	}

	// A rollout of their own, and another value for the one that there is.
	m := r.last(subjects.KindRollout, "up")
	r.put(subjects.KindRollout, "own", m.Header, []byte(strings.ReplaceAll(string(m.Data), `"up"`, `"own"`)))
	r.put(subjects.KindRollout, "up", m.Header, []byte(strings.Replace(string(m.Data), "1.12.3", "6.6.6", 1)))
	v := r.untilState("up", rollout.StatePaused)
	if v.To.Text() != "1.12.3" || !strings.Contains(v.Why, "by hand") {
		t.Errorf("it goes to %s: %s", v.To, v.Why)
	}
	if err := r.call(control.RolloutShow, control.RolloutRequest{ID: "own"}, nil); err == nil {
		t.Error("their rollout is believed")
	}
	r.put(subjects.KindVariable, "evil_version", r.last(subjects.KindVariable, "docker_version").Header, []byte(`{"name":"evil_version","type":"string","value":"6.6.6"}`))
	var vs []control.VariableView
	r.mustCall(control.VariableList, control.Empty{}, &vs)
	if slices.ContainsFunc(vs, func(v control.VariableView) bool { return v.Name == "evil_version" }) {
		t.Error("their variable is believed")
	}
}

// A sealed record that is written again, over a later one, is none.
func TestReplayedRecords(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(3)
	r.start("up", time.Hour)
	running := r.last(subjects.KindRollout, "up")
	r.mustCall(control.RolloutCancel, control.RolloutRequest{ID: "up", Why: "a mistake"}, nil)
	r.put(subjects.KindRollout, "up", running.Header, running.Data)
	r.until("the cancelled record is put back", func() bool {
		m := r.last(subjects.KindRollout, "up")
		rec, err := subjects.Decode[rollout.Record](m.Data)
		return err == nil && rec.State == rollout.StateCancelled && r.keyring.Verify(m.Subject, m.Header, m.Data) == nil
	})

	stop := func() uint64 {
		seq, err := bus.Put(t.Context(), r.js, bus.Message{Subject: subjects.KindStop.Subject(""), Data: []byte("incident")})
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}
	stopped := func() bool {
		var v control.StatusView
		r.mustCall(control.Status, control.Empty{}, &v)
		return v.Stopped
	}
	seq := stop()
	r.until("it is stopped", stopped)
	r.mustCall(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: seq}, nil)
	release := r.last(subjects.KindStop, "")
	stop()
	r.until("it is stopped", stopped)
	again := r.put(subjects.KindStop, "", release.Header, release.Data)
	forged := r.put(subjects.KindStop, "", subjects.Header{subjects.HeaderAcknowledges: {strconv.FormatUint(again, 10)}}, []byte(`{"why":"x"}`))
	time.Sleep(200 * time.Millisecond)
	if !stopped() {
		t.Error("a release that was written again, or by nobody, releases the stop")
	}
	r.mustCall(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: forged}, nil)
}

// What the key before has sealed is good while it is trusted, over a restart.
func TestTheSealIsRotated(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", 2*time.Second)
	r.until("some are told", func() bool { return r.show("up").Told >= 1 })
	r.stop()
	before := r.signer
	r.signer = newSigner(t)
	r.keyring = keyring(t, before, r.signer)
	r.schedule()
	r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 6 {
		t.Errorf("%d records", n)
	}
	var v control.StatusView
	r.mustCall(control.Status, control.Empty{}, &v)
	if len(v.Warnings) > 0 {
		t.Errorf("warnings: %v", v.Warnings)
	}
}

// BenchmarkSealedStep commits steps of 490 hosts and waits until the mirror has
// them, sealed and in turns unsealed, as the disk is synced in production.
func BenchmarkSealedStep(b *testing.B) {
	broker, err := broker.Start(broker.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Shutdown)
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: broker.InProcess()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	if err := bus.Setup(b.Context(), js, 1); err != nil {
		b.Fatal(err)
	}
	signer, _, err := access.NewHostKey()
	if err != nil {
		b.Fatal(err)
	}
	ring, err := access.ParseKeyring([]byte(signer.Public()))
	if err != nil {
		b.Fatal(err)
	}
	s, err := open(b.Context(), Options{Conn: nc}.withDefaults())
	if err == nil {
		err = s.load(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	s.take(b.Context())
	value := must(rollout.StringValue("1.12.3"))
	generation := uint64(0)
	step := func() time.Duration {
		generation++
		now := time.Now()
		var tells []rollout.Tell
		for i := range 490 {
			tells = append(tells, rollout.Tell{
				Host: rollout.Host(fmt.Sprintf("web%04d.lon2.example.net", i)), Variable: "docker_version", Previous: value, Actor: "anna",
				Reason: rollout.Reason{Code: rollout.ByRamp, Role: "web", Position: i + 1, Target: 20_000, Told: i, Share: 0.31, Rollout: "docker-1-12-3"},
				Desired: rollout.Desired{
					Values: rollout.Document{"docker_version": value}, Generation: generation,
					Told: map[rollout.Name]rollout.Told{"docker_version": {Rollout: "docker-1-12-3", Generation: generation, Time: now.UTC(), Checks: []rollout.ID{"docker"}}},
				},
			})
		}
		if err := s.commit(b.Context(), rollout.Step{Rollout: "docker-1-12-3", Tells: tells}, now); err != nil {
			b.Fatal(err)
		}
		return time.Since(now)
	}
	var sealed, unsealed []time.Duration
	for b.Loop() {
		s.o.Signer, s.o.Keyring = signer, ring
		sealed = append(sealed, step())
		s.o.Signer, s.o.Keyring = nil, nil
		unsealed = append(unsealed, step())
	}
	median := func(all []time.Duration) float64 {
		slices.Sort(all)
		return all[len(all)/2].Seconds()
	}
	b.ReportMetric(1000*median(sealed), "sealed-ms")
	b.ReportMetric(1000*median(unsealed), "unsealed-ms")
	b.ReportMetric(median(sealed)/median(unsealed), "ratio")
}
