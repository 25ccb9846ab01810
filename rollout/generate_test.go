package rollout

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"
)

var (
	roles     = []Word{"web", "db", "cache"}
	zones     = []Word{"a", "b", "c"}
	names     = []Name{"colour", "size", "version"}
	someHosts = []string{"", "", "", `role != "db"`, `labels.zone in ["a", "b"]`, `role == "web"`, `host < "h2"`}

	// Where the fleets are: one of them nowhere, and the others in a night in which
	// a clock is put back or forward, by an hour or by half of one.
	epochs = []time.Time{
		epoch,
		time.Date(2026, 10, 25, 0, 13, 0, 0, time.UTC), // Stockholm, back at 01:00
		time.Date(2027, 3, 28, 0, 21, 0, 0, time.UTC),  // Stockholm, forward at 01:00
		time.Date(2026, 11, 1, 5, 31, 0, 0, time.UTC),  // New York, back at 06:00
		time.Date(2027, 4, 3, 14, 33, 0, 0, time.UTC),  // Lord Howe, back by 30 minutes at 15:00
		time.Date(2026, 10, 3, 15, 7, 0, 0, time.UTC),  // Lord Howe, forward at 15:30
	}
	wallClocks = []Zone{"", "Europe/Stockholm", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}
)

func oneOf[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

// chance is true once in n.
func chance(t *rapid.T, label string, n int) bool { return rapid.IntRange(1, n).Draw(t, label) == n }

func minutes(t *rapid.T, label string, from, to int) time.Duration {
	return time.Duration(rapid.IntRange(from, to).Draw(t, label)) * time.Minute
}

// rule is in force for some minutes, soon, and on most days.
func (w *world) rule(t *rapid.T) Rule {
	r := Rule{Zone: oneOf(t, "zone", wallClocks...)}
	at := w.now.Add(minutes(t, "from", -30, 120)).In(must(r.Zone.Location()))
	from := time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
	r.From, r.To = TimeOfDay(from), TimeOfDay((from+minutes(t, "for", 2, 45))%(24*time.Hour))
	today := time.Date(at.Year(), at.Month(), at.Day(), 12, 0, 0, 0, time.UTC)
	switch rapid.IntRange(0, 5).Draw(t, "days") {
	case 0:
		r.Days = []Weekday{Weekday(weekdays[today.Weekday()]), "wed", "sun"}
	case 1:
		r.MonthDays = []MonthDays{{today.Day(), today.Day()}, {-7, -1}, {1, 14}}
	case 2:
		r.Months = []Month{Month(months[today.Month()-1]), Month(months[today.AddDate(0, 0, 7).Month()-1]), "jun"}
	}
	return r
}

func (w *world) windows(t *rapid.T) (out []Rule) {
	for range rapid.IntRange(1, 4).Draw(t, "windows") {
		out = append(out, w.rule(t))
	}
	// So that it ends within some days.
	out[0].Days, out[0].Months, out[0].MonthDays = nil, nil, nil
	return out
}

func percent(t *rapid.T, label string) Percent {
	return oneOf(t, label, Percent(0), 0, 100, 100, 50, 33.3, 10)
}

// ramp is one of every shape; quick says that it takes an hour at most.
func ramp(t *rapid.T) Ramp {
	r := Ramp{Percent: percent(t, "percent")}
	over := oneOf(t, "over", 10*time.Second, 7*time.Minute+1, time.Hour, 150*time.Minute)
	r.Over = Duration(over)
	switch oneOf(t, "shape", "", Linear, Exponential, Exponential, Waves, Waves, Points, "preset") {
	case Linear:
		r.Shape = Linear
	case Exponential:
		r.Shape, r.Growth = Exponential, oneOf(t, "growth", 0, 1.5, 10, 5000)
	case Waves:
		r.Shape, r.Over = Waves, 0
		for _, p := range oneOf(t, "waves", []Percent{1, 100}, []Percent{10, 50, 100}, []Percent{7.5, 20, 30, 100}) {
			hold := oneOf(t, "hold", time.Second, 3*time.Minute, 20*time.Minute)
			r.Waves = append(r.Waves, Wave{Percent: p, Hold: Duration(hold), Approval: chance(t, "approved", 4)})
		}
		if last := &r.Waves[len(r.Waves)-1]; chance(t, "no last hold", 2) {
			last.Hold = 0
		}
	case Points:
		r.Shape, r.Over = Points, 0
		at := time.Duration(0)
		for _, p := range oneOf(t, "points", []Percent{100}, []Percent{5, 20, 100}, []Percent{50, 50, 100}, []Percent{30, 100, 100}) {
			at += oneOf(t, "at", time.Second+1, 5*time.Minute, time.Hour)
			r.Points = append(r.Points, Point{At: Duration(at), Percent: p})
		}
	case "preset":
		if chance(t, "long", 6) {
			r.Preset, r.Over = "rapid", 0
		}
	}
	return r
}

func limits(t *rapid.T) (out []Limit) {
	for range rapid.IntRange(0, 2).Draw(t, "limits") {
		l := Limit{Where: oneOf(t, "limited where", `role == "web"`, `labels.zone == "a"`, ""), Percent: percent(t, "limited to")}
		l.AtLeast = rapid.IntRange(0, 2).Draw(t, "at least")
		if rapid.Bool().Draw(t, "at most") {
			l.AtMost = new(l.AtLeast + rapid.IntRange(0, 3).Draw(t, "more"))
		}
		out = append(out, l)
	}
	return out
}

func inFlight(t *rapid.T) InFlight {
	return InFlight{
		Max:     oneOf(t, "max", Percent(0), 100, 100, 100, 50),
		PerRole: oneOf(t, "perRole", Percent(0), 100, 100, 50),
	}
}

func canary(t *rapid.T) *Canary {
	c := &Canary{Bake: Duration(oneOf(t, "bake", 0, time.Minute, 25*time.Minute))}
	switch oneOf(t, "canaries", "hosts", "perRole", "where") {
	case "hosts":
		c.Hosts = rapid.IntRange(1, 4).Draw(t, "hosts")
	case "perRole":
		c.PerRole = rapid.IntRange(1, 2).Draw(t, "per role")
	case "where":
		c.Where = oneOf(t, "canary where", `labels.zone == "a"`, `host < "h3"`, `role == "none"`)
		return c
	}
	c.Where = oneOf(t, "canary where", "", "", `labels.zone == "a"`)
	return c
}

func settle(t *rapid.T) Duration {
	return Duration(oneOf(t, "settle", 0, 0, 0, time.Minute, 10*time.Minute))
}

func (w *world) exclude(t *rapid.T) (out []Host) {
	if chance(t, "excludes", 5) {
		for range rapid.IntRange(1, 3).Draw(t, "excluded") {
			if h, ok := w.pick(t, "excluded"); ok {
				out = append(out, h)
			}
		}
	}
	return out
}

// spec is a whole rollout of the language.
func (w *world) spec(t *rapid.T) Spec {
	w.rolloutNo++
	s := Spec{
		Name: ID(fmt.Sprintf("r%d", w.rolloutNo)), Variable: oneOf(t, "variable", names...), To: oneOf(t, "to", w.values...),
		Where: oneOf(t, "where", someHosts...), Ramp: ramp(t), Limits: limits(t), InFlight: inFlight(t),
		Spread: oneOf(t, "spread", nil, []Word{"zone"}), Settle: settle(t), Exclude: w.exclude(t),
	}
	if chance(t, "removes", 6) {
		s.To, s.Remove = Value{}, true
	}
	if chance(t, "canaried", 3) {
		s.Canary = canary(t)
	}
	if chance(t, "windowed", 3) {
		s.Windows = w.windows(t)
	}
	if chance(t, "guarded", 3) {
		s.Guard = guard(t)
	}
	if chance(t, "approved", 6) {
		s.Approvals = rapid.IntRange(1, 2).Draw(t, "approvals")
	}
	if chance(t, "later", 5) {
		s.Start = w.now.Add(minutes(t, "start", 1, 40))
	}
	if ids := w.states(StatePending, StateRunning, StateCompleted); len(ids) > 0 && chance(t, "after", 8) {
		s.After = oneOf(t, "after", ids...)
	}
	return s
}

// changed is the document of a rollout, changed as it may be or as it may not.
func (w *world) changed(t *rapid.T, id ID) (s Spec, allowed bool) {
	r := w.rollouts[id]
	s = r.Spec
	allowed = true
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		field := rapid.IntRange(0, 9).Draw(t, "field")
		if s.Rollback != "" { // which nobody has any business to hold up
			field %= 2
		}
		switch field {
		case 0:
			s.InFlight = inFlight(t)
		case 1:
			if s.Ramp.Shape != Waves && s.Ramp.Shape != Points && s.Ramp.Preset == "" {
				s.Ramp.Over = Duration(oneOf(t, "over", 20*time.Second, 20*time.Minute, 3*time.Hour))
			}
		case 2:
			s.Limits = limits(t)
		case 3:
			s.Ramp.Percent = percent(t, "percent")
		case 4:
			s.Settle = settle(t)
		case 5:
			if s.Windows = nil; rapid.Bool().Draw(t, "windowed") {
				s.Windows = w.windows(t)
			}
		case 6:
			s.Exclude = w.exclude(t)
		case 7:
			s.Where, allowed = s.Where+` `, allowed && r.Theta == nil
		case 8:
			if len(s.Ramp.Waves) > 0 {
				s.Ramp.Waves = slices.Clone(s.Ramp.Waves)
				s.Ramp.Waves[0].Hold++
				allowed = allowed && r.Theta == nil
			}
		case 9:
			if s.Guard = nil; r.Spec.Guard == nil {
				s.Guard = guard(t)
			}
			allowed = allowed && r.Theta == nil
		}
	}
	return s, allowed && r.State.Live()
}

func (w *world) newPin(t *rapid.T, h Host) *Pin {
	p := &Pin{Host: h, Values: Document{}, Why: "ticket 812", By: "bob"}
	if old, ok := w.pins[h]; ok {
		p.Values = maps.Clone(old.Values)
	}
	p.Values[oneOf(t, "pinned", names...)] = oneOf(t, "at", w.values...)
	if rapid.Bool().Draw(t, "ends") {
		p.Until = w.now.Add(minutes(t, "until", 1, 60)).UTC()
	}
	return p
}

func (w *world) newBlackout(t *rapid.T) *Blackout {
	b := &Blackout{Name: oneOf(t, "blackout", ID("freeze"), "quarter", "lab"), Where: oneOf(t, "where", someHosts...), Why: "change freeze"}
	if rapid.Bool().Draw(t, "recurs") {
		b.Every = []Rule{w.rule(t), w.rule(t)}
	}
	if len(b.Every) == 0 || rapid.Bool().Draw(t, "bounded") {
		b.From = w.now.Truncate(time.Minute).Add(minutes(t, "from", -20, 60)).UTC()
		b.Until = b.From.Add(minutes(t, "for", 1, 90))
	}
	return b
}
