package slo

import (
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

func TestRatioQuery(t *testing.T) {
	r := &Ratio{Bad: "sum(rate(bad[$window]))", Total: "sum(rate(total[$window]))", Target: 99, Burn: []Burn{
		{Rate: 2, Short: field.Duration(time.Minute), Long: field.Duration(time.Hour)},
	}}
	short, long := "((sum(rate(bad[1m]))) / (sum(rate(total[1m])))) / 0.02", "((sum(rate(bad[1h]))) / (sum(rate(total[1h])))) / 0.02"
	if got, want := r.Query().Query, "(("+short+") <= ("+long+") or ("+long+"))"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r = &Ratio{Good: "good_total", Total: "all_total", Target: 99.9}
	got := r.Query().Query
	for _, want := range []string{"1 - sum(increase((good_total)[5m:])) / sum(increase((all_total)[5m:]))", "[1h:]", "[30m:]", "[6h:]", " >= "} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}

// A budget that burns too fast holds, before the change and after it, and freezes
// nothing.
func TestRatioHolds(t *testing.T) {
	w, at := outside(t, Objective{Ratio: &Ratio{Bad: "b", Total: "t", Target: 99}}, 3)
	look := func(outcome Outcome, after time.Duration, want string) {
		t.Helper()
		w.Gate("o", "", outcome, "the query gives 3", true, at(after))
		if why := w.Unclear(); want == "" && why != "" || !strings.Contains(why, want) {
			t.Errorf("%s: %q, want %q", outcome, why, want)
		}
	}
	look(Success, time.Second, "")
	look(Failing, 2*time.Second, "the error budget of 99% in 4w burns too fast: the query gives 3")
	look(Failing, 3*time.Second, "burns too fast")
	look(Success, 4*time.Second, "")
	if w.Verdict() != nil {
		t.Errorf("it freezes: %+v", w.Verdict())
	}
}

func TestRatioFaults(t *testing.T) {
	good := func(change func(*Ratio)) Ratio {
		r := Ratio{Bad: "b", Total: "t", Target: 99}
		change(&r)
		return r
	}
	for want, r := range map[string]Ratio{
		"one of good and bad":     good(func(r *Ratio) { r.Good = "g" }),
		"ratio.total: is missing": good(func(r *Ratio) { r.Total = "" }),
		"ratio.target":            good(func(r *Ratio) { r.Target = 100 }),
		"ratio.window":            good(func(r *Ratio) { r.Window = field.Duration(time.Minute) }),
		"ratio.burn[0].rate":      good(func(r *Ratio) { r.Burn = []Burn{{0, field.Duration(time.Minute), field.Duration(time.Hour)}} }),
		"ratio.burn[0].long":      good(func(r *Ratio) { r.Burn = []Burn{{2, field.Duration(time.Hour), field.Duration(time.Hour)}} }),
	} {
		o := Objective{Name: "o", Ratio: &r}
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
}
