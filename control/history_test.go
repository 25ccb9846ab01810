package control_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const web = rollout.Host("h1.example.net")

// chronicle tells one host things, an hour apart.
type chronicle struct {
	t          *testing.T
	js         jetstream.JetStream
	begin      time.Time
	generation uint64
	hours      int
	records    uint64
	values     rollout.Document
	told       map[rollout.Name]rollout.Told
}

// hour is a moment of the chronicle: 0.5 is half an hour after its first
// record, infinity the zero moment.
func (c *chronicle) hour(h float64) time.Time {
	if math.IsInf(h, 1) {
		return time.Time{}
	}
	return c.begin.Add(time.Duration(h * float64(time.Hour)))
}

// write fills the change in and writes it. Variables without a value are
// removed.
func (c *chronicle) write(change subjects.Change, values map[rollout.Name]string) {
	c.t.Helper()
	at := c.hour(float64(c.hours))
	c.hours++
	c.generation++
	for name, v := range values {
		if v == "" {
			delete(c.values, name)
			delete(c.told, name)
			continue
		}
		c.values[name] = value(c.t, v)
		c.told[name] = rollout.Told{Rollout: change.Rollout, Generation: c.generation, Time: at}
	}
	change.Host, change.Time, change.Desired = web, at, rollout.Desired{Generation: c.generation, Values: c.values, Told: c.told}
	if change.Actor == "" {
		change.Actor = rollout.Scheduler
	}
	tell(c.t, c.js, change)
	c.records++
}

func (c *chronicle) ramp(variable rollout.Name, from, to string, id rollout.ID) {
	c.t.Helper()
	change := subjects.Change{Variable: variable, Rollout: id, Actor: "alice", Reason: rollout.Reason{Code: rollout.ByRamp, Role: "web", Position: 3, Target: 10, Share: 0.25}}
	if from != "" {
		change.Previous = value(c.t, from)
	}
	c.write(change, map[rollout.Name]string{variable: to})
}

func newChronicle(t *testing.T, js jetstream.JetStream) *chronicle {
	return &chronicle{t: t, js: js, begin: time.Now().UTC().Truncate(time.Second).Add(-100 * time.Hour), values: rollout.Document{}, told: map[rollout.Name]rollout.Told{}}
}

