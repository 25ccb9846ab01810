package slo

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tsunami-rollouts/tsunami/field"
)

// stage is a watch and its clock.
type stage struct {
	*Watch
	t   *testing.T
	now time.Time
}

func newStage(t *testing.T, objectives ...*Objective) *stage {
	for _, o := range objectives {
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return &stage{NewWatch("r", objectives, false, simEpoch), t, simEpoch}
}

func dockerObjective() *Objective { return &Objective{Name: "docker-healthy", Check: "docker"} }

func hostName(i int) field.Host { return field.Host(fmt.Sprintf("h%03d", i)) }

// healthy lets hosts join and be seen healthy.
func (s *stage) healthy(from, to int, stratum string) {
	for i := from; i < to; i++ {
		s.Join(hostName(i), "web", nil, stratum, time.Time{})
		s.passes(i)
	}
}

func (s *stage) passes(i int) { s.Check(hostName(i), "docker", Passes, "", s.now) }
func (s *stage) fails(i int)  { s.Check(hostName(i), "docker", Fails, "exit status 1", s.now) }

func (s *stage) pass(d time.Duration) { s.now = s.now.Add(d); s.Advance(s.now) }

// standing is that of the first objective, as "treated failed/treated, control
// failed/control".
func (s *stage) standing() string {
	v := s.Standings()[0]
	return fmt.Sprintf("%d/%d %d/%d", v.TreatedFailed, v.Treated, v.ControlFailed, v.Control)
}

func (s *stage) want(standing string) {
	s.t.Helper()
	if got := s.standing(); got != standing {
		s.t.Fatalf("treated and control stand at %s, want %s", got, standing)
	}
}

func TestACheckFailsForItsFor(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 100, "web")
	s.Told(hostName(0), s.now)
	s.fails(0)
	if due := s.Due(); !due.Equal(s.now.Add(time.Minute)) {
		t.Fatalf("due at %v", due)
	}
	s.pass(59 * time.Second)
	s.fails(0) // to say it again changes nothing
	s.want("0/1 0/99")
	s.pass(time.Second)
	s.want("1/1 0/99")
	s.fails(0)
	s.pass(time.Hour)
	s.want("1/1 0/99")
}

func TestACheckThatFlapsDoesNotCount(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 100, "web")
	s.Told(hostName(0), s.now)
	for range 10 {
		s.fails(0)
		s.pass(50 * time.Second)
		s.Check(hostName(0), "docker", PassesYet, "", s.now)
		s.pass(20 * time.Second)
	}
	s.want("0/1 0/99")
	if n := len(s.pending); n > 1 {
		t.Fatalf("it stands %d times among what is due", n)
	}
	s.fails(0)
	s.pass(time.Minute)
	s.want("1/1 0/99")
}

func TestAHostEntersWhenItIsSeenHealthy(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.Join("ill", "web", nil, "web", time.Time{})
	s.Check("ill", "docker", Fails, "", s.now)
	s.pass(time.Hour)
	s.Check("ill", "docker", PassesYet, "", s.now)
	s.Check("ill", "memory", Passes, "", s.now)
	s.want("0/0 0/0")
	s.Check("ill", "docker", Passes, "", s.now)
	s.want("0/0 0/1")
	s.Check("stranger", "docker", Passes, "", s.now)
	s.want("0/0 0/1")
}

func TestToldWhileFailingIsNotTheChange(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 10, "web")
	s.fails(0)
	s.Silent(hostName(1), "a", s.now)
	s.pass(30 * time.Second)
	s.Told(hostName(0), s.now)
	s.Told(hostName(1), s.now)
	s.Told(hostName(2), s.now)
	s.want("0/1 0/9")
	s.pass(time.Hour)
	s.want("0/1 1/9")
	s.Tick("a", s.now)
	s.want("0/1 2/9")
}

// TestToldWhileItFlaps: what is over before it counts is no failure, and the host is
// treated from then on.
func TestToldWhileItFlaps(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 10, "web")
	s.fails(0)
	s.Silent(hostName(1), "a", s.now)
	s.pass(time.Second)
	s.Told(hostName(0), s.now)
	s.Told(hostName(1), s.now)
	s.pass(time.Second)
	s.want("0/0 0/10")
	s.passes(0)
	s.Heard(hostName(1), s.now)
	s.want("0/2 0/8")
	s.pass(time.Hour)
	s.Tick("a", s.now)
	s.want("0/2 0/8")
}

