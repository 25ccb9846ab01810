package evidence

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// life records what happens to a fleet of 60 in six days, at random: r0 is
// there from the beginning, r1 begins on the third day and does harm, r2 of
// another variable on the fourth. Agents that are up report themselves every
// twelve hours.
type life struct {
	*tape
	random  *rand.Rand
	down    map[rollout.Host]bool
	session int
}

func live(t testing.TB, seed uint64) *tape {
	l := &life{tape: newTape(t), random: rand.New(rand.NewPCG(seed, 3)), down: make(map[rollout.Host]bool), session: 1}
	o := docker()
	o.WithinOfChange = &slo.Within{AtMost: 5, Window: field.Duration(6 * time.Hour)}
	o.Steady = &slo.Steady{AtMost: 20, Per: field.Duration(24 * time.Hour)}
	l.objective(o)
	l.objective(&slo.Objective{Name: "memory", Check: "memory", Tolerate: 2})
	for i := range 60 {
		r := l.host(name(i), rollout.Word([]string{"web", "db", "cache"}[i%3]))
		if i%2 == 0 {
			r.Checks["memory"] = rollout.Check{Status: rollout.Passing}
			l.report(name(i))
		}
		l.pass(time.Duration(l.random.IntN(60_000)) * time.Millisecond)
	}
	const step = 3 * time.Minute
	for i := range int(6 * 24 * time.Hour / step) {
		switch i {
		case 10:
			l.start("r0", "docker-healthy")
		case int(3 * 24 * time.Hour / step):
			l.records["r0"].State = rollout.StateSuperseded
			l.record("r0")
			l.start("r1", "docker-healthy", "memory")
		case int(4 * 24 * time.Hour / step):
			r := l.start("r2", "memory")
			r.Spec.Variable = "kernel"
			l.record("r2")
		}
		l.step(i)
		l.pass(time.Duration(l.random.Int64N(int64(2 * step))))
	}
	return l.tape
}

func (l *life) step(i int) {
	host := name(i % 60)
	if i%4 < 3 { // every host's turn is every three hours
		host = name(l.random.IntN(60))
	}
	if i%60 == 0 {
		for h := range 60 {
			if !l.down[name(h)] {
				l.reports[name(h)].Event = l.events[name(h)]
				l.report(name(h))
			}
		}
	}
	if l.down[host] {
		if l.random.IntN(3) == 0 {
			delete(l.down, host)
			l.silence(host, subjects.HostHeard, l.name())
			l.report(host)
		}
		return
	}
	r := l.reports[host]
	switch l.random.IntN(12) {
	case 0, 1:
		status := []rollout.CheckStatus{rollout.Passing, rollout.Pending, rollout.Failing}[l.random.IntN(3)]
		r.Checks["docker"] = rollout.Check{Status: status}
		l.send(host, l.event(host, status))
	case 2:
		e := l.event(host, rollout.Passing)
		e.Check = "memory"
		l.send(host, e)
		l.send(host, e) // twice
		r.Checks["memory"] = rollout.Check{Status: rollout.Passing}
	case 3: // the agent's file is changed
		delete(r.Checks, "memory")
	case 4:
		l.down[host] = true
		l.silence(host, subjects.HostSilent, l.name())
	case 5:
		if l.random.IntN(10) == 0 {
			l.session++
		}
		l.listens(l.name())
	case 6:
		r.Role = rollout.Word([]string{"web", "db"}[l.random.IntN(2)])
	case 7:
		if l.random.IntN(10) == 0 {
			l.tell(host, "")
		}
	default:
		l.turn(host)
	}
}

// turn is the ramp's: the host is told, and of r1 it breaks now and then.
func (l *life) turn(host rollout.Host) {
	id := rollout.ID("r0")
	switch {
	case l.records["r2"] != nil && l.random.IntN(2) == 0:
		l.change(l.next(host, "kernel", value("2"), "r2"))
		return
	case l.records["r1"] != nil:
		id = "r1"
	case l.records["r0"] == nil:
		return
	}
	if d := l.desired[host]; d != nil && d.Told["docker_version"].Rollout == id {
		return
	}
	l.tell(host, id)
	if id == "r1" && l.random.IntN(3) == 0 {
		l.reports[host].Checks["docker"] = rollout.Check{Status: rollout.Failing}
		l.fails(host)
	}
}

