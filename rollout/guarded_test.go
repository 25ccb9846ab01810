package rollout

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// objective puts one with its window.
func (f *fleet) objective(name ID, window time.Duration) {
	f.objectives[name] = window
	f.put(func(s *Snapshot) { f.putObjective(s, name, window) })
}

func (f *fleet) putObjective(s *Snapshot, name ID, window time.Duration) {
	if f.bend.objective != nil {
		window = f.bend.objective(window)
	}
	s.PutObjective(name, window, true)
}

// says is what the guard says of one rollout from now on.
func (f *fleet) says(id ID, c Clearance) {
	of := maps.Clone(f.clearances)
	if of == nil {
		of = map[ID]Clearance{}
	}
	of[id] = c
	f.clearances = of
	f.put(func(s *Snapshot) { f.putClearances(s, of) })
}

func (f *fleet) clear(id ID, d time.Duration) { f.says(id, Clearance{Until: f.now.Add(d)}) }

// clearAll clears every rollout.
func (f *fleet) clearAll(d time.Duration) {
	for id := range sorted(f.rollouts) {
		f.clear(id, d)
	}
}

func (f *fleet) putClearances(s *Snapshot, of map[ID]Clearance) {
	if f.bend.clearance != nil {
		of = maps.Clone(of)
		for id, c := range of {
			of[id] = f.bend.clearance(c)
		}
	}
	s.PutClearances(of)
}

// What the oracle says of the guard.

func (v *view) guarded() bool { return v.spec.Guard != nil && v.spec.Rollback == "" }

func (v *view) unclear(now time.Time) Code {
	if v.guarded() && !v.clearances[v.id].Until.After(now) {
		return NoFreshEvidence
	}
	return ""
}

// window is for how long the rollout is watched after its last tell.
func (v *view) window() (longest time.Duration) {
	if v.guarded() {
		for _, o := range v.spec.Guard.Objectives {
			longest = max(longest, v.objectives[o])
		}
	}
	return longest
}

// mayRetreat says whether a rollout's hosts are to be taken back without being
// asked for.
func (st *store) mayRetreat(id ID) bool {
	r := st.rollouts[id]
	if r.State != StateFrozen || r.Spec.Guard == nil || r.Spec.Guard.OnBreach != BreachRollsBack || st.aborts[id].Actor != "sloguard" {
		return false
	}
	for _, o := range st.rollouts {
		if o.Spec.Rollback == id {
			return false // whatever became of it
		}
	}
	for _, d := range st.desired {
		if d.Told[r.Spec.Variable].Rollout == id {
			return true
		}
	}
	return false
}

// retreat judges a rollback that nobody asked for.
func (c *checker) retreat(f *fleet, r *Record) {
	if !f.mayRetreat(r.Spec.Rollback) || f.held() && len(f.inflight) == 0 || r.Author != Scheduler || !r.Spec.To.IsZero() || r.Spec.Guard.OnBreach != "" {
		f.fail("%s starts by itself: %+v; its original is %+v, the abort %+v", r.Spec.Name, r, f.rollouts[r.Spec.Rollback], f.aborts[r.Spec.Rollback])
	}
}

// retreats wants those that are to start by themselves to have started.
func (c *checker) retreats(f *fleet) {
	for id := range sorted(f.rollouts) {
		if !f.held() && f.mayRetreat(id) {
			f.fail("%s was frozen by the guard, and nothing takes its hosts back", id)
		}
	}
}

// The guard in the property test.

func (f *fleet) watch() {
	f.objective("quick", time.Minute)
	f.objective("slow", 50*time.Minute)
}

func guard(t *rapid.T) *Guard {
	return &Guard{
		Objectives: oneOf(t, "objectives", []ID{"quick"}, []ID{"slow"}, []ID{"quick", "slow"}),
		OnBreach:   oneOf(t, "on breach", "", BreachFreezes, BreachRollsBack, BreachRollsBack),
	}
}

