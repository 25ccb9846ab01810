package rollout

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// A fleet drives Snapshot and Decide as the scheduler does, in memory. The
// store is what the broker holds; the snapshot is the leader's mirror of it.
// After everything that happens a checker judges it by the store alone (see
// checker_test.go).
type fleet struct {
	fail func(format string, args ...any)
	rng  *rand.Rand // delays of hosts
	now  time.Time

	store
	snap     *Snapshot
	leading  bool
	renewed  time.Time
	inflight []func(*Snapshot) // facts on their way to the mirror
	heard    bool              // something since the last decision
	drop     int               // so many of the next batches are refused

	agents map[Host]*agent
	events []event // of agents, by time
	facts  []fact  // everything that the mirror was given, for the replay
	check  checker
	bend   bend // of a test of the checker
	wake   time.Time

	latency    func() time.Duration // of a host, from told to confirmed
	renewEvery time.Duration        // how often the lease is renewed; at most twice of it is charged
}

// bend is a fault that is put between the store and the scheduler, to see
// whether the checker finds it. Its functions may be nil.
type bend struct {
	record    func(*Record) // as the mirror hears it
	pin       func(*Pin) *Pin
	blackout  func(*Blackout) *Blackout
	clearance func(Clearance) Clearance
	objective func(time.Duration) time.Duration
	decision  func(*Decision)
	unfenced  bool // the broker refuses nothing, and the mirror hears no abort and no stop
}

const fleetSeed = "seed"

// store is what the broker holds.
type store struct {
	sequence  uint64
	rollouts  map[ID]Record
	progress  map[ID]Progress
	desired   map[Host]Desired
	marker    map[Host]uint64 // generation of a decommissioned host's marker
	out       map[Host]bool   // decommissioned, and no report since
	damaged   map[Host]bool
	variables map[Name]Variable
	reports   map[Host]Report
	presence  map[Host]Presence
	aborts    map[ID]Abort
	stop      Abort
	behind    bool
	pins      map[Host]Pin
	blackouts map[ID]Blackout
	// objectives have their windows, and clearances are what the guard says last.
	objectives map[ID]time.Duration
	clearances map[ID]Clearance
	led        time.Duration

	selections map[selection]bool // known answers: see matches
	keys       map[[2]string]uint64
	actives    map[ID]bool
}

// agent is how a host behaves.
type agent struct {
	broken bool // its enactor fails
}

type event struct {
	at   time.Time
	host Host
	gen  uint64
}

// fact is one Put, or one decision.
type fact struct {
	put      func(*Snapshot)
	snapshot bool // a new leader's: begins with an empty snapshot
	charge   time.Duration
	at       time.Time // of a decision
	decision []byte
}

var epoch = time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)

func newFleet(fail func(string, ...any)) *fleet { return newFleetAt(fail, epoch, 5*time.Second) }

