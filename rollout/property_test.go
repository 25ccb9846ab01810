package rollout

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var longRun = flag.Int("rollout.steps", 100_000, "how many steps TestWhatMustAlwaysHold generates at least: go test ./rollout -run WhatMustAlwaysHold -rollout.steps 5000000 -timeout 10h")

// A generated fleet goes through this many steps, on average. The seed that a
// failure prints is of one fleet, and means another one with another number.
const stepsPerFleet = 100

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.steps", strconv.Itoa(stepsPerFleet)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var spans = []time.Duration{time.Second, 20 * time.Second, time.Minute, 3 * time.Minute, 20 * time.Minute}

// world is the state machine of the property test.
type world struct {
	*fleet
	hostNo, rolloutNo int
	values            []Value
}

func (w *world) pick(t *rapid.T, label string) (Host, bool) {
	all := w.hosts()
	if len(all) == 0 {
		return "", false
	}
	return rapid.SampledFrom(all).Draw(t, label), true
}

func (w *world) Join(t *rapid.T) {
	for range min(40-w.hostNo, rapid.IntRange(1, 8).Draw(t, "hosts")) {
		w.hostNo++
		actual := Document{}
		for _, name := range names {
			if v := rapid.SampledFrom(append([]Value{{}}, w.values...)).Draw(t, "runs"); !v.IsZero() {
				actual[name] = v
			}
		}
		w.join(Host(fmt.Sprintf("h%d", w.hostNo)), rapid.SampledFrom(roles).Draw(t, "role"),
			map[Word]Word{"zone": rapid.SampledFrom(zones).Draw(t, "zone")}, actual)
	}
}

func (w *world) Presence(t *rapid.T) {
	if h, ok := w.pick(t, "host"); ok {
		w.see(h, rapid.SampledFrom([]Presence{Offline, Online, Online, Gone}).Draw(t, "presence"))
	}
}

// Night takes a whole zone away for a while; its places lapse.
func (w *world) Night(t *rapid.T) {
	zone := rapid.SampledFrom(zones).Draw(t, "zone")
	each := func(p Presence) {
		for _, h := range w.hosts() {
			if w.reports[h].Labels["zone"] == zone {
				w.see(h, p)
			}
		}
	}
	each(Offline)
	w.Advance(t)
	each(Online)
}

func (w *world) Role(t *rapid.T) {
	if h, ok := w.pick(t, "host"); ok {
		r := w.reports[h]
		r.Role = rapid.SampledFrom(roles).Draw(t, "role")
		r.Labels = map[Word]Word{"zone": rapid.SampledFrom(zones).Draw(t, "zone")}
		w.report(h, r)
	}
}

func (w *world) Break(t *rapid.T) {
	if h, ok := w.pick(t, "host"); ok {
		w.agents[h].broken = rapid.Bool().Draw(t, "broken")
		w.deliver(h)
	}
}

func (w *world) Drift(t *rapid.T) {
	if h, ok := w.pick(t, "host"); ok {
		r := w.reports[h]
		r.Actual = maps.Clone(r.Actual)
		if r.Actual == nil {
			r.Actual = Document{}
		}
		r.Actual[oneOf(t, "variable", names...)] = rapid.SampledFrom(w.values).Draw(t, "runs")
		w.report(h, r)
	}
}

func (w *world) Decommission(t *rapid.T) {
	if h, ok := w.pick(t, "host"); ok && w.leading && !w.out[h] {
		w.decommission(h)
		if rapid.Bool().Draw(t, "back") {
			r := w.reports[h]
			w.join(h, r.Role, r.Labels, r.Actual)
		}
	}
}

func (w *world) Damage(t *rapid.T) {
	if h, ok := w.pick(t, "host"); ok && !w.out[h] && w.desired[h].Generation > 0 {
		w.damaged[h] = true
		w.put(func(s *Snapshot) { s.PutDamaged(h) })
	}
}

func (w *world) Pin(t *rapid.T) {
	h, ok := w.pick(t, "host")
	if !ok {
		return
	}
	switch _, pinned := w.pins[h]; {
	case pinned && rapid.Bool().Draw(t, "unpin"):
		w.pin(h, nil)
	default:
		p := w.newPin(t, h)
		if err := w.snap.AdmitPin(p, nil, w.now); err == nil {
			w.pin(h, p)
		} else if !w.out[h] {
			t.Fatal(err)
		}
	}
}

func (w *world) Blackout(t *rapid.T) {
	b := w.newBlackout(t)
	if _, ok := w.blackouts[b.Name]; ok && rapid.Bool().Draw(t, "lifted") {
		w.blackout(b.Name, nil)
		return
	}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	w.blackout(b.Name, b)
}