// TestAHostFailsOnce also where it leaves in between: or one host could weigh as
// many by saying time and again that it is something else now.
func TestAHostFailsOnce(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 10, "web")
	s.fails(0)
	s.pass(time.Minute)
	s.want("0/0 1/10")
	s.Leave(hostName(0), s.now)
	s.Join(hostName(0), "web", nil, "web", time.Time{})
	s.passes(0)
	s.fails(0)
	s.pass(time.Minute)
	s.want("0/0 1/10")
}

func TestSilenceCountsAfterItsGrace(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 100, "web")
	s.Told(hostName(0), s.now)
	s.Silent(hostName(0), "a", s.now)
	s.pass(3*time.Minute - time.Nanosecond)
	s.Tick("a", s.now)
	s.want("0/1 0/99")
	s.pass(time.Nanosecond)
	s.want("0/1 0/99") // nothing but a guard's word makes silence a failure
	s.Tick("a", s.now)
	s.want("1/1 0/99")
}

func TestSilenceBeginsAnewWithTheGuard(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 100, "web")
	s.Told(hostName(0), s.now)
	s.Silent(hostName(0), "a", s.now)
	s.pass(2 * time.Minute)
	s.Tick("b", s.now.Add(time.Hour)) // another guard's: it may not have listened
	s.now = s.now.Add(time.Hour)
	s.want("0/1 0/99")
	s.Silent(hostName(0), "b", s.now)
	s.pass(2 * time.Minute)
	s.Silent(hostName(0), "b", s.now) // said again by the same: nothing new
	s.Tick("b", s.now)
	s.want("0/1 0/99")
	s.pass(time.Minute)
	s.Tick("b", s.now)
	s.want("1/1 0/99")
}

func TestAHostThatIsHeardIsNotSilent(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 100, "web")
	s.Silent(hostName(0), "a", s.now)
	s.pass(2 * time.Minute)
	s.Heard(hostName(0), s.now)
	s.pass(2 * time.Minute)
	s.Tick("a", s.now)
	s.want("0/0 0/100")
}

// TestMassSilence: 20 % of a role's control and three of it at the least.
func TestMassSilence(t *testing.T) {
	for _, c := range []struct {
		control, silent int
		blind           bool
	}{{100, 19, false}, {100, 20, true}, {10, 2, false}, {10, 3, true}, {4, 2, false}, {3, 3, true}} {
		t.Run(fmt.Sprint(c.silent, " of ", c.control), func(t *testing.T) {
			s := newStage(t, dockerObjective())
			s.healthy(0, c.control+1, "web")
			s.healthy(500, 600, "db")
			last := c.control
			s.Told(hostName(last), s.now)
			for i := range c.silent {
				s.Silent(hostName(i), "a", s.now)
			}
			s.Silent(hostName(last), "a", s.now)
			s.Silent(hostName(500), "a", s.now) // another role hears itself
			s.pass(10 * time.Minute)
			s.Tick("a", s.now)
			want := fmt.Sprintf("1/1 %d/%d", c.silent+1, c.control+100)
			if c.blind {
				want = fmt.Sprintf("0/1 1/%d", c.control+100)
			}
			s.want(want)
			if why := s.Unclear(); (why != "") != c.blind || c.blind && !strings.Contains(why, fmt.Sprintf("%d of %d hosts of web", c.silent, c.control)) {
				t.Fatalf("unclear: %q", why)
			}
			if !c.blind {
				return
			}
			// It is over; the treated host stays silent, and has its grace anew.
			for i := range c.silent {
				s.Heard(hostName(i), s.now)
			}
			if why := s.Unclear(); why != "" {
				t.Fatalf("still unclear: %q", why)
			}
			s.pass(2 * time.Minute)
			s.Tick("a", s.now)
			s.want(fmt.Sprintf("0/1 1/%d", c.control+100))
			s.pass(time.Minute)
			s.Tick("a", s.now)
			s.want(fmt.Sprintf("1/1 1/%d", c.control+100))
		})
	}
}

