package scheduler

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func (r *rig) apply(dry bool, docs ...string) []control.ApplyResult {
	r.t.Helper()
	out, err := r.tryApply(dry, docs...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) tryApply(dry bool, docs ...string) ([]control.ApplyResult, error) {
	r.t.Helper()
	q := control.ApplyRequest{DryRun: dry}
	for _, d := range docs {
		q.Documents = append(q.Documents, document(r.t, d))
	}
	var out control.ApplyResponse
	err := r.call(control.Apply, q, &out)
	return out.Results, err
}

// changes counts the records of all that documents make.
func (r *rig) changes() int {
	r.t.Helper()
	n := 0
	for _, kind := range []subjects.Kind{subjects.KindVariable, subjects.KindBlackout, subjects.KindPin, subjects.KindRollout} {
		n += len(must(bus.History(r.t.Context(), r.js, subjects.Stream, kind.Pattern())))
	}
	return n
}

func actions(results []control.ApplyResult) string {
	var out []string
	for _, r := range results {
		out = append(out, r.Kind+" "+r.Action)
	}
	return strings.Join(out, ", ")
}

// Documents in any order become true together, the same file twice changes
// nothing, and a dry run says just what would be done.
func TestApplyIsDeclarative(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(3)
	docs := []string{
		`{"kind":"Rollout","name":"second","variable":"channel","to":"beta","after":"first","ramp":{"shape":"exponential","over":"1h"}}`,
		`{"kind":"Rollout","name":"first","variable":"workers","to":8,"start":"2090-01-01T00:00:00Z","approvals":2,"windows":[{"days":["mon"],"from":"09:00","to":"16:00"}],"ramp":{"over":"1w"},"exclude":["h02.example.net"]}`,
		`{"kind":"Pin","host":"h00.example.net","values":{"workers":4},"why":"slow disk"}`,
		`{"kind":"Blackout","name":"weekend","every":[{"days":["sat","sun"]}],"where":"role == \"db\""}`,
		`{"kind":"Variable","name":"workers","type":"integer","initial":2}`,
		`{"kind":"Variable","name":"channel","type":"string"}`,
	}
	before := r.changes()
	dry := r.apply(true, docs...)
	if got := actions(dry); got != "Rollout created, Rollout created, Pin created, Blackout created, Variable created, Variable created" {
		t.Errorf("dry run: %s", got)
	}
	if n := r.changes(); n != before {
		t.Errorf("the dry run wrote %d records", n-before)
	}
	done := r.apply(false, docs...)
	for _, results := range [][]control.ApplyResult{dry, done} {
		if p := results[0].Plan; p == nil || p.Target != 3 || p.Ends.IsZero() {
			t.Errorf("the plan of a rollout whose variable is created with it: %+v", p)
		}
		results[0].Plan = nil // it counts from now
	}
	if !reflect.DeepEqual(done, dry) {
		t.Errorf("the dry run said %+v, done was %+v", dry, done)
	}
	written := r.changes()
	if n := written - before; n != len(docs) {
		t.Errorf("%d records were written", n)
	}
	again := r.apply(false, docs...)
	if got := actions(again); strings.Contains(got, "created") || strings.Contains(got, "changed,") && !strings.Contains(got, "unchanged,") {
		t.Errorf("again: %s", got)
	}
	var all []control.Document
	for _, kind := range []string{"Rollout", "Variable", "Pin", "Blackout"} {
		var got control.GetResponse
		r.mustCall(control.Get, control.GetRequest{Kind: kind}, &got)
		all = append(all, got.Documents...)
	}
	if len(all) != len(docs)+1 {
		t.Fatalf("%d documents came back", len(all))
	}
	var out control.ApplyResponse
	r.mustCall(control.Apply, control.ApplyRequest{Documents: all}, &out)
	for _, result := range out.Results {
		if result.Action != unchanged {
			t.Errorf("what get gave is %s: %+v", result.Action, result)
		}
	}
	if n := r.changes(); n != written {
		t.Errorf("applied again, %d records were written", n-written)
	}
	r.wantAccount(subjects.KindPin, "h00.example.net", "alice", "slow disk")

	for what, docs := range map[string][]string{
		"rollback":            {`{"kind":"Rollout","name":"x","variable":"channel","rollback":"first","ramp":{"over":"1h"}}`},
		"by":                  {`{"kind":"Pin","host":"h01.example.net","values":{"workers":4},"by":"bob"}`},
		"twice":               {docs[4], docs[4]},
		"there is no host":    {`{"kind":"Pin","host":"no.example.net","values":{"workers":4}}`},
		"the least is 3":      {`{"kind":"Variable","name":"workers","type":"integer","initial":5,"min":3}`},
		"the most is 3":       {`{"kind":"Variable","name":"workers","type":"integer","initial":2,"max":3}`},
		"moves workers too":   {`{"kind":"Rollout","name":"third","variable":"v","to":1,"ramp":{"over":"1h"}}`, `{"kind":"Rollout","name":"fourth","variable":"v","to":1,"ramp":{"over":"1h"}}`, `{"kind":"Variable","name":"v","type":"integer"}`},
		"have another name":   {strings.Replace(docs[1], "workers", "channel", 1)},
		"of another variable": {strings.Replace(docs[0], `"channel"`, `"workers"`, 1)},
	} {
		_, err := r.tryApply(false, docs...)
		if err == nil {
			t.Errorf("%s: taken", what)
		} else if what == "rollback" && !strings.Contains(err.Error(), "tsunamictl rollout rollback") || what == "the most is 3" && !strings.Contains(err.Error(), "workers") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for kind, name := range map[string]string{"pin": "h00.example.net", "blackout": "weekend"} {
		r.mustCall(control.Delete, control.DeleteRequest{Kind: kind, Name: name}, nil)
		if err := r.call(control.Get, control.GetRequest{Kind: kind, Name: name}, nil); !errors.Is(err, rollout.ErrNotFound) {
			t.Errorf("%s after it was deleted: %v", kind, err)
		}
		if err := r.call(control.Delete, control.DeleteRequest{Kind: kind, Name: name}, nil); !errors.Is(err, rollout.ErrNotFound) {
			t.Errorf("%s deleted twice: %v", kind, err)
		}
	}
	if err := r.call(control.Delete, control.DeleteRequest{Kind: "rollout", Name: "first"}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("a rollout was deleted: %v", err)
	}
}

// A file with a pin whose time has passed stays applicable.
func TestPinOfThePast(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(1)
	out := r.apply(false, `{"kind":"Pin","host":"h00.example.net","values":{"docker_version":"1.10.3"},"until":"2020-01-01T00:00:00Z"}`)
	if out[0].Action != unchanged || out[0].Note == "" || r.hostView(h00).Pin != nil {
		t.Errorf("%+v", out)
	}
}

// A changed document changes the rollout that runs, is planned beforehand, and
// stands on the audit log with what it changed.
func TestChangedRollout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	const was = `{"kind":"Rollout","name":"up","variable":"docker_version","to":"1.12.3","ramp":{"over":"1h"},"inFlight":{"max":50,"perRole":100}}`
	now := strings.Replace(was, "1h", "2s", 1)
	r.apply(false, was)
	r.mustAdvance("up", 50)
	dry := r.apply(true, now)
	want := []control.FieldChange{{Field: "ramp.over", From: json.RawMessage(`"1h"`), To: json.RawMessage(`"2s"`)}}
	if len(dry) != 1 || dry[0].Action != changed || !reflect.DeepEqual(dry[0].Changes, want) {
		t.Fatalf("dry run: %+v", dry)
	}
	p := dry[0].Plan
	if p == nil || p.Told != 3 || p.Target != 6 || p.TargetBefore != 6 || p.EndsBefore.Sub(p.Ends) < 20*time.Minute {
		t.Errorf("the plan: %+v", p)
	}
	if v := r.show("up"); v.Over != rollout.Duration(time.Hour) {
		t.Errorf("the dry run changed it: over %s", v.Over)
	}
	if _, err := r.tryApply(false, strings.Replace(now, "1.12.3", "1.10.3", 1)); err == nil || !strings.Contains(err.Error(), "to: ") {
		t.Errorf("another value: %v", err)
	}
	done := r.apply(false, now)
	if done[0].Action != changed || !reflect.DeepEqual(done[0].Changes, want) {
		t.Errorf("done: %+v", done)
	}
	r.wantAccount(subjects.KindRollout, "up", "alice", "changed ramp.over from 1h to 2s")
	if out := r.apply(false, now); out[0].Action != unchanged {
		t.Errorf("again: %+v", out)
	}
	r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 6 {
		t.Errorf("%d told", n)
	}
	if _, err := r.tryApply(false, was); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("changed after its end: %v", err)
	}
}

