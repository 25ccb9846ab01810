package fleettest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// history is written by hand, so that the checker can be shown what the
// scheduler should never do.
type history struct {
	t       *testing.T
	at      time.Time
	bucket  []bus.Msg
	reports []bus.Msg
	audit   []bus.Msg
	record  rollout.Record
	docs    map[rollout.Host]*rollout.Desired
	elapsed time.Duration
}

var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	oldValue, _ = rollout.StringValue("1.10.3")
	newValue, _ = rollout.StringValue("1.12.3")
)

const image rollout.Name = "docker_version"

// newHistory has ten hosts of role web with a first document, and a rollout up
// over ten hours of which an hour has gone by.
func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{t: t, at: began, docs: make(map[rollout.Host]*rollout.Desired)}
	for i := range 10 {
		h.join(host(i))
	}
	h.rollout("up", rollout.StateRunning, func(r *rollout.Record) {})
	h.progress("up", true)
	h.pass(time.Hour)
	return h
}

func host(i int) rollout.Host { return rollout.Host(fmt.Sprintf("h%d", i)) }

func (h *history) join(name rollout.Host) {
	h.report(name, oldValue, 0)
	h.tell(name, func(c *subjects.Change) {
		c.Rollout, c.Variable, c.Reason.Code, c.Actor = "", "", rollout.ByFirst, rollout.Scheduler
		c.Desired.Values[image] = oldValue
		c.Desired.Told[image] = rollout.Told{Generation: c.Desired.Generation, Time: h.at}
	})
}

func (h *history) pass(d time.Duration) {
	h.at = h.at.Add(d)
	h.elapsed += d
}

func (h *history) put(kind subjects.Kind, name string, header subjects.Header, body any) {
	h.t.Helper()
	data, ok := body.([]byte)
	if !ok {
		var err error
		if data, err = subjects.Encode(body); err != nil {
			h.t.Fatal(err)
		}
	}
	m := bus.Msg{Subject: kind.Subject(name), Header: header, Data: data, Sequence: uint64(len(h.bucket) + 1), Time: h.at}
	h.bucket = append(h.bucket, m)
	if slices.Contains(subjects.Audited, kind) {
		m.Header = subjects.Header{"Nats-Stream-Source": {fmt.Sprintf("KV_tsunami %d > >", m.Sequence)}}
		m.Subject = subjects.AuditSubject(kind, name)
		m.Sequence = uint64(len(h.audit) + 1)
		h.audit = append(h.audit, m)
	}
}

func (h *history) own() subjects.Header {
	return subjects.Header{subjects.HeaderTime: {h.at.Format(time.RFC3339Nano)}, subjects.HeaderActor: {"scheduler"}}
}

func (h *history) rollout(id rollout.ID, s rollout.State, change func(r *rollout.Record)) {
	r := rollout.Record{
		Spec: rollout.Spec{
			Name: id, Variable: image, To: newValue, Ramp: rollout.Ramp{Over: rollout.Duration(10 * time.Hour)},
			InFlight: rollout.InFlight{Max: 100, PerRole: 100},
		},
		State: s, By: "alice", Author: "alice", Created: began, Changed: h.at, Clock: began, Salt: "x",
	}
	change(&r)
	h.record = r
	h.put(subjects.KindRollout, string(id), h.own(), r)
}

func (h *history) progress(id rollout.ID, running bool) {
	h.put(subjects.KindProgress, string(id), h.own(), rollout.Progress{Step: "x", Elapsed: h.elapsed, Running: running})
}