func TestNoData(t *testing.T) {
	o := dockerObjective()
	s := newStage(t, o)
	if why := s.Unclear(); why != "" {
		t.Fatalf("a rollout without hosts is unclear: %q", why)
	}
	s.Join("a", "web", nil, "web", time.Time{})
	if why := s.Unclear(); !strings.Contains(why, "none of its 1 hosts has been seen to pass the check docker") {
		t.Fatalf("unclear: %q", why)
	}
	o.NoData = NoDataPass
	if why := s.Unclear(); why != "" {
		t.Fatalf("unclear: %q", why)
	}
	if v := s.Standings()[0]; v.Unwatched != 1 {
		t.Fatalf("%d are unwatched", v.Unwatched)
	}
}

// TestVerdict goes to one by the fewest failures, and says what it is.
func TestVerdict(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 1000, "web")
	for i := range 3 {
		s.Told(hostName(i), s.now)
	}
	needs := s.Standings()[0].Needs
	if needs != 2 {
		t.Fatalf("it needs %d more failures", needs)
	}
	for i := range needs {
		if s.Verdict() != nil {
			t.Fatalf("a verdict after %d failures", i)
		}
		s.fails(2 - i)
		s.pass(time.Minute)
	}
	v := s.Verdict()
	if v == nil {
		t.Fatalf("no verdict: %+v", s.Standings())
	}
	if v.Kind != Harm || v.Objective != "docker-healthy" || v.Of != 2 || len(v.Failed) != 2 || v.Failed[0].Host != "h002" || v.Failed[0].How != FailedCheck || !v.Failed[0].Treated || v.Standings[0].E < v.Standings[0].Bar || v.Standings[0].Bar != 100 {
		t.Fatalf("%+v", v)
	}
	for _, want := range []string{"of 997 hosts not yet changed none failed", "at most 1% are ever frozen"} {
		if !strings.Contains(strings.Join(v.RuledOut, "\n"), want) {
			t.Fatalf("%q doesn't say %q", v.RuledOut, want)
		}
	}
	before, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for i := 10; i < 300; i++ {
		s.fails(i)
	}
	s.pass(time.Hour)
	if after, _ := json.Marshal(s.Verdict()); string(after) != string(before) {
		t.Fatalf("the verdict became %s", after)
	}
	if n := s.Standings()[0].Needs; n != 0 {
		t.Fatalf("it needs %d", n)
	}
}

// TestNeedsIsWhatItTakes from states of any kind.
func TestNeedsIsWhatItTakes(t *testing.T) {
	for seed := range uint64(20) {
		f := newFleet([]int{60, 40}, 10*time.Hour, seed)
		s := newStage(t, simObjective(), &Objective{Name: "memory", Check: "memory"})
		for h, r := range f.role {
			s.Join(hostName(h), "web", nil, fmt.Sprint(r), time.Time{})
			s.passes(h)
			s.Check(hostName(h), "memory", Passes, "", s.now)
		}
		s.Plan(s.now, 10*time.Hour)
		f.breaks(0.04, 0)
		var treated []int
		for _, ev := range f.events() {
			if ev.at > time.Duration(seed)*30*time.Minute || s.Verdict() != nil {
				break
			}
			s.now = simEpoch.Add(ev.at)
			if ev.fail {
				s.fails(ev.host)
			} else {
				s.Told(hostName(ev.host), s.now)
				treated = append(treated, ev.host)
			}
		}
		s.pass(2 * time.Minute)
		needs := s.Standings()[0].Needs
		if s.Verdict() != nil || needs == 0 {
			continue
		}
		// The newest of the stratum with most treated hosts fail.
		j := s.objectives[0]
		stratum := 0
		if j.strata[1].atRisk[0] > j.strata[0].atRisk[0] {
			stratum = 1
		}
		for i := len(treated) - 1; i >= 0 && needs > 0; i-- {
			m := s.hosts[hostName(treated[i])]
			if m.stratum != stratum || !m.slots[0].AtRisk() {
				continue
			}
			if s.Verdict() != nil {
				t.Fatalf("seed %d: a verdict %d failures too early", seed, needs)
			}
			s.score(m, 0, FailedCheck, s.now, "")
			needs--
		}
		if s.Verdict() == nil {
			t.Fatalf("seed %d: no verdict", seed)
		}
	}
}