func (w *world) Start(t *rapid.T) {
	if !w.leading {
		return
	}
	spec := w.spec(t)
	live, back := ID(""), false
	for _, id := range w.states(StatePending, StateRunning, StatePaused, StateFrozen) {
		if s := w.rollouts[id].Spec; s.Variable == spec.Variable {
			live, back = id, back || s.Rollback != ""
		}
	}
	if live != "" && rapid.Bool().Draw(t, "supersede") {
		spec.Supersedes = live
	}
	err := w.start(spec)
	switch {
	case live != "" && (spec.Supersedes == "" || back):
		if !errors.Is(err, ErrRefused) {
			t.Fatalf("beside %s: %v", live, err)
		}
	case errors.Is(err, ErrRefused):
		t.Fatal(err)
	}
}

func (w *world) live(t *rapid.T) (ID, bool) {
	ids := w.states(StatePending, StateRunning, StatePaused, StateFrozen, StateCompleted)
	if len(ids) == 0 {
		return "", false
	}
	return rapid.SampledFrom(ids).Draw(t, "rollout"), true
}

// asks commits what an operator's command made, unless it was refused.
func (w *world) asks(t *rapid.T, verb string, step Step, err error) {
	var field *FieldError
	if err == nil {
		w.request(verb, step)
	} else if !errors.Is(err, ErrRefused) && !errors.As(err, &field) {
		t.Fatal(verb, err)
	}
}

func (w *world) Operate(t *rapid.T) {
	id, ok := w.live(t)
	if !ok || !w.leading {
		return
	}
	switch verb := oneOf(t, "verb", "pause", "resume", "resume", "resume", "cancel"); verb {
	case "pause":
		step, err := w.snap.Pause(id, "ann", "lunch", w.now)
		w.asks(t, verb, step, err)
	case "resume":
		step, err := w.snap.Resume(id, "ann", "seen", w.snap.AbortOf(id).Sequence, w.now)
		if err == nil && w.rolledBack(id) && w.rollouts[id].State.Live() {
			t.Fatalf("%s was rolled back, and is resumed", id)
		}
		w.asks(t, verb, step, err)
	case "cancel":
		step, err := w.snap.Cancel(id, "ann", "no", w.now)
		w.asks(t, verb, step, err)
	}
}

func (w *world) Steer(t *rapid.T) {
	id, ok := w.live(t)
	if !ok || !w.leading {
		return
	}
	r := w.rollouts[id]
	switch verb := oneOf(t, "verb", "approve", "approve", "advance", "change", "release", "rollback"); verb {
	case "approve":
		by := oneOf(t, "by", ID("ann"), "bob", "cat")
		step, err := w.snap.Approve(id, by, "looks good", w.now)
		if err == nil && r.Spec.Approvals > 0 && by == r.Author {
			t.Fatalf("%s approves what she started", by)
		}
		w.asks(t, verb, step, err)
	case "advance":
		to := oneOf(t, "to", Percent(0), 0, 5, 40, 100)
		step, err := w.snap.Advance(id, "ann", to, "in a hurry", w.now)
		w.asks(t, verb, step, err)
	case "change":
		spec, allowed := w.changed(t, id)
		step, err := w.snap.Change(spec, With{}, "ann", w.now)
		if allowed != (err == nil) {
			t.Fatalf("%s, %s: the change to %+v is allowed %v: %v", id, r.State, spec, allowed, err)
		}
		w.asks(t, verb, step, err)
	case "release":
		if flights := w.snap.Flights(id, 10); len(flights) > 0 {
			step, err := w.snap.Release(id, rapid.SampledFrom(flights).Draw(t, "flight").Host, "ann", "burnt down", w.now)
			w.asks(t, verb, step, err)
		}
	case "rollback":
		to, over := Value{}, Duration(oneOf(t, "over", 0, 0, 5*time.Minute))
		if chance(t, "given", 4) {
			to = rapid.SampledFrom(w.values).Draw(t, "to")
		}
		step, err := w.snap.Rollback(id, to, over, "bob", "bad", fleetSeed, w.now)
		if err == nil && r.Spec.Rollback != "" {
			t.Fatalf("%s is rolled back by %s", id, step.Rollout)
		}
		w.asks(t, verb, step, err)
	}
}

func (w *world) Abort(t *rapid.T) {
	if id, ok := w.live(t); ok && rapid.IntRange(0, 2).Draw(t, "aborted") == 0 {
		w.abortBy(oneOf(t, "by", "ann", SloGuard), id, rapid.Bool().Draw(t, "late"))
	}
}