func past(t *testing.T, c *control.Client, variable rollout.Name, at time.Time) *control.Past {
	t.Helper()
	p, err := c.Past(within(t), web, variable, at)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// inShort is what a Past says, but for the times.
func inShort(p *control.Past) string {
	s := p.Value.Text() + " before " + p.Previous.Text() + " by " + string(p.Rollout) + " of " + string(p.Actor) + " because " + p.Reason
	if p.Missing != "" {
		s += ", " + string(p.Missing)
	}
	if p.Decommissioned != nil {
		s += ", ended"
	}
	if p.ByHand != nil {
		s += ", " + p.ByHand.Reason
	}
	if p.Later != nil && p.Later.Variable == "" {
		s += "; later ended: " + p.Later.Reason
	} else if p.Later != nil {
		s += "; later " + string(p.Later.Variable) + " " + p.Later.Value.Text() + " by " + string(p.Later.Rollout)
	}
	return s
}

func TestPast(t *testing.T) {
	nc, js := start(t)
	c := newChronicle(t, js)
	c.write(subjects.Change{Reason: rollout.Reason{Code: rollout.ByFirst}}, map[rollout.Name]string{"docker": "1.10", "agent": "2"}) // 0
	c.ramp("docker", "1.10", "1.12", "docker-12")                                                                                    // 1
	c.ramp("agent", "2", "3", "agent-3")                                                                                             // 2
	c.write(subjects.Change{Reason: rollout.Reason{Code: rollout.ByRestore}}, nil)                                                   // 3
	c.ramp("docker", "1.12", "", "no-docker")                                                                                        // 4
	c.ramp("agent", "3", "4", "agent-4")                                                                                             // 5
	c.write(subjects.Change{Reason: rollout.Reason{Code: rollout.Decommissioned, Detail: "sold"}, Actor: "bob", Decommissioned: true}, nil)
	c.write(subjects.Change{Reason: rollout.Reason{Code: rollout.ByFirst}}, map[rollout.Name]string{"agent": "", "docker": "1.13"}) // 7
	put(t, js, bus.Message{Subject: subjects.KindDesired.Subject(string(web)), Data: []byte(`{"docker":"9"}`)})
	audited(t, js, c.records+1)
	cl := client(t, nc)
	const ramp = "the ramp is at 25.00%: host 3 of 10 in role web"
	for _, x := range []struct {
		variable rollout.Name
		hour     float64
		want     string
		told     float64
	}{
		{"docker", -1, " before  by  of  because , no_document; later docker 1.10 by ", -1},
		{"docker", 0, "1.10 before  by  of scheduler because the host's first document; later docker 1.12 by docker-12", 0},
		{"docker", 1.5, "1.12 before 1.10 by docker-12 of alice because " + ramp + "; later docker  by no-docker", 1},
		{"docker", 3.5, "1.12 before 1.10 by docker-12 of alice because " + ramp + "; later docker  by no-docker", 1},
		{"docker", 4.5, " before 1.12 by no-docker of alice because " + ramp + ", removed; later ended: decommissioned: sold", 4},
		{"docker", 5.5, " before 1.12 by no-docker of alice because " + ramp + ", removed; later ended: decommissioned: sold", 4},
		{"agent", 0.5, "2 before  by  of scheduler because the host's first document; later agent 3 by agent-3", 0},
		{"agent", 5.5, "4 before 3 by agent-4 of alice because " + ramp + "; later ended: decommissioned: sold", 5},
		{"agent", 6.5, "4 before 3 by agent-4 of alice because " + ramp + ", ended; later agent  by ", 5},
		{"agent", 7.5, " before 4 by  of  because , not_told", -1},
		{"docker", 7.5, "1.13 before  by  of scheduler because the host's first document", 7},
		{"docker", 200, "1.13 before  by  of scheduler because the host's first document, " + `written by hand: {"docker":"9"}`, 7},
		{"docker", math.Inf(1), "1.13 before  by  of scheduler because the host's first document, " + `written by hand: {"docker":"9"}`, 7},
		{"kernel", 1, " before  by  of  because , not_told; later ended: decommissioned: sold", -1},
	} {
		p := past(t, cl, x.variable, c.hour(x.hour))
		if got := inShort(p); got != x.want {
			t.Errorf("%s at %v:\n got %s\nwant %s", x.variable, x.hour, got, x.want)
		}
		told := c.hour(x.told)
		if x.told < 0 {
			told = time.Time{}
		}
		if !p.Told.Equal(told) {
			t.Errorf("%s at %v: told %s, want %s", x.variable, x.hour, p.Told, told)
		}
		if !p.LogBegins.IsZero() {
			t.Errorf("%s at %v: the log begins too late, at %s", x.variable, x.hour, p.LogBegins)
		}
	}
	_, err := cl.Past(within(t), "h9.example.net", "docker", time.Now())
	wantError(t, err, "host h9.example.net: not found", "has nothing about it")
	if !errors.Is(err, rollout.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// A log that was lost and made anew begins somewhere in the middle.
func TestPastBeforeTheLog(t *testing.T) {
	nc, js := start(t)
	cl := client(t, nc)
	_, err := cl.Past(within(t), web, "docker", time.Now())
	wantError(t, err, "the audit log is empty")
	c := newChronicle(t, js)
	c.generation, c.hours = 7, 10
	c.values["docker"], c.values["agent"] = value(t, "1.10"), value(t, "2")
	c.told["docker"], c.told["agent"] = rollout.Told{Rollout: "docker-10", Generation: 4, Time: c.hour(4)}, rollout.Told{Generation: 1, Time: c.hour(0)}
	c.ramp("agent", "2", "3", "agent-3")          // 10
	c.ramp("docker", "1.10", "1.12", "docker-12") // 11
	audited(t, js, c.records)
	const ramp = "the ramp is at 25.00%: host 3 of 10 in role web"
	for _, x := range []struct {
		variable rollout.Name
		hour     float64
		want     string
		begins   bool
	}{
		// The first document in the log tells since when it had the value.
		{"docker", 10.5, "1.10 before  by docker-10 of  because ; later docker 1.12 by docker-12", true},
		{"docker", 5, "1.10 before  by docker-10 of  because ; later docker 1.12 by docker-12", true},
		{"docker", 3, " before  by  of  because , before_log", true},
		{"agent", 9, " before  by  of  because , before_log; later agent 3 by agent-3", true},
		{"kernel", 9, " before  by  of  because , before_log", true},
		{"kernel", 10.5, " before  by  of  because , not_told", false},
		{"docker", 12, "1.12 before 1.10 by docker-12 of alice because " + ramp, false},
	} {
		p := past(t, cl, x.variable, c.hour(x.hour))
		if got := inShort(p); got != x.want {
			t.Errorf("%s at %v:\n got %s\nwant %s", x.variable, x.hour, got, x.want)
		}
		if p.LogBegins.IsZero() == x.begins {
			t.Errorf("%s at %v: the log begins at %s", x.variable, x.hour, p.LogBegins)
		}
	}
	if err := js.DeleteStream(within(t), subjects.AuditStream); err != nil {
		t.Fatal(err)
	}
	_, err = cl.Past(within(t), web, "docker", time.Now())
	wantError(t, err, "there is no audit log")
}

func TestPastConfirmation(t *testing.T) {
	nc, js := start(t)
	cl := client(t, nc)
	evidence := func(n uint64) {
		t.Helper()
		for ctx := within(t); ; time.Sleep(5 * time.Millisecond) {
			last, err := bus.LastSequence(ctx, js, subjects.EvidenceStream)
			if err != nil {
				t.Fatal(err)
			}
			if last >= n {
				return
			}
		}
	}
	sent := uint64(0)
	report := func(generation uint64, actual string, check rollout.CheckStatus, checked uint64) {
		t.Helper()
		put(t, js, bus.Message{Subject: subjects.HostSubject(web), Data: encode(t, rollout.Report{
			Role: "web", Generation: generation, Actual: rollout.Document{"docker": value(t, actual)}, Boot: "b",
			Enact:  map[rollout.Name]rollout.Enact{"docker": {Status: rollout.Enacted, Generation: generation}},
			Checks: map[rollout.ID]rollout.Check{"up": {Status: check, Generation: checked}},
		})})
		sent++
		evidence(sent)
	}
	generation := uint64(0)
	told := func(to string, at time.Time, file bool) {
		t.Helper()
		generation++
		tell(t, js, subjects.Change{Host: web, Variable: "docker", Reason: rollout.Reason{Code: rollout.ByRamp}, Actor: "alice", Time: at, Desired: rollout.Desired{
			Generation: generation, Values: rollout.Document{"docker": value(t, to)},
			Told: map[rollout.Name]rollout.Told{"docker": {Generation: generation, Time: at, Checks: []rollout.ID{"up"}, File: file}},
		}})
		sent++
		evidence(sent)
		audited(t, js, generation)
	}
	now := func() time.Time { time.Sleep(2 * time.Millisecond); return time.Now().UTC() }

	first := now()
	told("1", first, false) // before the evidence begins
	report(1, "1", rollout.Passing, 1)
	second := now()
	told("2", second, false)
	report(2, "1", rollout.Passing, 1)
	report(2, "2", rollout.Pending, 2)
	before := now()
	report(2, "2", rollout.Passing, 1) // the check is of before the change
	report(2, "2", rollout.Passing, 2)
	confirmed := now()
	third := now()
	told("3", third, false)
	report(3, "2", rollout.Failing, 3)
	fourth := now()
	told("4", fourth, true)
	put(t, js, bus.Message{Subject: subjects.HostSubject(web), Data: []byte("what is this")})
	sent++
	put(t, js, bus.Message{Subject: subjects.HostSubject(web), Data: encode(t, rollout.Report{Role: "web", Generation: 4, Boot: "b", Checks: map[rollout.ID]rollout.Check{"up": {Status: rollout.Passing, Generation: 4}}})})
	sent++
	evidence(sent)

	for _, x := range []struct {
		name      string
		at        time.Time
		value     string
		confirmed bool
		since     time.Time // confirmed between this and until
		until     time.Time
		unknown   bool
	}{
		{"before the evidence", first, "1", false, time.Time{}, time.Time{}, true},
		{"confirmed, but when isn't known", second.Add(-time.Nanosecond), "1", true, time.Time{}, time.Time{}, true},
		{"confirmed later", before, "2", false, before, confirmed, false},
		{"confirmed", confirmed, "2", true, before, confirmed, false},
		{"never confirmed", third, "3", false, time.Time{}, time.Time{}, false},
		{"in the files", now(), "4", true, fourth, now(), false},
	} {
		p := past(t, cl, "docker", x.at)
		within := p.ConfirmedAt.IsZero()
		if !x.until.IsZero() {
			within = p.ConfirmedAt.After(x.since) && p.ConfirmedAt.Before(x.until)
		}
		if p.Value.Text() != x.value || p.Confirmed != x.confirmed || p.ConfirmedUnknown != x.unknown || !within {
			t.Errorf("%s: %+v", x.name, p)
		}
	}
	if p := past(t, cl, "docker", time.Time{}); !p.Confirmed || p.ConfirmedAt.IsZero() {
		t.Errorf("by all that is known: %+v", p)
	}
	if err := js.DeleteStream(within(t), subjects.EvidenceStream); err != nil {
		t.Fatal(err)
	}
	if p := past(t, cl, "docker", confirmed); p.Confirmed || !p.ConfirmedUnknown || p.Value.Text() != "2" {
		t.Errorf("without evidence: %+v", p)
	}
}