func newFleetAt(fail func(string, ...any), now time.Time, renewEvery time.Duration) *fleet {
	f := &fleet{
		fail: fail, rng: rand.New(rand.NewPCG(1, 2)), now: now, renewEvery: renewEvery,
		store: store{
			rollouts: map[ID]Record{}, progress: map[ID]Progress{}, desired: map[Host]Desired{}, marker: map[Host]uint64{}, out: map[Host]bool{}, damaged: map[Host]bool{},
			variables: map[Name]Variable{}, reports: map[Host]Report{}, presence: map[Host]Presence{}, aborts: map[ID]Abort{},
			pins: map[Host]Pin{}, blackouts: map[ID]Blackout{}, objectives: map[ID]time.Duration{}, selections: map[selection]bool{}, keys: map[[2]string]uint64{},
		},
		agents: map[Host]*agent{},
	}
	f.latency = func() time.Duration { return 0 }
	f.check = newChecker()
	f.lead()
	return f
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func str(s string) Value { return must(StringValue(s)) }

// put changes the mirror, now or, while facts are delayed, later.
func (f *fleet) put(g func(*Snapshot)) {
	if !f.leading {
		return // a new leader reads the store
	}
	f.arrive() // in the order of the stream
	f.facts = append(f.facts, fact{put: g})
	g(f.snap)
	f.heard = true
}

// sorted ranges over a map in the order of its keys, so that a failure can be
// reproduced.
func sorted[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func (f *fleet) next() uint64 { f.sequence++; return f.sequence }

// lead makes a new leader, which reads the store and takes the lease.
func (f *fleet) lead() {
	f.leading, f.inflight = true, nil
	f.snap = NewSnapshot(2 * f.renewEvery)
	f.facts = append(f.facts, fact{snapshot: true, charge: 2 * f.renewEvery})
	for _, put := range f.load(f.rng, false) {
		f.put(put)
	}
	f.renew()
}

// load gives the Puts that a new leader makes, the independent ones in any
// order; or those that can come again to one that has them.
func (f *fleet) load(rng *rand.Rand, again bool) []func(*Snapshot) {
	var first, hosts, last []func(*Snapshot)
	for name, v := range sorted(f.variables) {
		first = append(first, func(s *Snapshot) { s.PutVariable(name, &v) })
	}
	for id, r := range sorted(f.rollouts) {
		p := f.progress[id]
		first = append(first, func(s *Snapshot) { f.putRollout(s, id, r); s.PutProgress(id, p) })
	}
	for name, b := range sorted(f.blackouts) {
		first = append(first, func(s *Snapshot) { f.putBlackout(s, name, &b) })
	}
	for name, window := range sorted(f.objectives) {
		first = append(first, func(s *Snapshot) { f.putObjective(s, name, window) })
	}
	clearances := f.clearances
	last = append(last, func(s *Snapshot) { f.putClearances(s, clearances) })
	for h, p := range sorted(f.pins) {
		hosts = append(hosts, func(s *Snapshot) { f.putPin(s, h, &p) })
	}
	for h, d := range sorted(f.desired) {
		hosts = append(hosts, func(s *Snapshot) { s.PutDesired(h, &d) })
	}
	for h, g := range sorted(f.marker) {
		if again && !f.out[h] {
			continue // what came later than the marker can't come before it
		}
		hosts = append(hosts, func(s *Snapshot) { s.PutDecommissioned(h, g) })
	}
	for id, a := range sorted(f.aborts) {
		hosts = append(hosts, func(s *Snapshot) { s.PutAbort(id, a) })
	}
	stop, behind, led := f.stop, f.behind, f.led
	hosts = append(hosts, func(s *Snapshot) { s.PutStop(stop); s.PutAuditBehind(behind); s.PutLead(led, time.Time{}) })
	for h, r := range sorted(f.reports) {
		out := f.out[h]
		p := f.presence[h]
		last = append(last, func(s *Snapshot) {
			if !out {
				s.PutReport(h, &r)
			}
			s.PutPresence(h, p)
		})
	}
	for h := range sorted(f.damaged) {
		last = append(last, func(s *Snapshot) { s.PutDamaged(h) })
	}
	for _, puts := range [][]func(*Snapshot){first, hosts, last} {
		rng.Shuffle(len(puts), func(i, j int) { puts[i], puts[j] = puts[j], puts[i] })
	}
	return slices.Concat(first, hosts, last)
}

func (f *fleet) putRollout(s *Snapshot, id ID, r Record) {
	if f.bend.record != nil {
		f.bend.record(&r)
	}
	if err := s.PutRollout(id, &r); err != nil {
		f.fail("a committed record of %s can't be read: %v", id, err)
	}
}

func (f *fleet) putPin(s *Snapshot, h Host, p *Pin) {
	if f.bend.pin != nil && p != nil {
		p = f.bend.pin(p)
	}
	s.PutPin(h, p)
}

func (f *fleet) putBlackout(s *Snapshot, name ID, b *Blackout) {
	if f.bend.blackout != nil && b != nil {
		b = f.bend.blackout(b)
	}
	if err := s.PutBlackout(name, b); err != nil {
		f.fail("blackout %s: %v", name, err)
	}
}

// renew writes the lease, as every step does.
func (f *fleet) renew() {
	now := f.now
	before := f.led
	if f.led = f.snap.Led(now); f.led < before || f.led-before > 2*f.renewEvery {
		f.fail("one renewal charged %v", f.led-before)
	}
	f.renewed = now
	led := f.led
	f.put(func(s *Snapshot) { s.PutLead(led, now) })
}

// commit writes a step as one batch, if its fences hold.
func (f *fleet) commit(step Step) bool {
	if !f.leading {
		return false
	}
	if f.drop > 0 {
		f.drop--
		return false
	}
	if !f.bend.unfenced && (len(step.Tells) > 0 && step.Stop != f.stop.Sequence ||
		step.Progress != nil && step.Abort != f.aborts[step.Rollout].Sequence) {
		f.arrive() // refused by the broker; the scheduler reads again
		return false
	}
	for i, r := range step.Records { // what is bent is the mirror alone
		if old, ok := f.rollouts[r.ID]; ok && f.bend.record != nil {
			step.Records[i].Record.Spec, step.Records[i].Record.Salt = old.Spec, old.Salt
		}
	}
	f.check.step(f, step)
	for _, t := range step.Tells {
		f.desired[t.Host] = t.Desired
		delete(f.marker, t.Host)
		delete(f.damaged, t.Host)
		f.put(func(s *Snapshot) { s.PutDesired(t.Host, &t.Desired) })
		f.deliver(t.Host)
	}
	for _, r := range step.Records {
		f.rollouts[r.ID], f.actives = r.Record, nil
		f.put(func(s *Snapshot) { f.putRollout(s, r.ID, r.Record) })
	}
	if v := step.Variable; v != nil {
		f.variables[v.Name] = *v
		f.put(func(s *Snapshot) { s.PutVariable(v.Name, v) })
	}
	if p := step.Progress; p != nil {
		f.progress[step.Rollout] = *p
		f.put(func(s *Snapshot) { s.PutProgress(step.Rollout, *p) })
	}
	for _, h := range step.Unpin {
		delete(f.pins, h)
		f.put(func(s *Snapshot) { s.PutPin(h, nil) })
	}
	f.renew()
	f.check.watch(f, true)
	return true
}

// arrive lets the facts that were on their way reach the mirror.
func (f *fleet) arrive() {
	late := f.inflight
	f.inflight = nil
	for _, g := range late {
		f.put(g)
	}
}

// decide asks, and now and then asks again: deciding changes nothing.
func (f *fleet) decide() Decision {
	d := Decide(f.snap, f.now)
	a := encoded(d)
	if len(f.facts)%4 == 0 {
		if b := encoded(Decide(f.snap, f.now)); !bytes.Equal(a, b) {
			f.fail("two decisions in a row differ:\n%s\n%s", a, b)
		}
	}
	f.facts = append(f.facts, fact{at: f.now, decision: a})
	if f.bend.decision != nil {
		f.bend.decision(&d)
	}
	return d
}

func encoded(d Decision) []byte { return must(json.Marshal(d)) }

// settle decides and commits until there is nothing more to do now.
func (f *fleet) settle() Decision {
	for range 3000 {
		if !f.leading {
			return Decision{}
		}
		d := f.decide()
		if len(d.Steps) == 0 {
			f.check.idle(f, d)
			f.heard, f.wake = false, d.Next
			return d
		}
		f.check.decided = true
		for _, step := range d.Steps {
			if !f.commit(step) {
				break
			}
		}
		f.check.decided = false
	}
	f.fail("the scheduler doesn't come to rest at %v: %s", f.now, encoded(f.decide()))
	return Decision{}
}

// advance lets time pass, with a leader that is awake: it decides when it heard
// something and when it said that it wanted to be asked again.
func (f *fleet) advance(d time.Duration) {
	until := f.now.Add(d)
	f.heard = true
	for {
		next := until
		earlier := func(at time.Time) {
			if at.Before(next) {
				next = at
			}
		}
		f.happen()
		if f.leading {
			if f.heard || !f.wake.IsZero() && !f.now.Before(f.wake) {
				f.settle()
				if !f.wake.IsZero() && !f.wake.After(f.now) {
					f.fail("nothing to do at %v, and yet it is to be asked again at %v", f.now, f.wake)
				}
			}
			if !f.now.Before(f.renewed.Add(f.renewEvery)) {
				late := len(f.inflight) > 0
				f.renew()
				f.heard = late
			}
			if !f.wake.IsZero() {
				earlier(f.wake)
			}
			earlier(f.renewed.Add(f.renewEvery))
		}
		if !f.now.Before(until) {
			f.early()
			return
		}
		if len(f.events) > 0 {
			earlier(f.events[0].at)
		}
		f.now = maxTime(f.now, next)
	}
}

// early asks though nothing was heard and nothing is due: there is nothing to
// do, or the last decision would have said so.
func (f *fleet) early() {
	if !f.leading || f.heard || len(f.inflight) > 0 || f.drop > 0 || !f.wake.IsZero() && !f.now.Before(f.wake) {
		return
	}
	for _, step := range f.decide().Steps {
		// A reason may change without notice, as when a blackout begins for a host
		// that would wait anyway.
		p, last := step.Progress, f.progress[step.Rollout]
		if p != nil && len(step.Tells)+len(step.Records) == 0 && p.Running == last.Running && p.Baking == last.Baking {
			continue
		}
		f.fail("at %v there is something to do, and it was to be asked at %v: %+v", f.now, f.wake, step)
	}
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// stall lets time pass while the leader neither acts nor hears.
func (f *fleet) stall(d time.Duration) { f.now = f.now.Add(d) }

// outage lets time pass without a leader; then another takes over.
func (f *fleet) outage(d time.Duration) {
	f.leading = false
	f.advance(d)
	f.lead()
}

// deliver lets the host hear what it was told.
func (f *fleet) deliver(h Host) {
	e := event{f.now.Add(f.latency()), h, f.desired[h].Generation}
	i, _ := slices.BinarySearchFunc(f.events, e, func(a, b event) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.host, b.host), cmp.Compare(a.gen, b.gen))
	})
	f.events = slices.Insert(f.events, i, e)
}