func (w *world) Stop(t *rapid.T) {
	w.press(rapid.IntRange(0, 3).Draw(t, "pressed") > 0, rapid.Bool().Draw(t, "late"))
}

func (w *world) Behind(t *rapid.T) {
	behind := rapid.IntRange(0, 3).Draw(t, "behind") == 0
	w.behind = behind
	w.put(func(s *Snapshot) { s.PutAuditBehind(behind) })
}

func (w *world) Refuse(t *rapid.T) { w.drop = rapid.IntRange(1, 3).Draw(t, "batches") }

func (w *world) Advance(t *rapid.T) {
	w.advance(time.Duration(rapid.IntRange(1, 20).Draw(t, "times")) * rapid.SampledFrom(spans).Draw(t, "unit"))
	w.arrive()
}

func (w *world) Stall(t *rapid.T) {
	w.stall(time.Duration(rapid.IntRange(1, 20).Draw(t, "times")) * rapid.SampledFrom(spans).Draw(t, "unit"))
}

func (w *world) Outage(t *rapid.T) {
	w.outage(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, 48 * time.Hour}).Draw(t, "outage"))
}

// Again gives the mirror facts that it has, and old documents.
func (w *world) Again(t *rapid.T) {
	puts := w.load(w.rng, true)
	for range rapid.IntRange(1, 5).Draw(t, "facts") {
		w.put(puts[rapid.IntRange(0, len(puts)-1).Draw(t, "fact")])
	}
	led, at := w.led, w.renewed
	w.put(func(s *Snapshot) { s.PutLead(led, at) }) // the one that isn't idempotent
	if h, ok := w.pick(t, "host"); ok && w.desired[h].Generation > 1 {
		w.put(func(s *Snapshot) {
			s.PutDesired(h, &Desired{Generation: 1, Values: Document{"version": w.values[0]}, Told: map[Name]Told{"version": {Generation: 1}}})
		})
	}
}

func (w *world) Check(t *rapid.T) {
	if w.leading && len(w.inflight) == 0 && (w.heard || w.rng.IntN(3) == 0) {
		w.settle()
	}
	if w.rng.IntN(4) == 0 {
		w.reload()
	}
}

// TestWhatMustAlwaysHold is design.md §13, items 1, 2, 6, 8 and 9, over
// generated fleets, rollouts, calendars, commands and misfortunes; the checker
// says what is looked at. A step is one generated action, such as a command, a
// host's fate, or some time that passes with all that is decided in it; after
// each the checker looks at everything once more.
func TestWhatMustAlwaysHold(t *testing.T) {
	one := flag.Lookup("rapid.seed").Value.String() != "0" || flag.Lookup("rapid.failfile").Value.String() != ""
	var steps atomic.Int64
	for i := range 2 { // processors, at most
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			for {
				rapid.Check(t, func(t *rapid.T) { live(t, &steps) })
				if one || steps.Load() >= int64(*longRun) {
					break
				}
			}
			t.Logf("%d steps in all", steps.Load())
		})
	}
}

// live goes through the life of one fleet.
func live(t *rapid.T, steps *atomic.Int64) {
	w := &world{fleet: newFleetAt(t.Fatalf, oneOf(t, "epoch", epochs...), time.Minute), values: []Value{str("1"), str("2"), str("3")}}
	w.latency = func() time.Duration {
		return []time.Duration{0, time.Second, time.Second, 30 * time.Second, 10 * time.Minute}[w.rng.IntN(5)]
	}
	w.variable(Variable{Name: "version", Type: String, Initial: w.values[0], Value: w.values[0]})
	w.variable(Variable{Name: "colour", Type: String, Initial: w.values[1], Value: w.values[1]})
	w.variable(Variable{Name: "size", Type: String})
	w.watch()
	for range rapid.IntRange(1, 4).Draw(t, "batches of hosts") {
		w.Join(t)
	}
	actions := map[string]func(*rapid.T){
		"join": w.Join, "presence": w.Presence, "night": w.Night, "role": w.Role, "break": w.Break, "drift": w.Drift, "decommission": w.Decommission,
		"damage": w.Damage, "pin": w.Pin, "blackout": w.Blackout, "start": w.Start, "start again": w.Start, "operate": w.Operate, "steer": w.Steer, "steer more": w.Steer,
		"guard": w.Guard, "guard again": w.Guard, "objective": w.Objective, "abort": w.Abort, "stop": w.Stop, "behind": w.Behind, "refuse": w.Refuse,
		"advance": w.Advance, "advance more": w.Advance, "and more": w.Advance, "stall": w.Stall, "outage": w.Outage, "again": w.Again,
	}
	for name, action := range actions {
		actions[name] = func(t *rapid.T) { steps.Add(1); action(t) }
	}
	actions[""] = w.Check
	t.Repeat(actions)
	w.calm(t)
	w.replay()
}