func (h *history) report(name rollout.Host, actual rollout.Value, generation uint64) {
	data, err := subjects.Encode(rollout.Report{Role: "web", Actual: rollout.Document{image: actual}, Generation: generation, Boot: "b"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.reports = append(h.reports, bus.Msg{Subject: subjects.HostSubject(name), Data: data, Time: h.at, Sequence: uint64(len(h.reports) + 1)})
}

// tell writes a host's next document, by up unless change says otherwise.
func (h *history) tell(name rollout.Host, change func(c *subjects.Change)) {
	h.t.Helper()
	d := rollout.Desired{Generation: 1, Values: rollout.Document{}, Told: map[rollout.Name]rollout.Told{}}
	if old := h.docs[name]; old != nil {
		d.Generation = old.Generation + 1
		maps.Copy(d.Values, old.Values)
		maps.Copy(d.Told, old.Told)
	}
	d.Values[image] = newValue
	d.Told[image] = rollout.Told{Rollout: "up", Generation: d.Generation, Time: h.at}
	c := subjects.Change{Host: name, Desired: d, Rollout: "up", Variable: image, Reason: rollout.Reason{Code: rollout.ByRamp}, Actor: "alice", Time: h.at}
	change(&c)
	header, body, err := c.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	h.put(subjects.KindDesired, string(name), header, body)
	h.docs[name] = &c.Desired
}

func (h *history) plain(name rollout.Host) { h.tell(name, func(*subjects.Change) {}) }

// step tells a host and confirms it, an hour after the last.
func (h *history) step(name rollout.Host) {
	h.plain(name)
	h.progress("up", true)
	h.report(name, newValue, h.docs[name].Generation)
	h.pass(time.Hour)
}

func TestCheckerAcceptsGoodHistories(t *testing.T) {
	h := newHistory(t)
	for i := range 3 {
		h.step(host(i))
	}
	h.put(subjects.KindAbort, "up", nil, []byte("why"))
	sequence := h.bucket[len(h.bucket)-1].Sequence
	h.rollout("up", rollout.StateFrozen, func(*rollout.Record) {})
	h.progress("up", false)
	h.at = h.at.Add(30 * time.Hour)
	h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Acknowledged = sequence })
	h.progress("up", true)
	h.put(subjects.KindDesired, "h3", nil, []byte("rubbish by hand"))
	h.put(subjects.KindStop, "", nil, []byte("why"))
	h.put(subjects.KindStop, "", subjects.Header{subjects.HeaderAcknowledges: {"1"}}, []byte(`{"why":"over"}`))
	for i := 3; i < 10; i++ {
		h.step(host(i))
	}
	c := NewChecker()
	c.Watch("up", 2, 1.1)
	for _, v := range append(c.Take(h.bucket, h.reports, h.at), c.TakeAudit(h.audit)...) {
		t.Error(v)
	}
}

func clock(text string) rollout.TimeOfDay {
	t, err := rollout.ParseTimeOfDay(text)
	if err != nil {
		panic(err)
	}
	return t
}

func (h *history) blackout(b rollout.Blackout) {
	b.Name = "dark"
	h.put(subjects.KindBlackout, "dark", h.own(), b)
}

func (h *history) pin(name rollout.Host, v rollout.Value) {
	h.put(subjects.KindPin, string(name), h.own(), rollout.Pin{Host: name, Values: rollout.Document{image: v}})
}

// back has the host told by a rollback of up.
func (h *history) back(name rollout.Host, v rollout.Value) {
	h.rollout("up-rollback", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Rollback, r.Spec.To, r.Created = "up", rollout.Value{}, h.at })
	h.tell(name, func(c *subjects.Change) {
		c.Rollout, c.Reason.Code = "up-rollback", rollout.ByRollback
		c.Desired.Values[image] = v
		c.Desired.Told[image] = rollout.Told{Rollout: c.Rollout, Generation: c.Desired.Generation, Time: h.at}
	})
}

// canary puts up back to before its clock starts.
func (h *history) canary(canary rollout.Canary) {
	h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Canary, r.Clock = &canary, time.Time{} })
}

// first tells a host as a canary.
func (h *history) first(name rollout.Host) {
	h.tell(name, func(c *subjects.Change) { c.Reason.Code = rollout.ByCanary })
}