func (l *life) name() string { return fmt.Sprint("s", l.session) }

// seen is what is said of the rollouts in question.
type seen struct {
	Verdicts []slo.Verdict
	Views    map[uint64]View // by sequence, now and then
}

func replay(t testing.TB, f *Fold, messages []Message, id rollout.ID, look func(f *Fold)) (s seen) {
	s.Views = make(map[uint64]View)
	for _, m := range messages {
		verdicts, err := f.Take(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range verdicts {
			if v.Rollout == id {
				s.Verdicts = append(s.Verdicts, v)
			}
		}
		if m.Sequence%100 == 0 {
			if v, ok := f.View(id); ok {
				s.Views[m.Sequence] = v
			}
		}
		look(f)
	}
	s.Views[0], _ = f.View(id)
	return s
}

// same compares without printing all of it.
func (s seen) same(t *testing.T, want seen) {
	t.Helper()
	if !reflect.DeepEqual(s.Verdicts, want.Verdicts) {
		t.Errorf("verdicts %+v, want %+v", s.Verdicts, want.Verdicts)
	}
	for _, sequence := range sortedKeys(want.Views) {
		if got, want := s.Views[sequence], want.Views[sequence]; !reflect.DeepEqual(got, want) {
			t.Errorf("at sequence %d %+v, want %+v", sequence, got, want)
			return
		}
	}
}

// TestTheSameStreamGivesTheSameVerdicts: from its beginning, from Lookback before
// a rollout was created, and however often somebody looks.
func TestTheSameStreamGivesTheSameVerdicts(t *testing.T) {
	froze := 0
	for seed := range uint64(2) {
		p := live(t, seed)
		created := make(map[rollout.ID]time.Time)
		for _, m := range p.messages {
			kind, id, _ := subjects.ParseEvidence(m.Subject)
			if _, ok := created[rollout.ID(id)]; kind == subjects.KindRollout && !ok {
				created[rollout.ID(id)] = m.Time
			}
		}
		for _, id := range []rollout.ID{"r1", "r2"} {
			nobody := func(*Fold) {}
			want := replay(t, New(), p.messages, id, nobody)
			froze += len(want.Verdicts)
			if len(want.Views) < 5 || len(want.Views[0].Standings) == 0 {
				t.Fatalf("%s is hardly watched: %+v", id, want)
			}
			replay(t, New(), p.messages, id, func(f *Fold) {
				for _, id := range f.Rollouts() {
					if f.Sequence()%7 == 0 {
						f.View(id)
					}
				}
				f.Pending()
				f.Due()
				f.Hosts(func(rollout.Host, bool) bool { return true })
			}).same(t, want)
			f, from := New(), created[id].Add(-Lookback)
			var later []Message
			for _, m := range p.messages {
				if !m.Time.Before(from) {
					later = append(later, m)
					continue
				}
				if kind, _, _ := subjects.ParseEvidence(m.Subject); kind == subjects.KindObjective {
					o, err := DecodeObjective(m.Header, m.Data)
					if err != nil {
						t.Fatal(err)
					}
					f.Seed(o)
				}
			}
			if len(later) == len(p.messages) {
				t.Fatal("there is nothing before Lookback")
			}
			replay(t, f, later, id, nobody).same(t, want)
		}
	}
	if froze == 0 {
		t.Error("no rollout is frozen")
	}
}

// TestAReplayMayJudgeByOthers: the objectives that an operator would have.
func TestAReplayMayJudgeByOthers(t *testing.T) {
	p := newTape(t)
	p.hosts(0, 100, "web")
	p.start("r1")
	for i := range 4 {
		p.tell(name(i), "r1")
		p.breaks(name(i))
	}
	if len(p.verdicts) != 0 || len(p.f.Rollouts()) != 0 {
		t.Fatal("a rollout without objectives is judged")
	}
	f := New()
	f.Instead([]*slo.Objective{docker()})
	if s := replay(t, f, p.messages, "r1", func(*Fold) {}); len(s.Verdicts) != 1 {
		t.Fatalf("%+v", s)
	}
}