// Guard says something of a rollout, or clears all of them.
func (w *world) Guard(t *rapid.T) {
	span := oneOf(t, "clear for", 20*time.Second, 20*time.Minute, 5*time.Hour, 48*time.Hour, 48*time.Hour)
	id, ok := w.live(t)
	switch oneOf(t, "the guard", "clears all", "clears all", "clears", "withholds", "forgets") {
	case "clears all":
		w.clearAll(span)
	case "clears":
		if ok {
			w.clear(id, span)
		}
	case "withholds":
		if ok {
			w.says(id, Clearance{Why: "mass silence"})
		}
	case "forgets":
		if ok {
			w.says(id, Clearance{})
		}
	}
}

func (w *world) Objective(t *rapid.T) {
	w.objective(oneOf(t, "objective", ID("quick"), "slow"), oneOf(t, "window", 0, time.Minute, 50*time.Minute))
}

// watched is a fleet with an objective, whose window is an hour.
func watched(t *testing.T, n int, roles ...Word) *fleet {
	f := even(t, n, roles...)
	f.objective("healthy", time.Hour)
	f.settle()
	return f
}

func guarded(id ID, to string, over time.Duration) Spec {
	s := spec(id, to, over)
	s.Guard = &Guard{Objectives: []ID{"healthy"}}
	return s
}

func (f *fleet) reason(id ID) Reason {
	st, err := f.snap.Status(id, f.now)
	if err != nil {
		f.fail("%v", err)
	}
	return st.Reason
}

func TestGuardValidate(t *testing.T) {
	many := make([]ID, 21)
	for i := range many {
		many[i] = ID("o" + strings.Repeat("x", i))
	}
	for _, tt := range []struct {
		guard Guard
		field string // of the error; "" for none
	}{
		{Guard{Objectives: []ID{"docker-healthy"}}, ""},
		{Guard{Objectives: many[:20], OnBreach: BreachRollsBack}, ""},
		{Guard{}, "guard.objectives"},
		{Guard{Objectives: many}, "guard.objectives"},
		{Guard{Objectives: []ID{"a", "b", "a"}}, "guard.objectives[2]"},
		{Guard{Objectives: []ID{"a", "Not an id"}}, "guard.objectives[1]"},
		{Guard{Objectives: []ID{"a"}, OnBreach: "panic"}, "guard.onBreach"},
	} {
		s := spec("up", "2", time.Hour)
		s.Guard = &tt.guard
		err := s.Validate()
		if (err == nil) != (tt.field == "") || err != nil && !strings.HasPrefix(err.Error(), tt.field+": ") {
			t.Errorf("%+v: %v", tt.guard, err)
		}
	}
}

func TestGuardNamesObjectivesThatThereAre(t *testing.T) {
	f := watched(t, 3, "web")
	s := guarded("up", "2", time.Hour)
	s.Guard.Objectives = []ID{"healthy", "fast"}
	if err := f.snap.Admit(s, With{}); err == nil || !strings.HasPrefix(err.Error(), "guard.objectives[1]: there is no objective fast") {
		t.Error(err)
	}
	if err := f.snap.Admit(s, With{Objectives: []ID{"fast"}}); err != nil {
		t.Error(err)
	}
	f.objective("fast", 0)
	s.Start = f.now.Add(time.Hour)
	f.mustStart(s)
	if got := f.snap.Watched("fast"); !slices.Equal(got, []ID{"up"}) {
		t.Errorf("fast is named by %v", got)
	}
	s.Guard = &Guard{Objectives: []ID{"healthy"}}
	f.operate(f.snap.Change(s, With{}, "ann", f.now)) // it is pending
	if got := f.snap.Watched("fast"); len(got) > 0 {
		t.Errorf("fast is named by %v", got)
	}
	f.advance(2 * time.Hour)
	s.Guard = nil
	if _, err := f.snap.Change(s, With{}, "ann", f.now); err == nil || !strings.HasPrefix(err.Error(), "guard: ") {
		t.Errorf("once it has started: %v", err)
	}
}