// TestCheckerAcceptsSteering has nothing wrong with it: a canary that bakes, a
// pin that comes and goes, a blackout, a release and a rollback.
func TestCheckerAcceptsSteering(t *testing.T) {
	h := newHistory(t)
	bake := rollout.Canary{PerRole: 1, Bake: rollout.Duration(time.Hour)}
	h.canary(bake)
	h.first("h1")
	h.pass(time.Minute)
	h.report("h1", newValue, 2)
	h.pass(time.Hour)
	h.elapsed = 0
	h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Canary, r.Clock = &bake, h.at })
	h.progress("up", true)
	h.pin("h2", oldValue)
	h.tell("h2", func(c *subjects.Change) {
		c.Rollout, c.Reason.Code, c.Desired.Values[image] = "", rollout.ByPin, oldValue
		c.Desired.Told[image] = rollout.Told{Generation: c.Desired.Generation, Time: h.at, Pin: true}
	})
	h.pass(5 * time.Hour)
	h.step("h3")
	h.put(subjects.KindPin, "h2", subjects.Header{"KV-Operation": {"DEL"}}, []byte{})
	h.step("h2")
	h.plain("h4")
	h.tell("h4", func(c *subjects.Change) {
		c.Reason.Code, c.Desired.Told[image] = rollout.ByRelease, h.docs["h4"].Told[image]
		told := c.Desired.Told[image]
		told.Released = true
		c.Desired.Told[image] = told
	})
	h.progress("up", true)
	h.blackout(rollout.Blackout{From: h.at, Until: h.at.Add(time.Hour)})
	h.progress("up", false)
	h.back("h3", oldValue)
	for _, v := range NewChecker().Take(h.bucket, h.reports, h.at) {
		t.Error(v)
	}
}

