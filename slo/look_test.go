package slo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// outside is a rollout of ten hosts of role web and one of db that is watched
// from outside; the first n of web are changed.
func outside(t *testing.T, o Objective, n int) (*Watch, func(after time.Duration) time.Time) {
	t.Helper()
	o.Name = "o"
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(after time.Duration) time.Time { return start.Add(after) }
	w := NewWatch("r", []*Objective{&o}, false, start)
	for i := range 10 {
		w.Join(host(i), "web", nil, "web", time.Time{})
	}
	w.Join("db", "db", nil, "db", time.Time{})
	if !o.Gate() {
		for i := range 10 {
			w.Said(host(i), "o", Passes, "", start)
		}
		w.Looked("o", Success, "", start)
	}
	for i := range n {
		w.Told(host(i), start)
	}
	return w, at
}

func host(i int) field.Host { return field.Host(fmt.Sprintf("h%d", i)) }

func perHost() *Query { return &Query{Query: "up", Success: "> 0"} }

// A host counts when a look sees it fail that is `for` after the first that did,
// and not by time alone: nobody knows how it does between two looks.
func TestLooksCount(t *testing.T) {
	w, at := outside(t, Objective{PromQL: perHost(), FailureLimit: new(0)}, 3)
	w.Said(host(0), "o", Fails, "0", at(15*time.Second))
	w.Looked("o", Success, "", at(15*time.Second))
	w.Advance(at(74 * time.Second))
	w.Looked("o", Errored, "no answer", at(80*time.Second))
	if w.Verdict() != nil {
		t.Fatal("it counts though no look has seen it fail for long enough")
	}
	w.Looked("o", Success, "", at(90*time.Second))
	v := w.Verdict()
	if v == nil || v.Kind != Limit || len(v.Failed) != 1 || v.Failed[0].How != FailedSignal || v.Failed[0].Host != host(0) || v.Failed[0].Output != "0" {
		t.Fatalf("verdict %+v", v)
	}
}

// What was seen before a gap that is longer than evidence may be old is
// forgotten, and a host that recovers begins anew.
func TestLooksForget(t *testing.T) {
	w, at := outside(t, Objective{PromQL: perHost(), FailureLimit: new(0)}, 3)
	fails := func(i int, after time.Duration) {
		w.Said(host(i), "o", Fails, "", at(after))
		w.Looked("o", Success, "", at(after))
	}
	fails(0, time.Minute)
	w.Looked("o", Success, "", at(5*time.Minute))
	if w.Verdict() != nil {
		t.Fatal("a gap in the looks counts")
	}
	if why := w.Unclear(); why != "" {
		t.Errorf("after an answer: %s", why)
	}
	w.Said(host(0), "o", Passes, "", at(5*time.Minute+30*time.Second))
	w.Looked("o", Success, "", at(5*time.Minute+30*time.Second))
	fails(0, 6*time.Minute)
	fails(0, 6*time.Minute+59*time.Second)
	if w.Verdict() != nil {
		t.Fatal("a host that has recovered counts")
	}
	fails(0, 7*time.Minute)
	if w.Verdict() == nil {
		t.Fatal("a host that fails for its time doesn't count")
	}
}

// Hosts that fail beyond a limit freeze, those not changed don't.
func TestFailureLimit(t *testing.T) {
	w, at := outside(t, Objective{PromQL: perHost(), For: new(field.Duration(0)), FailureLimit: new(1)}, 3)
	for i, want := range map[int]bool{9: false, 8: false, 7: false} {
		w.Said(host(i), "o", Fails, "", at(time.Second))
		w.Looked("o", Success, "", at(time.Second))
		if (w.Verdict() != nil) != want {
			t.Fatalf("after host %d: %+v", i, w.Verdict())
		}
	}
	if n := w.Standings()[0].Needs; n == 0 || n > 2 {
		t.Errorf("%d more would freeze it", n)
	}
	w.Said(host(0), "o", Fails, "", at(2*time.Second))
	w.Looked("o", Success, "", at(2*time.Second))
	if w.Verdict() != nil {
		t.Fatal("the first is tolerated")
	}
	w.Said(host(1), "o", Fails, "", at(3*time.Second))
	w.Looked("o", Success, "", at(3*time.Second))
	if w.Verdict() == nil {
		t.Fatal("the second is beyond the limit")
	}
}