// happen lets the agents do what is due.
func (f *fleet) happen() {
	for len(f.events) > 0 && !f.events[0].at.After(f.now) {
		e := f.events[0]
		f.events = f.events[1:]
		if f.presence[e.host] == Online {
			f.enact(e.host)
		}
	}
}

// enact takes the host's document and reports.
func (f *fleet) enact(h Host) {
	d, ok := f.desired[h]
	r := f.reports[h]
	if !ok || d.Generation < r.Generation {
		return
	}
	r.Generation = d.Generation
	r.Actual, r.Enact = maps.Clone(r.Actual), map[Name]Enact{}
	if r.Actual == nil {
		r.Actual = Document{}
	}
	for name, v := range d.Values {
		e := Enact{Status: Enacted, Generation: d.Told[name].Generation}
		if !v.Matches(r.Actual[name]) {
			if f.agents[h].broken {
				e.Status, e.Attempts = EnactFail, 5
			} else {
				r.Actual[name] = v
			}
		}
		r.Enact[name] = e
	}
	f.report(h, r)
}

// pin puts what is pinned on a host; nil: nothing.
func (f *fleet) pin(h Host, p *Pin) {
	delete(f.pins, h)
	if p != nil {
		f.pins[h] = *p
	}
	f.check.changes++
	f.put(func(s *Snapshot) { f.putPin(s, h, p) })
}