// TestCheckerReadsCalendars has rules by the clock on the wall, in the nights in
// which it is changed too.
func TestCheckerReadsCalendars(t *testing.T) {
	night := rollout.Rule{From: clock("22:00"), To: clock("02:30"), Zone: "Europe/Stockholm", Days: []rollout.Weekday{"sat"}}
	last := rollout.Rule{MonthDays: []rollout.MonthDays{{First: -2, Last: -1}}, Months: []rollout.Month{"feb"}}
	for _, tt := range []struct {
		rule rollout.Rule
		at   string
		want bool
	}{
		{night, "2027-03-27T21:59+01:00", false}, {night, "2027-03-27T22:00+01:00", true},
		{night, "2027-03-28T01:59+01:00", true}, {night, "2027-03-28T03:00+02:00", false},
		{night, "2027-03-28T22:30+02:00", false}, {night, "2027-10-31T02:29+02:00", true},
		{night, "2027-10-31T02:31+02:00", false}, {night, "2027-10-31T02:29+01:00", true},
		{last, "2028-02-27T23:59Z", false}, {last, "2028-02-28T00:00Z", true}, {last, "2028-02-29T12:00Z", true},
		{last, "2028-03-01T00:00Z", false}, {last, "2028-01-31T00:00Z", false},
	} {
		at, err := readTime(tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if have := shows(&tt.rule, at); have != tt.want {
			t.Errorf("%+v at %s: %v", tt.rule, tt.at, have)
		}
	}
}

// TestCheckerSeesBadHistories seeds each violation and wants it found.
func TestCheckerSeesBadHistories(t *testing.T) {
	tests := map[string]struct {
		want Rule
		bad  func(h *history)
	}{
		"more than the target": {OverTarget, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Ramp.Percent = 10 })
			h.pass(9 * time.Hour)
			h.plain("h1")
			h.plain("h2")
		}},
		"more than a limit": {OverTarget, func(h *history) {
			most := 2
			h.pass(9 * time.Hour)
			h.record.Spec.Limits = []rollout.Limit{{Where: "role == 'web'", AtMost: &most}}
			h.put(subjects.KindRollout, "on", h.own(), h.record)
			for i := range 3 {
				h.tell(host(i), func(c *subjects.Change) {
					c.Rollout = "on"
					c.Desired.Told[image] = rollout.Told{Rollout: "on", Generation: c.Desired.Generation, Time: h.at}
				})
			}
		}},
		"a host that isn't selected": {OverTarget, func(h *history) {
			h.record.Spec.Where = "role == 'db'"
			h.put(subjects.KindRollout, "on", h.own(), h.record)
			h.tell("h1", func(c *subjects.Change) { c.Rollout = "on" })
		}},
		"too many in flight": {OverFlight, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.InFlight.Max = 10 })
			h.pass(9 * time.Hour)
			h.plain("h1")
			h.plain("h2")
		}},
		"too many of a role in flight": {OverFlight, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.InFlight.PerRole = 10 })
			h.pass(9 * time.Hour)
			h.plain("h1")
			h.plain("h2")
		}},
		"one that never confirmed": {OverFlight, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.InFlight.Max = 10 })
			h.pass(9 * time.Hour)
			h.plain("h1")
			h.report("h1", oldValue, 2) // it took the document and runs the old value
			h.pass(time.Minute)
			h.plain("h2")
		}},
		"ahead of its line": {OffLine, func(h *history) {
			for i := range 3 {
				h.plain(host(i))
			}
			h.progress("up", true)
		}},
		"behind its line": {OffLine, func(h *history) { h.pass(4 * time.Hour); h.progress("up", true) }},
		"a burst": {TooFast, func(h *history) {
			h.pass(9 * time.Hour)
			for i := range 8 {
				h.plain(host(i))
			}
		}},
		"a host told twice":                {ToldTwice, func(h *history) { h.step("h1"); h.step("h1") }},
		"a host taken back":                {TakenBack, func(h *history) { h.takenBack() }},
		"no actor":                         {Unexplained, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Actor = "" }) }},
		"no reason":                        {Unexplained, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Reason = rollout.Reason{} }) }},
		"an unknown rollout":               {Unexplained, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Rollout = "nobody" }) }},
		"another value than the rollout's": {Unexplained, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Desired.Values[image] = oldValue }) }},
		"told while paused":                {NotRunning, func(h *history) { h.rollout("up", rollout.StatePaused, func(*rollout.Record) {}); h.plain("h1") }},
		"told by a cancelled rollout":      {NotRunning, func(h *history) { h.rollout("up", rollout.StateCancelled, func(*rollout.Record) {}); h.plain("h1") }},
		"told after an abort":              {AfterAbort, func(h *history) { h.put(subjects.KindAbort, "up", nil, []byte("why")); h.plain("h1") }},
		"told after an abort was deleted": {AfterAbort, func(h *history) {
			h.put(subjects.KindAbort, "up", subjects.Header{"KV-Operation": {"DEL"}}, []byte{})
			h.plain("h1")
		}},
		"resumed without the newest abort": {AfterAbort, func(h *history) { h.resumedTooSoon() }},
		"told after a stop":                {AfterStop, func(h *history) { h.put(subjects.KindStop, "", nil, []byte("why")); h.plain("h1") }},
		"a first document after a stop":    {AfterStop, func(h *history) { h.put(subjects.KindStop, "", nil, []byte("why")); h.join("late") }},
		"a generation left out":            {Generations, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Desired.Generation++ }) }},
		"a generation again":               {Generations, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Desired.Generation-- }) }},
		"a generation below the host's":    {Generations, func(h *history) { h.report("h1", oldValue, 7); h.pass(time.Minute); h.plain("h1") }},
		"a second variable":                {OneChange, func(h *history) { h.tell("h1", func(c *subjects.Change) { c.Desired.Values["kernel"] = oldValue }) }},
		"a variable lost": {OneChange, func(h *history) {
			h.tell("h1", func(c *subjects.Change) { delete(c.Desired.Values, image); c.Variable = "kernel" })
		}},
		"a clock that runs ahead":            {Clock, func(h *history) { h.elapsed += time.Hour; h.progress("up", true) }},
		"a clock that runs while it stopped": {Clock, func(h *history) { h.progress("up", false); h.pass(time.Hour); h.progress("up", false) }},
		"told outside a window": {OutsideWindow, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) {
				r.Spec.Windows = []rollout.Rule{{From: clock("22:00"), To: clock("01:00"), Zone: "Europe/Stockholm"}}
			})
			h.plain("h1") // 02:00 in Stockholm
		}},
		"told without evidence": {NoEvidence, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Guard = &rollout.Guard{Objectives: []rollout.ID{"healthy"}} })
			h.put(subjects.KindGuard, "", nil, subjects.Guard{Rollouts: map[rollout.ID]*subjects.Clearance{"up": {For: rollout.Duration(time.Minute)}}})
			h.pass(2 * time.Minute)
			h.plain("h1")
		}},
		"told in a blackout": {InBlackout, func(h *history) { h.blackout(rollout.Blackout{From: h.at, Until: h.at.Add(1)}); h.plain("h1") }},
		"told in a blackout of its role": {InBlackout, func(h *history) {
			h.blackout(rollout.Blackout{Every: []rollout.Rule{{Days: []rollout.Weekday{"sat"}}}, Where: "role == 'web'"})
			h.plain("h1")
		}},
		"a clock that runs in a blackout": {Clock, func(h *history) {
			h.progress("up", true)
			h.blackout(rollout.Blackout{From: h.at, Until: h.at.Add(time.Hour)})
			h.pass(time.Hour)
			h.progress("up", true)
		}},
		"a pinned host moved": {PinMoved, func(h *history) { h.pin("h1", oldValue); h.plain("h1") }},
		"a pin that tells another value": {PinMoved, func(h *history) {
			h.pin("h1", oldValue)
			h.tell("h1", func(c *subjects.Change) { c.Rollout, c.Reason.Code = "", rollout.ByPin })
		}},
		"a rollback to another value":              {WrongBack, func(h *history) { h.step("h1"); h.back("h1", newValue) }},
		"a rollback of a host that it isn't about": {WrongBack, func(h *history) { h.step("h1"); h.back("h2", oldValue) }},
		"a release that tells something": {Unexplained, func(h *history) {
			h.plain("h1")
			h.tell("h1", func(c *subjects.Change) {
				c.Reason.Code = rollout.ByRelease
				c.Desired.Values[image] = oldValue
			})
		}},
		"a host that hasn't settled": {TooSoon, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Settle = rollout.Duration(2 * time.Hour) })
			h.plain("h1")
		}},
		"an excluded host": {OverTarget, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Exclude = []rollout.Host{"h1"} })
			h.plain("h1")
		}},
		"started too early": {Unstarted, func(h *history) {
			h.rollout("on", rollout.StatePending, func(*rollout.Record) {})
			h.rollout("on", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Start = h.at.Add(time.Minute) })
		}},
		"started before another": {Unstarted, func(h *history) {
			h.rollout("on", rollout.StatePending, func(*rollout.Record) {})
			h.rollout("on", rollout.StateRunning, func(r *rollout.Record) { r.Spec.After = "up" })
		}},
		"approved by its author": {Unstarted, func(h *history) {
			h.rollout("on", rollout.StatePending, func(*rollout.Record) {})
			h.rollout("on", rollout.StateRunning, func(r *rollout.Record) {
				r.Spec.Approvals, r.Approvals = 1, []rollout.Approval{{By: "alice"}}
			})
		}},
		"told before the canary":       {Unstarted, func(h *history) { h.canary(rollout.Canary{Hosts: 1}); h.plain("h1") }},
		"more canaries than there are": {ManyCanaries, func(h *history) { h.canary(rollout.Canary{PerRole: 1}); h.first("h1"); h.first("h2") }},
		"a canary that isn't one":      {ManyCanaries, func(h *history) { h.canary(rollout.Canary{Where: "host == 'h2'"}); h.first("h1") }},
		"a canary of none":             {ManyCanaries, func(h *history) { h.first("h1") }},
		"a canary that hasn't confirmed": {Unstarted, func(h *history) {
			h.canary(rollout.Canary{Hosts: 1})
			h.first("h1")
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Canary = &rollout.Canary{Hosts: 1} })
		}},
		"a canary that hasn't baked": {Unstarted, func(h *history) {
			bake := rollout.Canary{Hosts: 1, Bake: rollout.Duration(time.Hour)}
			h.canary(bake)
			h.first("h1")
			h.pass(time.Minute)
			h.report("h1", newValue, 2)
			h.pass(time.Minute)
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Canary = &bake })
		}},
		"a wave before its approval": {OffLine, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) {
				r.Spec.Ramp = rollout.Ramp{Shape: rollout.Waves, Waves: []rollout.Wave{{Percent: 10, Hold: rollout.Duration(time.Hour)}, {Percent: 100, Approval: true}}}
			})
			for i := range 3 {
				h.plain(host(i))
			}
			h.progress("up", true)
		}},
		"ahead of a slow start": {OffLine, func(h *history) {
			h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Spec.Ramp.Shape, r.Spec.Ramp.Growth = rollout.Exponential, 1000 })
			h.plain("h1")
			h.plain("h2")
			h.progress("up", true)
		}},
		"a change that isn't audited":       {NotAudited, func(h *history) { h.step("h1"); h.audit = h.audit[:len(h.audit)-1] }},
		"an audit record with another body": {NotAudited, func(h *history) { h.step("h1"); h.audit[len(h.audit)-1].Data = []byte("{}") }},
		"a change audited twice":            {AuditedTwice, func(h *history) { h.step("h1"); h.audit = append(h.audit, h.audit[len(h.audit)-1]) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t)
			tt.bad(h)
			c := NewChecker()
			c.Watch("up", 2, 1.1)
			found := append(c.Take(h.bucket, h.reports, h.at), c.TakeAudit(h.audit)...)
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == tt.want }) {
				t.Errorf("not found: %s; found: %v", tt.want, found)
			}
		})
	}
}