// Missing and bad answers hold, and say why, and never freeze.
func TestLooksHold(t *testing.T) {
	for _, gate := range []bool{false, true} {
		q := perHost()
		if gate {
			q.Per = PerRollout
		}
		w, at := outside(t, Objective{PromQL: q}, 3)
		look := func(outcome Outcome, after time.Duration) {
			if gate {
				w.Gate("o", "", outcome, "its words", true, at(after))
			} else {
				w.Looked("o", outcome, "its words", at(after))
			}
		}
		clear := func(after time.Duration, want string) {
			t.Helper()
			w.Advance(at(after))
			if why := w.Unclear(); want == "" && why != "" || !strings.Contains(why, want) {
				t.Errorf("gate %t, %s: %q, want %q", gate, after, why, want)
			}
		}
		if gate {
			clear(0, "hasn't been asked yet")
		}
		look(Success, time.Second)
		clear(time.Second, "")
		for i := range 5 {
			clear(time.Second, "")
			look(Errored, time.Duration(i+2)*time.Second)
		}
		clear(7*time.Second, "no answer 5 times in a row: its words")
		look(Success, 8*time.Second)
		clear(8*time.Second, "")
		for i := range 4 {
			look(Inconclusive, time.Duration(i+9)*time.Second)
		}
		clear(13*time.Second, "inconclusive 4 times in a row")
		look(Success, 14*time.Second)
		clear(134*time.Second, "")
		clear(135*time.Second, "for longer than 2m")
		if w.Verdict() != nil {
			t.Error("it freezes")
		}
	}
}

// A gate counts failures once something that it is about was changed, and each
// piece of news once.
func TestGate(t *testing.T) {
	q := &Query{Query: "x", Per: PerRole, Failure: "> 1"}
	w, at := outside(t, Objective{PromQL: q, FailureLimit: new(1)}, 3)
	w.Gate("o", "cache", Failing, "2", true, at(time.Second))
	if w.Unclear() == "" || !strings.Contains(w.Unclear(), "asked yet") {
		t.Errorf("a role that isn't the rollout's: %q", w.Unclear())
	}
	w.Gate("o", "db", Failing, "2", true, at(time.Second))
	if why := w.Unclear(); !strings.Contains(why, "fails already") || !strings.HasSuffix(why, ": 2") {
		t.Errorf("before the change: %q", why)
	}
	w.Gate("o", "web", Failing, "3", false, at(2*time.Second))
	w.Gate("o", "web", Failing, "3", true, at(2*time.Second))
	if w.Verdict() != nil {
		t.Fatal("one failure is tolerated")
	}
	w.Gate("o", "web", Failing, "4", true, at(3*time.Second))
	v := w.Verdict()
	if v == nil || v.Kind != Limit || v.Standings[0].Gate.Failures != 2 || v.Standings[0].Gate.Why != "4" || v.Standings[0].Bar != 0 {
		t.Fatalf("verdict %+v", v)
	}
}

func TestJudge(t *testing.T) {
	nan := 0.0
	nan /= nan
	for _, c := range []struct {
		success, failure Condition
		value            float64
		want             Outcome
	}{
		{"< 1", "", 0.5, Success}, {"< 1", "", 1, Failing}, {"", ">= 2", 2, Failing}, {"", ">= 2", 1.9, Success},
		{"<= 1", "> 5", 3, Inconclusive}, {"<= 1", "> 5", 1, Success}, {"<= 1", "> 5", 6, Failing},
		{"== 0", "", nan, Inconclusive}, {"", "!= 0", nan, Inconclusive}, {"!= 0", "", 1, Success},
	} {
		q := Query{Success: c.success, Failure: c.failure}
		if got := q.Judge(c.value); got != c.want {
			t.Errorf("success %q, failure %q: %v is %s, want %s", c.success, c.failure, c.value, got, c.want)
		}
	}
}

func TestSourceFaults(t *testing.T) {
	for want, o := range map[string]Objective{
		"check: is missing":          {},
		"comes beside check":         {Check: "a", PromQL: perHost()},
		"promql.query":               {PromQL: &Query{Success: "> 1"}},
		"promql.success: is missing": {PromQL: &Query{Query: "up"}},
		"isn't a condition":          {PromQL: &Query{Query: "up", Success: "1"}},
		"promql.per":                 {PromQL: &Query{Query: "up", Success: "> 1", Per: "zone"}},
		"alert.name":                 {Alert: &Alert{}},
		"no budgets of hosts":        {Alert: &Alert{Name: "A"}, Steady: &Steady{AtMost: 1, Per: field.Duration(time.Hour)}},
		"failureLimit":               {Check: "a", FailureLimit: new(-1)},
	} {
		o.Name = "o"
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}