// calm ends all disturbances; whatever is live then completes.
func (w *world) calm(t *rapid.T) {
	w.drop, w.renewEvery = 0, 10*time.Minute
	if w.leading {
		w.arrive()
	}
	w.lead()
	w.press(true, false)
	w.behind = false
	w.put(func(s *Snapshot) { s.PutAuditBehind(false) })
	for name := range sorted(w.blackouts) {
		w.blackout(name, nil)
	}
	bakes := func(id ID) bool { return w.rollouts[id].Spec.Canary != nil && w.rollouts[id].Clock.IsZero() }
	if slices.ContainsFunc(w.states(StatePending, StateRunning, StatePaused, StateFrozen), bakes) {
		for h := range sorted(w.pins) { // a canary waits for one of the hosts that may be one
			w.pin(h, nil)
		}
	}
	w.clearAll(1000 * time.Hour)
	w.latency = func() time.Duration { return time.Second }
	for h := range sorted(w.reports) {
		w.agents[h].broken = false
		if w.presence[h] == Offline {
			w.see(h, Online)
		}
		if w.presence[h] == Gone && !w.out[h] { // it never comes back
			w.decommission(h)
			w.see(h, Gone)
		}
		w.deliver(h)
	}
	w.settle()
	for _, id := range w.states(StatePaused, StateFrozen) {
		if w.rolledBack(id) {
			continue
		}
		step, err := w.snap.Resume(id, "ann", "all is well", w.snap.AbortOf(id).Sequence, w.now)
		if err != nil || !w.request("resume", step) {
			t.Fatalf("resuming %s: %v", id, err)
		}
	}
	for range 24 * 14 {
		// Whoever drifted while it was told is put right by hand.
		for h, d := range sorted(w.desired) {
			for name := range d.Told {
				if !w.confirmed(h, name) {
					w.deliver(h)
					break
				}
			}
		}
		// Where nobody can be a canary, somebody has to say that none is needed.
		for _, id := range w.states(StateRunning) {
			if st, err := w.snap.Status(id, w.now); err == nil && st.Reason.Code == CanaryBake {
				if step, err := w.snap.Advance(id, "ann", 0, "there is none", w.now); err == nil {
					w.request("advance", step)
				}
			}
		}
		w.advance(time.Hour)
		w.approve(t)
		if len(w.states(StatePending, StateRunning)) == 0 {
			return
		}
	}
	for _, id := range w.states(StatePending, StateRunning) {
		st, err := w.snap.Status(id, w.now)
		t.Fatalf("%s doesn't complete: %s, clock %v, %d told of %d, %d in flight, %v, in flight %+v", id, st.Reason, st.Elapsed, st.Told, st.Target, st.InFlight, err, w.snap.Flights(id, 3))
	}
}

// approve gives whatever waits what it waits for, or ends it where it waits in
// vain.
func (w *world) approve(t *rapid.T) {
	for _, id := range w.states(StatePending, StateRunning) {
		for _, by := range []ID{"bob", "cat", "dan"} {
			step, err := w.snap.Approve(id, by, "looks good", w.now)
			w.asks(t, "approve", step, err)
		}
		if r := w.rollouts[id]; r.State == StatePending && r.Spec.After != "" && slices.Contains(w.states(StatePaused, StateFrozen, StateCancelled, StateSuperseded), r.Spec.After) {
			step, err := w.snap.Cancel(id, "ann", "in vain", w.now)
			w.asks(t, "cancel", step, err)
		}
		w.settle()
	}
}

func TestFleetSmoke(t *testing.T) {
	f := newFleet(t.Fatalf)
	f.variable(Variable{Name: "version", Type: String, Initial: str("1"), Value: str("1")})
	for i := range 20 {
		f.join(Host(fmt.Sprintf("h%d", i)), "web", nil, Document{"version": str("1")})
	}
	f.settle()
	if err := f.start(Spec{Name: "r", Variable: "version", To: str("2"), Ramp: Ramp{Over: Duration(time.Hour)}, InFlight: InFlight{Max: 100, PerRole: 100}}); err != nil {
		t.Fatal(err)
	}
	f.advance(2 * time.Hour)
	if got := f.states(StateCompleted); !slices.Equal(got, []ID{"r"}) {
		t.Fatal(f.rollouts["r"])
	}
	f.replay()
}