// Without a clearance nothing moves; with one it goes on where it stood.
func TestNoFreshEvidenceHolds(t *testing.T) {
	f := watched(t, 60, "web")
	f.mustStart(guarded("up", "2", time.Hour))
	f.advance(10 * time.Minute)
	if r := f.reason("up"); r.Code != NoFreshEvidence || f.count("2") > 0 || !strings.Contains(r.String(), "is sloguard running?") {
		t.Fatalf("%d told: %s", f.count("2"), r)
	}
	f.clear("up", 10*time.Minute)
	f.advance(9 * time.Minute)
	if n := f.count("2"); n < 8 || n > 10 {
		t.Fatalf("%d told in 9 minutes", n)
	}
	f.advance(time.Minute + time.Second) // it wakes, and notes that it stands
	if p := f.progress["up"]; p.Running || p.Hold.Code != NoFreshEvidence {
		t.Fatalf("%+v", p)
	}
	n := f.count("2")
	f.says("up", Clearance{Why: "20 % of the control is silent"})
	f.advance(5 * time.Hour)
	if r := f.reason("up"); f.count("2") != n || r.Detail != "20 % of the control is silent" {
		t.Fatalf("%d told, before %d: %s", f.count("2"), n, r)
	}
	if b := blocked(f.explain("web1")); f.desired["web1"].Values["version"] == str("1") && !slices.Contains(b, NoFreshEvidence) {
		t.Errorf("why not yet: %v", b)
	}
	f.clear("up", 24*time.Hour)
	f.advance(time.Second)
	if f.count("2") > n+1 {
		t.Fatalf("a burst: %d told, before %d", f.count("2"), n)
	}
	f.advance(50 * time.Minute)
	if f.count("2") != 60 {
		t.Fatalf("%d told at the end", f.count("2"))
	}
	st, _ := f.snap.Status("up", f.now)
	if held := st.Held[NoFreshEvidence]; held < 5*time.Hour+9*time.Minute || held > 5*time.Hour+11*time.Minute {
		t.Errorf("it was held for %v", held)
	}
	f.replay()
}

func TestNoFreshEvidenceHoldsCanariesAndLayers(t *testing.T) {
	f := watched(t, 10, "web", "db")
	s := guarded("up", "2", time.Hour)
	s.Where = `role == "web"`
	s.Canary = &Canary{Hosts: 1, Bake: Duration(10 * time.Minute)}
	f.mustStart(s)
	f.advance(time.Hour)
	if f.count("2") > 0 || f.reason("up").Code != NoFreshEvidence {
		t.Fatalf("%d canaries told: %s", f.count("2"), f.reason("up"))
	}
	f.clear("up", 5*time.Minute)
	f.advance(time.Hour) // the canary bakes; nobody follows
	if f.count("2") != 1 || f.reason("up").Code != NoFreshEvidence || !f.rollouts["up"].Clock.IsZero() {
		t.Fatalf("%d told: %s", f.count("2"), f.reason("up"))
	}
	f.clear("up", 24*time.Hour)
	f.advance(24 * time.Hour)
	f.want("up", StateCompleted)
	f.join("web99", "web", nil, Document{"version": str("1")})
	f.advance(time.Hour)
	if v := f.desired["web99"].Values["version"]; v != str("1") {
		t.Fatalf("the layer tells without evidence: %s", v)
	}
	if b := blocked(f.explain("web99")); !slices.Contains(b, NoFreshEvidence) {
		t.Errorf("why not yet: %v", b)
	}
	f.clear("up", time.Hour)
	f.advance(time.Minute)
	if v := f.desired["web99"].Values["version"]; v != str("2") {
		t.Errorf("the layer doesn't tell: %s", v)
	}
}