// takenBack has h1 told by a newer rollout first.
func (h *history) takenBack() {
	h.rollout("newer", rollout.StateRunning, func(r *rollout.Record) { r.Created = began.Add(time.Minute) })
	h.tell("h1", func(c *subjects.Change) {
		c.Rollout = "newer"
		c.Desired.Told[image] = rollout.Told{Rollout: "newer", Generation: c.Desired.Generation, Time: h.at}
	})
	h.plain("h1")
}

func (h *history) resumedTooSoon() {
	h.put(subjects.KindAbort, "up", nil, []byte("why"))
	first := h.bucket[len(h.bucket)-1].Sequence
	h.put(subjects.KindAbort, "up", nil, []byte("and again"))
	h.rollout("up", rollout.StateRunning, func(r *rollout.Record) { r.Acknowledged = first })
	h.plain("h1")
}

func TestScriptsAreStrict(t *testing.T) {
	for text, want := range map[string]string{
		"hosts 3\nfleet":       "before the first command",
		"fleet colour=red":     `"colour=red" says nothing`,
		"jump h3":              "no such command",
		"repeat 3\n  stop why": "no end",
		"end":                  "no repeat",
		`pause up "because`:    `a " is missing`,
		"fleet at=tomorrow":    "cannot parse",
	} {
		if _, _, err := parseScript(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	lines, head, err := parseScript("fleet seeds=3 renew=10m trace # comment\n\nrepeat 2\n  stop \"a b\"\nend\nadvance 1h")
	if err != nil || head.seeds != 3 || head.options.Renew != 10*time.Minute || !head.trace || len(lines) != 2 || len(lines[0].block) != 1 || lines[0].block[0].words[1] != "a b" {
		t.Errorf("%+v, %+v, %v", lines, head, err)
	}
}

func TestDocumentsStandIndented(t *testing.T) {
	text := "repeat 2\n  refuse because=x apply\n    kind: Rollout\n    ramp:\n\n      over: 1d # not a command\n    ---\n    kind: Pin\n  advance 1h\nend\napply\n  a: b\n"
	lines, _, err := parseScript(text)
	if err != nil || len(lines) != 2 || len(lines[0].block) != 2 {
		t.Fatalf("%+v, %v", lines, err)
	}
	if have, want := lines[0].block[0].documents, "kind: Rollout\nramp:\n\n  over: 1d # not a command\n---\nkind: Pin\n"; have != want {
		t.Errorf("%q, want %q", have, want)
	}
	if have := lines[1].documents; have != "a: b\n\n" {
		t.Errorf("%q at the end", have)
	}
}

func TestConditions(t *testing.T) {
	for _, tt := range []struct {
		condition, have string
		want            bool
	}{
		{"state=running", "running", true}, {"state=running", "paused", false},
		{"told=3", "3", true}, {"told~150", "152", true}, {"told~150", "153", false},
		{"told<=5", "5", true}, {"told<=5", "6", false}, {"told>=5", "4", false},
		{"elapsed~3d", "2d23h", true}, {"elapsed~3d", "2d21h", false}, {"ends>=1w", "8d", true},
		{"says~web", "1 of role web", true}, {"says~db", "1 of role web", false},
	} {
		c, err := parseConditions([]string{tt.condition})
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := c[0].holds(tt.have, 2); err != nil || ok != tt.want {
			t.Errorf("%s of %s: %v, %v", tt.condition, tt.have, ok, err)
		}
	}
}
