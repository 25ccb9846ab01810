package rollout

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	roles = []Word{"web", "db", "cache"}
	zones = []Word{"a", "b", "c"}
	spans = []time.Duration{time.Second, 20 * time.Second, 3 * time.Minute, 20 * time.Minute}
)

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
	for range rapid.IntRange(1, 8).Draw(t, "hosts") {
		w.hostNo++
		actual := Document{}
		if v := rapid.SampledFrom(append([]Value{{}}, w.values...)).Draw(t, "runs"); !v.IsZero() {
			actual["version"] = v
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
		r.Actual = Document{"version": rapid.SampledFrom(w.values).Draw(t, "runs")}
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

func (w *world) Start(t *rapid.T) {
	if !w.leading {
		return
	}
	w.rolloutNo++
	percent := func(label string) Percent {
		return rapid.SampledFrom([]Percent{0, 100, 100, 50, 33.3, 10}).Draw(t, label)
	}
	spec := Spec{
		Name: ID(fmt.Sprintf("r%d", w.rolloutNo)), Variable: "version", To: rapid.SampledFrom(w.values).Draw(t, "to"),
		Where:  rapid.SampledFrom([]string{"", "", `role != "db"`, `labels.zone in ["a", "b"]`, `role == "web"`}).Draw(t, "where"),
		Ramp:   Ramp{Over: Duration(rapid.SampledFrom([]time.Duration{10 * time.Second, 7*time.Minute + 1, time.Hour}).Draw(t, "over")), Percent: percent("percent")},
		Spread: rapid.SampledFrom([][]Word{nil, {"zone"}}).Draw(t, "spread"),
		Settle: Duration(rapid.SampledFrom([]time.Duration{0, 0, time.Minute}).Draw(t, "settle")),
		InFlight: InFlight{
			Max:     rapid.SampledFrom([]Percent{0, 100, 100, 100, 50}).Draw(t, "max"),
			PerRole: rapid.SampledFrom([]Percent{0, 100, 100, 50}).Draw(t, "perRole"),
		},
	}
	if rapid.Bool().Draw(t, "limited") {
		l := Limit{Where: rapid.SampledFrom([]string{`role == "web"`, `labels.zone == "a"`, ""}).Draw(t, "limited where"), Percent: percent("limited to")}
		l.AtLeast = rapid.IntRange(0, 2).Draw(t, "at least")
		if rapid.Bool().Draw(t, "at most") {
			l.AtMost = new(l.AtLeast + rapid.IntRange(0, 3).Draw(t, "more"))
		}
		spec.Limits = append(spec.Limits, l)
	}
	if rapid.IntRange(0, 3).Draw(t, "later") == 0 {
		spec.Start = w.now.Add(time.Minute)
	}
	if live := w.snap.LiveRollout("version"); live != "" {
		if rapid.Bool().Draw(t, "supersede") {
			spec.Supersedes = live
		} else {
			if err := w.start(spec); !errors.Is(err, ErrRefused) {
				t.Fatalf("a second live rollout: %v", err)
			}
			return
		}
	}
	if err := w.start(spec); err != nil && w.drop == 0 && len(w.inflight) == 0 && w.fleet.aborts[spec.Name].Sequence == 0 {
		t.Logf("%s: %v", spec.Name, err)
	}
}

func (w *world) live(t *rapid.T) (ID, bool) {
	ids := w.states(StatePending, StateRunning, StatePaused, StateFrozen, StateCompleted)
	if len(ids) == 0 {
		return "", false
	}
	return rapid.SampledFrom(ids).Draw(t, "rollout"), true
}

func (w *world) Operate(t *rapid.T) {
	id, ok := w.live(t)
	if !ok || !w.leading {
		return
	}
	var step Step
	var err error
	switch rapid.SampledFrom([]string{"pause", "resume", "resume", "resume", "cancel"}).Draw(t, "verb") {
	case "pause":
		step, err = w.snap.Pause(id, "ann", "lunch", w.now)
	case "resume":
		step, err = w.snap.Resume(id, "ann", "seen", w.snap.AbortOf(id).Sequence, w.now)
	case "cancel":
		step, err = w.snap.Cancel(id, "ann", "no", w.now)
	}
	if err == nil {
		w.commit(step)
	} else if !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
}

func (w *world) Abort(t *rapid.T) {
	if id, ok := w.live(t); ok && rapid.IntRange(0, 2).Draw(t, "aborted") == 0 {
		w.abort(id, rapid.Bool().Draw(t, "late"))
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
	if w.leading && len(w.inflight) == 0 {
		w.settle()
	}
	w.reload()
}

// TestWhatMustAlwaysHold is design.md §13, items 1, 2, 6, 8 and 9, over random
// fleets, rollouts and misfortunes; the checker says what is looked at.
func TestWhatMustAlwaysHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{fleet: newFleet(t.Fatalf), values: []Value{str("1"), str("2"), str("3")}}
		w.latency = func() time.Duration {
			return []time.Duration{0, time.Second, time.Second, 30 * time.Second, 10 * time.Minute}[w.rng.IntN(5)]
		}
		w.variable(Variable{Name: "version", Type: String, Initial: w.values[0], Value: w.values[0]})
		for range rapid.IntRange(1, 4).Draw(t, "batches of hosts") {
			w.Join(t)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": w.Check, "join": w.Join, "presence": w.Presence, "night": w.Night, "role": w.Role, "break": w.Break, "drift": w.Drift, "decommission": w.Decommission,
			"damage": w.Damage, "start": w.Start, "start again": w.Start, "operate": w.Operate, "abort": w.Abort, "stop": w.Stop, "behind": w.Behind, "refuse": w.Refuse,
			"advance": w.Advance, "advance more": w.Advance, "and more": w.Advance, "stall": w.Stall, "outage": w.Outage, "again": w.Again,
		})
		w.calm(t)
		w.replay()
	})
}

// calm ends all disturbances; whatever is live then completes.
func (w *world) calm(t *rapid.T) {
	if !w.leading {
		w.lead()
	}
	w.drop = 0
	w.arrive()
	w.press(true, false)
	w.behind = false
	w.put(func(s *Snapshot) { s.PutAuditBehind(false) })
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
		step, err := w.snap.Resume(id, "ann", "all is well", w.snap.AbortOf(id).Sequence, w.now)
		if err != nil || !w.commit(step) {
			t.Fatalf("resuming %s: %v", id, err)
		}
	}
	for range 60 {
		// Whoever drifted while it was told is put right by hand.
		for _, h := range w.hosts() {
			w.deliver(h)
		}
		w.advance(10 * time.Minute)
		if len(w.states(StatePending, StateRunning)) == 0 {
			return
		}
	}
	for _, id := range w.states(StatePending, StateRunning) {
		st, err := w.snap.Status(id, w.now)
		t.Fatalf("%s doesn't complete: %s, clock %v, %d told of %d, %d in flight, %v, in flight %+v", id, st.Reason, st.Elapsed, st.Told, st.Target, st.InFlight, err, w.snap.Flights(id, 3))
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
