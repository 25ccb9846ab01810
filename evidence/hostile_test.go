package evidence

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// TestOneHostIsOneFailure lets one host do what it can: claim to have been told,
// fail in every way, start anew, change its role. What it sends is one failure,
// which freezes nothing; a second host's is the second.
func TestOneHostIsOneFailure(t *testing.T) {
	within := docker()
	within.WithinOfChange = &slo.Within{AtMost: 1, Window: field.Duration(time.Hour)}
	for _, o := range []*slo.Objective{docker(), within} {
		p := guarded(t, o)
		lie := func(host rollout.Host) {
			for boot := range 30 {
				p.reports[host].Role = rollout.Word([]string{"web", "db"}[boot%2])
				p.reports[host].Boot = fmt.Sprint("b", boot)
				p.report(host)
				sequence := uint64(0)
				say := func(e subjects.HealthEvent) {
					sequence++
					e.Boot, e.Sequence, e.Rollout, e.Generation = fmt.Sprint("b", boot), sequence, "r1", uint64(boot+1)
					p.send(host, e)
				}
				say(subjects.HealthEvent{Kind: subjects.HealthCheck, Check: "docker", Status: "passing"})
				say(subjects.HealthEvent{Kind: subjects.HealthCheck, Check: "docker", Status: "failing"})
				p.pass(time.Minute)
				say(subjects.HealthEvent{Kind: subjects.HealthEnact, Variable: "docker_version", Status: "failed"})
			}
		}
		lie("h0000")
		p.want("r1", "1/1 0/99")
		if len(p.verdicts) != 0 {
			t.Fatalf("one host has frozen a rollout: %+v", p.verdicts[0].Standings)
		}
		lie("h0001")
		p.want("r1", "2/2 0/98")
		if len(p.verdicts) != 1 {
			t.Fatalf("two at the very beginning freeze it, as docs/guard.md says: %s", p.standing("r1"))
		}
	}
}

// TestAFloodIsBounded: what is kept of a host doesn't grow with what it sends.
func TestAFloodIsBounded(t *testing.T) {
	p := guarded(t)
	f := p.f
	m := Message{Subject: subjects.Health("h0001"), Time: p.now, Sequence: f.Sequence()}
	filler := strings.Repeat("x", 10_000)
	flood := func(n int) uint64 {
		for i := range n {
			e := subjects.HealthEvent{
				Kind: subjects.HealthCheck, Boot: fmt.Sprint("flood", i), Sequence: 1, Check: "docker", Output: filler,
				Status: []string{"passing", "failing"}[i%2],
			}
			if i%3 == 0 {
				e.Check = rollout.ID(fmt.Sprint("check", m.Sequence))
			}
			m.Data, m.Sequence, m.Time = p.encode(e), m.Sequence+1, m.Time.Add(time.Millisecond)
			if _, err := f.Take(m); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := flood(500)
	if after := flood(5000); after > before+200_000 {
		t.Fatalf("the heap grew from %d to %d bytes", before, after)
	}
	if h := f.hosts["h0001"]; len(h.checks) != mostChecks || len(h.boots) != mostBoots {
		t.Fatalf("%d checks and %d starts are kept", len(h.checks), len(h.boots))
	}
}

// FuzzFold gives a fold messages of any kind. What can't be read changes
// nothing.
func FuzzFold(f *testing.F) {
	p := guarded(f)
	p.tell("h0001", "r1")
	p.fails("h0001")
	p.silence("h0002", subjects.HostSilent, "s1")
	p.listens("s1")
	for _, m := range p.messages[95:] {
		h, err := json.Marshal(m.Header)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Subject, h, m.Data)
	}
	f.Add("tsunami.evidence.abort.r1", []byte(`{"Tsunami-Actor":["sloguard"]}`), []byte(`{"why":"x","evidence":{"sequence":3}}`))
	f.Add("tsunami.evidence.rollout.r1", []byte(`{"Tsunami-Time":["x"]}`), []byte(`{"spec":{"name":"r1","variable":"v","where":"role =="},"state":"running"}`))
	f.Add("tsunami.evidence.objective.docker-healthy", []byte(`{"KV-Operation":["DEL"]}`), []byte(nil))
	f.Add("tsunami.silence.h0001", []byte(`null`), []byte(`null`))
	f.Fuzz(func(t *testing.T, subject string, header, data []byte) {
		var h subjects.Header
		if json.Unmarshal(header, &h) != nil {
			return
		}
		p := newTape(t)
		p.objective(docker())
		p.hosts(0, 8, "web")
		p.start("r1", "docker-healthy")
		p.tell("h0001", "r1")
		p.send("h0001", p.event("h0001", rollout.Pending))
		before := text(t, p)
		if err := p.putAny(subject, h, data); err != nil {
			if after := text(t, p); after != before {
				t.Fatalf("%v, and it changed %s to %s", err, before, after)
			}
		}
		p.fails("h0001")
		p.pass(time.Hour)
		p.listens("s1")
		if _, err := json.Marshal(p.verdicts); err != nil {
			t.Fatal(err)
		}
		text(t, p) // it can be written: no number is none
	})
}

// TestBrokenMessages flips bits of good ones, by the thousand.
func TestBrokenMessages(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	p.fails("h0001")
	random := rand.New(rand.NewPCG(4, 5))
	for range 3000 {
		m := p.messages[random.IntN(len(p.messages))]
		m.Data = append([]byte(nil), m.Data...)
		for range 1 + random.IntN(3) {
			if len(m.Data) > 0 {
				m.Data[random.IntN(len(m.Data))] ^= 1 << random.UintN(8)
			}
		}
		f := New()
		for _, good := range p.messages[:3] {
			if _, err := f.Take(good); err != nil {
				t.Fatal(err)
			}
		}
		before := state(t, f)
		if _, err := f.Take(m); err != nil && state(t, f) != before {
			t.Fatalf("%v, and it changed %s to %s", err, before, state(t, f))
		}
	}
}