// blackout puts a blackout; nil removes it.
func (f *fleet) blackout(name ID, b *Blackout) {
	delete(f.blackouts, name)
	if b != nil {
		f.blackouts[name] = *b
	}
	f.check.changes++
	f.put(func(s *Snapshot) { f.putBlackout(s, name, b) })
}

func (f *fleet) report(h Host, r Report) {
	if old, ok := f.reports[h]; !ok || old.Role != r.Role || !maps.Equal(old.Labels, r.Labels) {
		f.check.changes++
	}
	delete(f.out, h)
	f.reports[h] = r
	f.put(func(s *Snapshot) { s.PutReport(h, &r) })
}

func (f *fleet) see(h Host, p Presence) {
	f.check.changes++
	was := f.presence[h]
	f.presence[h] = p
	f.put(func(s *Snapshot) { s.PutPresence(h, p) })
	if p == Online && was != Online {
		f.deliver(h)
	}
}

// join adds a host, or brings one back.
func (f *fleet) join(h Host, role Word, labels map[Word]Word, actual Document) {
	f.agents[h] = &agent{}
	r := f.reports[h]
	r.Role, r.Labels, r.Actual = role, labels, actual
	r.Boot = "boot" + strconv.FormatUint(f.next(), 10)
	f.report(h, r)
	f.see(h, Online)
}