// TestARackCountsOnce: of changed hosts that share a rack one failure counts
// against the budgets, until their time is over; against the control each does.
func TestARackCountsOnce(t *testing.T) {
	rack := func(objective *Objective, labels func(i int) map[field.Word]field.Word) (breach, harm []float64) {
		s := newStage(t, objective)
		for i := range 400 {
			s.Join(hostName(i), "web", labels(i), "web", time.Time{})
			s.passes(i)
		}
		s.Plan(s.now, 14*simDay)
		for i := range 200 {
			s.Told(hostName(i), s.now)
		}
		for i := range 3 {
			s.fails(i)
			s.pass(time.Duration(DefaultFor))
			breach, harm = append(breach, s.Standings()[0].Breach), append(harm, s.Standings()[0].Harm)
		}
		return breach, harm
	}
	r1 := map[field.Word]field.Word{"rack": "r1"}
	one, harmOne := rack(simObjective(), func(int) map[field.Word]field.Word { return r1 })
	none, harmNone := rack(simObjective(), func(int) map[field.Word]field.Word { return nil })
	apart, _ := rack(simObjective(), func(i int) map[field.Word]field.Word {
		return map[field.Word]field.Word{"rack": field.Word(fmt.Sprint("r", i))}
	})
	other := simObjective()
	other.Domain = "feed"
	feed, _ := rack(other, func(int) map[field.Word]field.Word { return r1 })
	if one[0] != none[0] || one[1] > one[0] || one[2] > one[1] {
		t.Errorf("one rack: %v, want it to rise once only", one)
	}
	if !slices.Equal(none, apart) || !slices.Equal(none, feed) || none[2] <= none[1] || none[1] <= none[0] {
		t.Errorf("no racks %v, a rack each %v, racks that aren't asked for %v", none, apart, feed)
	}
	if !slices.Equal(harmOne, harmNone) {
		t.Errorf("harm: %v in one rack, %v otherwise", harmOne, harmNone)
	}
}

// TestObjectivesShareTheBar: two of them freeze at Σ E/bar = 1, with a bar of 200
// each; their evidence adds up.
func TestObjectivesShareTheBar(t *testing.T) {
	s := newStage(t, dockerObjective(), &Objective{Name: "memory", Check: "memory"})
	for i := range 200 {
		s.Join(hostName(i), "web", nil, "web", time.Time{})
		s.passes(i)
		s.Check(hostName(i), "memory", Passes, "", s.now)
	}
	s.Told(hostName(0), s.now)
	s.Told(hostName(1), s.now)
	s.Told(hostName(2), s.now)
	sum := func() (sum float64) {
		for _, v := range s.Standings() {
			if v.Bar != 200 {
				t.Fatalf("the bar is %v", v.Bar)
			}
			sum += v.E / v.Bar
		}
		return sum
	}
	for i := 0; s.Verdict() == nil; i++ {
		if i == 3 {
			t.Fatal("no verdict")
		}
		if sum() >= 1 {
			t.Fatalf("no verdict at %v", sum())
		}
		check := field.ID("docker")
		if i == 1 {
			check = "memory"
		}
		s.Check(hostName(i), check, Fails, "", s.now)
		s.pass(time.Minute)
	}
	if sum() < 1 {
		t.Fatalf("a verdict at %v", sum())
	}
}

func TestARollbackIsJudgedByTheObjectiveAlone(t *testing.T) {
	for _, budget := range []*Within{nil, {AtMost: 1, Window: field.Duration(time.Hour)}} {
		o := dockerObjective()
		o.WithinOfChange = budget
		s := newStage(t, o)
		s.Watch = NewWatch("r", []*Objective{o}, true, s.now)
		s.healthy(0, 100, "web")
		for i := range 20 {
			s.Told(hostName(i), s.now)
			s.fails(i)
		}
		s.pass(time.Minute)
		switch v := s.Verdict(); {
		case budget == nil && v != nil:
			t.Fatalf("%+v", v)
		case budget != nil && (v == nil || v.Kind != Breach || v.Standings[0].Harm != 1):
			t.Fatalf("%+v", v)
		}
	}
}