// What was put into the bucket by hand pins nothing and holds nothing; the last
// good record counts, after a restart too, and one that was ended stays so.
func TestPinsAndBlackoutsByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(2)
	r.apply(false,
		`{"kind":"Pin","host":"h00.example.net","values":{"docker_version":"1.10.3"}}`,
		`{"kind":"Pin","host":"h01.example.net","values":{"docker_version":"1.10.3"}}`,
		`{"kind":"Blackout","name":"late","from":"2090-01-01T00:00:00Z","until":"2091-01-01T00:00:00Z"}`,
	)
	r.mustCall(control.HostUnpin, control.PinRequest{Host: h01, Why: "over"}, nil)
	for kind, body := range map[string]string{
		"pin.h00.example.net": `{"host":"h00.example.net","values":{"docker_version":"6.6.6"}}`,
		"pin.h01.example.net": `{"host":"h01.example.net","values":{"docker_version":"6.6.6"}}`,
		"pin.never.here":      `{}`,
		"blackout.late":       `{"name":"late","from":"2000-01-01T00:00:00Z","until":"2091-01-01T00:00:00Z"}`,
		"blackout.new":        `{"name":"new","from":"2000-01-01T00:00:00Z","until":"2091-01-01T00:00:00Z"}`,
	} {
		if _, err := bus.Put(t.Context(), r.js, bus.Message{Subject: "$KV.tsunami." + kind, Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		var s control.StatusView
		r.until(when+": the hand is mentioned", func() bool {
			r.mustCall(control.Status, control.Empty{}, &s)
			return len(s.Warnings) >= 5
		})
		var list []control.BlackoutView
		r.mustCall(control.BlackoutList, control.Empty{}, &list)
		if len(list) != 1 || list[0].InForce {
			t.Errorf("%s: blackouts %+v", when, list)
		}
		if p := r.hostView(h00).Pin; p == nil || p.Values["docker_version"].Text() != "1.10.3" {
			t.Errorf("%s: pinned %+v", when, p)
		}
		if p := r.hostView(h01).Pin; p != nil {
			t.Errorf("%s: a pin that was ended is back: %+v", when, p)
		}
	}
	check("at once")
	r.stop()
	r.schedule()
	check("after a restart")
	out := r.apply(false, `{"kind":"Pin","host":"h00.example.net","values":{"docker_version":"1.10.3"}}`)
	if out[0].Action != changed {
		t.Errorf("applied anew: %+v", out)
	}
	if p := r.hostView(h00).Problems; len(p) != 0 {
		t.Errorf("problems are left: %q", p)
	}
}

func TestDifference(t *testing.T) {
	t.Parallel()
	percent := func(p rollout.Percent, where string) rollout.Limit { return rollout.Limit{Percent: p, Where: where} }
	a := rollout.Spec{Name: "r", Variable: "v", Ramp: rollout.Ramp{Over: rollout.Duration(time.Hour)}, Limits: []rollout.Limit{percent(3, ""), percent(4, "x < 1")}}
	b := a
	b.Ramp.Over, b.Settle, b.Limits = rollout.Duration(time.Minute), rollout.Duration(time.Second), []rollout.Limit{percent(5, "")}
	got := must(difference(a, b))
	want := []control.FieldChange{
		{Field: "limits[0].percent", From: json.RawMessage("3"), To: json.RawMessage("5")},
		{Field: "limits[1].percent", From: json.RawMessage("4")},
		{Field: "limits[1].where", From: json.RawMessage(`"x < 1"`)},
		{Field: "ramp.over", From: json.RawMessage(`"1h"`), To: json.RawMessage(`"1m"`)},
		{Field: "settle", To: json.RawMessage(`"1s"`)},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s", must(json.Marshal(got)))
	}
	if s := sentence(got); s != "changed limits[0].percent from 3 to 5, limits[1].percent from 4 to nothing, limits[1].where from x < 1 to nothing, ramp.over from 1h to 1m, settle from nothing to 1s" {
		t.Error(s)
	}
	if got := must(difference(a, a)); len(got) != 0 || sentence(got) != "" {
		t.Errorf("the same differs: %+v", got)
	}
	long := b
	for range 100 {
		long.Limits = append(long.Limits, percent(5, strings.Repeat("w", 100)))
	}
	if s := sentence(must(difference(a, long))); len(s) > maxWhy+20 || !strings.Contains(s, " more") {
		t.Errorf("%d bytes: %s", len(s), s)
	}
}

// A plan in short: its days, zones and curve add up to its hosts.
func TestPlanView(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 12, 1, 23, 0, 0, 0, time.UTC)
	p := rollout.Plan{Starts: start, Clock: start, Ends: start.Add(2 * time.Hour), Length: 2 * time.Hour, Target: 14, Told: 2, Costs: map[rollout.Code]time.Duration{rollout.InFlightLimit: time.Hour, rollout.OutsideWindow: 2 * time.Hour}}
	for i := range 12 {
		zone := rollout.Word("a")
		if i%3 == 0 {
			zone = ""
		}
		p.Hosts = append(p.Hosts, rollout.Planned{Host: rollout.Host(rune('a' + i)), Zone: zone, Due: start.Add(time.Duration(i+1) * 10 * time.Minute), Canary: i == 0})
	}
	v := planView(control.PlanRequest{First: 2, Last: 3}, "r", p)
	if len(v.Hosts) != 5 || v.Omitted != 7 || !v.Hosts[0].Canary {
		t.Errorf("hosts %+v, omitted %d", v.Hosts, v.Omitted)
	}
	if want := []control.PlanDay{{Day: "2026-12-01", Hosts: 5, Total: 7}, {Day: "2026-12-02", Hosts: 7, Total: 14}}; !reflect.DeepEqual(v.Days, want) {
		t.Errorf("days %+v", v.Days)
	}
	if len(v.Zones) != 2 || v.Zones[0].Hosts != 4 || v.Zones[1].Zone != "a" || v.Zones[1].Hosts != 8 || !v.Zones[1].Last.Equal(p.Ends) {
		t.Errorf("zones %+v", v.Zones)
	}
	last := v.Curve[len(v.Curve)-1]
	if len(v.Curve) != 61 || v.Curve[0].Hosts != 2 || v.Curve[30].Hosts != 8 || last.Hosts != 14 || !last.Time.Equal(p.Ends) {
		t.Errorf("the curve %+v", v.Curve)
	}
	if len(v.Costs) != 2 || v.Costs[0].Reason != rollout.OutsideWindow {
		t.Errorf("costs %+v", v.Costs)
	}
	if v := planView(control.PlanRequest{}, "r", rollout.Plan{Starts: start, Ends: start, Told: 3}); len(v.Curve) != 1 || v.Curve[0].Hosts != 3 || len(v.Days) != 0 || v.Zones != nil {
		t.Errorf("nothing to plan: %+v", v)
	}
}