func (f *fleet) decommission(h Host) {
	f.see(h, Offline)
	hs, err := f.snap.Host(h)
	if err != nil {
		f.fail("host %s: %v", h, err)
	}
	delete(f.desired, h)
	delete(f.damaged, h)
	f.marker[h], f.out[h] = hs.Next, true
	f.put(func(s *Snapshot) { s.PutDecommissioned(h, hs.Next) })
}

func (f *fleet) variable(v Variable) {
	f.check.changes++
	f.variables[v.Name] = v
	f.put(func(s *Snapshot) { s.PutVariable(v.Name, &v) })
}

// abort is put by anybody; late says that the mirror hasn't heard it yet.
func (f *fleet) abort(id ID, late bool) Abort { return f.abortBy("ann", id, late) }

func (f *fleet) abortBy(actor, id ID, late bool) Abort {
	a := Abort{Sequence: f.next(), Why: "users see errors", Actor: string(actor)}
	f.aborts[id] = a
	g := func(s *Snapshot) { s.PutAbort(id, a) }
	if f.bend.unfenced {
		return a
	}
	if late && f.leading {
		f.inflight = append(f.inflight, g)
	} else {
		f.put(g)
	}
	return a
}

func (f *fleet) press(released, late bool) {
	a := Abort{Sequence: f.next(), Why: "incident 4711", Released: released}
	f.stop = a
	g := func(s *Snapshot) { s.PutStop(a) }
	if f.bend.unfenced {
		return
	}
	if late && f.leading {
		f.inflight = append(f.inflight, g)
	} else {
		f.put(g)
	}
}

// start creates a rollout.
func (f *fleet) start(spec Spec) error {
	step, err := f.snap.Create(spec, "ann", fleetSeed, f.now)
	if err != nil {
		return err
	}
	if !f.request("create", step) {
		return fmt.Errorf("the step that creates %s was refused", spec.Name)
	}
	return nil
}

// request commits the step that an operator's command has made.
func (f *fleet) request(verb string, step Step) bool {
	f.check.verb = verb
	defer func() { f.check.verb = "" }()
	return f.commit(step)
}

// states lists the rollouts in one of the states, by name.
func (f *fleet) states(in ...State) []ID {
	var out []ID
	for id, r := range sorted(f.rollouts) {
		if slices.Contains(in, r.State) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func (f *fleet) hosts() []Host { return slices.Sorted(maps.Keys(f.reports)) }

// replay gives the same facts and times to new snapshots, and wants the same
// decisions.
func (f *fleet) replay() {
	var s *Snapshot
	for _, x := range f.facts {
		switch {
		case x.snapshot:
			s = NewSnapshot(x.charge)
		case x.put != nil:
			x.put(s)
		default:
			if got := encoded(Decide(s, x.at)); !bytes.Equal(got, x.decision) {
				f.fail("replayed, the decision at %v differs:\n%s\n%s", x.at, x.decision, got)
			}
		}
	}
}

// reload gives what the store holds to a new snapshot, in another order, and
// wants the decision that the leader makes.
func (f *fleet) reload() {
	if !f.leading || len(f.inflight) > 0 {
		return
	}
	s := NewSnapshot(2 * f.renewEvery)
	for _, put := range f.load(f.rng, false) {
		put(s)
	}
	s.PutLead(f.led, f.renewed)
	want, got := encoded(Decide(f.snap, f.now)), encoded(Decide(s, f.now))
	if !bytes.Equal(want, got) {
		f.fail("at %v a new leader decides otherwise:\n%s\n%s", f.now, want, got)
	}
}

// arrangeBy arranges hosts by the labels that they have now.
func arrangeBy(ps []place, salt string, labels []Word) {
	for _, p := range ps {
		p.m.spread = make([]Word, len(labels))
		for i, l := range labels {
			p.m.spread[i] = p.m.host.report.Labels[l]
		}
	}
	arrange(ps, salt, 0, len(labels))
}