func TestGivingUpIsAFailure(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 100, "web")
	s.Enact(hostName(0), "no space left", s.now) // of what it was told before
	s.Told(hostName(1), s.now)
	s.Enact(hostName(1), "no space left", s.now)
	s.want("1/1 0/99")
	if f := s.failed[0]; f.How != FailedEnact || f.Output != "no space left" {
		t.Fatalf("%+v", f)
	}
}

// TestASettledRolloutHasNoSteadyBudget: what fails for years afterwards isn't
// the rollout's.
func TestASettledRolloutHasNoSteadyBudget(t *testing.T) {
	o := dockerObjective()
	o.Steady = &Steady{AtMost: 0.1, Per: field.Duration(24 * time.Hour)}
	for _, settled := range []bool{false, true} {
		s := newStage(t, o)
		s.healthy(0, 100, "web")
		for i := range 100 {
			s.Told(hostName(i), s.now)
		}
		s.pass(time.Hour)
		if settled {
			s.Settle(s.now)
		}
		for i := range 5 {
			s.fails(i)
		}
		s.pass(time.Minute)
		if got := s.Verdict() == nil; got != settled {
			t.Fatalf("settled: %v, no verdict: %v", settled, got)
		}
	}
}

// TestStandingsAreOfNow: time in which nobody fails speaks for the rollout.
func TestStandingsAreOfNow(t *testing.T) {
	o := dockerObjective()
	o.Steady = &Steady{AtMost: 1, Per: field.Duration(time.Hour)}
	s := newStage(t, o)
	s.healthy(0, 10, "web")
	s.Told(hostName(0), s.now)
	before := s.Standings()[0].Breach
	s.pass(time.Hour)
	if after := s.Standings()[0].Breach; after >= before {
		t.Fatalf("the breach stands at %v, before an hour at %v", after, before)
	}
}

// TestOutputIsBounded while a host hasn't failed yet, too, and stays UTF-8.
func TestOutputIsBounded(t *testing.T) {
	s := newStage(t, dockerObjective())
	s.healthy(0, 2, "web")
	s.Told(hostName(0), s.now)
	s.Check(hostName(0), "docker", Fails, strings.Repeat("ä", 500_000)[1:], s.now)
	if n := len(s.hosts[hostName(0)].slots[0].output); n > 2*mostOutput {
		t.Fatalf("%d bytes are kept of one host", n)
	}
	s.pass(time.Minute)
	if out := s.failed[0].Output; !utf8.ValidString(out) || len(out) < mostOutput/2 {
		t.Fatalf("%q", out)
	}
}

// TestThePlanIsNoOlderThanTheEvidence: a ramp that is said to have begun before
// begins now, or how time is cut would matter.
func TestThePlanIsNoOlderThanTheEvidence(t *testing.T) {
	o := simObjective()
	var e [2]float64
	for i := range e {
		ev := NewEvidence(o, false, simEpoch)
		ev.Stratum(simEpoch)
		var hosts [50]Subject
		for h := range hosts {
			ev.Enter(&hosts[h], 0, true, simEpoch)
		}
		if i == 1 {
			ev.advance(simEpoch.Add(5 * simDay))
		}
		ev.Plan(simEpoch.Add(5*simDay), 10*simDay)
		if begins := ev.restarts.begins; begins < ev.now {
			t.Fatalf("the ramp begins %v before now", time.Duration(ev.now-begins))
		}
		ev.Plan(simEpoch, time.Hour) // only the first counts
		ev.Fail(&hosts[0], simEpoch.Add(6*simDay))
		e[i] = ev.E()
	}
	if e[0] != e[1] || math.IsNaN(e[0]) {
		t.Fatalf("%v and %v", e[0], e[1])
	}
	ev := NewEvidence(o, false, simEpoch)
	ev.advance(simEpoch.Add(simDay))
	ev.Plan(simEpoch, 10*simDay)
	if at, ok := ev.restarts.next(ev.now); ok {
		t.Fatalf("a start point at %v has come already", time.Unix(0, at))
	}
}