func TestCompletionWaitsForTheWindow(t *testing.T) {
	f := watched(t, 6, "web")
	f.mustStart(guarded("up", "2", time.Hour))
	f.clear("up", 70*time.Minute)
	f.advance(65 * time.Minute)
	last := f.progress["up"].Last
	if r := f.reason("up"); f.count("2") != 6 || r.Code != ObjectiveWindow || !r.Until.Equal(last.Add(time.Hour)) {
		t.Fatalf("%d told, the last at %v: %s", f.count("2"), last, r)
	}
	if st, _ := f.snap.Status("up", f.now); !st.Ends.Equal(last.Add(time.Hour)) {
		t.Errorf("it ends at %v", st.Ends)
	}
	f.advance(2 * time.Hour)
	if f.want("up", StateRunning); f.reason("up").Code != NoFreshEvidence {
		t.Fatalf("it waits for %s", f.reason("up"))
	}
	f.clear("up", time.Minute)
	f.settle()
	f.want("up", StateCompleted)

	// A calendar that is closed holds nobody up who is only watched.
	f.blackout("freeze", &Blackout{Name: "freeze", From: f.now.Add(61 * time.Minute), Until: f.now.Add(100 * time.Hour)})
	f.mustStart(guarded("again", "3", time.Hour))
	f.clear("again", 24*time.Hour)
	f.advance(62 * time.Minute)
	if r := f.reason("again"); r.Code != ObjectiveWindow {
		t.Fatalf("it waits for %s", r)
	}
	f.advance(time.Hour)
	f.want("again", StateCompleted)
	f.reload()
}

// The guard's abort takes the hosts back, once.
func TestBreachRollsBack(t *testing.T) {
	begin := func(on OnBreach) *fleet {
		f := watched(t, 40, "web")
		s := guarded("up", "2", 10*time.Hour)
		s.Guard.OnBreach = on
		f.mustStart(s)
		f.clear("up", 100*time.Hour)
		f.advance(5 * time.Hour)
		return f
	}
	f := begin(BreachRollsBack)
	a := f.abort("up", false) // an operator's
	f.advance(time.Hour)
	if _, ok := f.rollouts["up-rollback"]; ok {
		t.Fatal("an operator's abort rolls back")
	}
	f.operate(f.snap.Resume("up", "ann", "seen", a.Sequence, f.now))
	f.press(false, false)
	f.abortBy(SloGuard, "up", false)
	f.advance(time.Hour)
	f.want("up", StateFrozen)
	if _, ok := f.rollouts["up-rollback"]; ok {
		t.Fatal("it is rolled back, and everything is stopped")
	}
	f.press(true, false)
	f.says("up", Clearance{Why: "no evidence"})
	f.settle()
	r := f.rollouts["up-rollback"]
	if r.Author != Scheduler || !strings.HasSuffix(r.Why, "users see errors") && r.State == StatePending || !slices.Equal(r.Spec.Guard.Objectives, []ID{"healthy"}) || r.Spec.Guard.OnBreach != "" {
		t.Fatalf("%+v", r)
	}
	f.advance(2 * time.Hour) // without a clearance, and without a window
	f.want("up-rollback", StateCompleted)
	if f.count("2") > 0 {
		t.Errorf("%d hosts are still at 2", f.count("2"))
	}
	f.replay()

	f = begin(BreachFreezes)
	f.abortBy(SloGuard, "up", false)
	f.advance(time.Hour)
	if f.want("up", StateFrozen); len(f.rollouts) > 1 {
		t.Error("nobody wanted a rollback")
	}

	f = begin(BreachRollsBack) // cancelled: an operator has taken over
	f.abortBy(SloGuard, "up", false)
	f.settle()
	f.operate(f.snap.Cancel("up-rollback", "ann", "leave it", f.now))
	f.abortBy(SloGuard, "up", false)
	f.advance(time.Hour)
	if len(f.rollouts) > 2 {
		t.Errorf("it is rolled back again: %v", f.states(StatePending, StateRunning, StateCompleted))
	}

	f = watched(t, 4, "web") // nobody was told
	s := guarded("up", "2", time.Hour)
	s.Guard.OnBreach = BreachRollsBack
	f.mustStart(s)
	f.abortBy(SloGuard, "up", false)
	f.advance(time.Hour)
	if len(f.rollouts) > 1 {
		t.Error("there is nothing to take back")
	}
}
