package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// bad is the demo's first rollout, of a version that breaks every host that gets
// it. It is there to be frozen by the guard. The good one begins when it is: a
// host counts as confirmed while the checks pass that passed when it was told, so
// that one whose helios broke afterwards would hold up docker too.
type bad struct {
	id      rollout.ID
	hosts   int
	view    control.RolloutView
	failing int    // hosts of it whose check fails now, as far as they were asked
	said    string // what the first of them reports
}

const (
	// The bad rollout tells a host in each such part of the good one's time, within
	// these bounds: slowly enough that its failures can be seen to count.
	badPace   = 30
	leastPace = 500 * time.Millisecond
	mostPace  = 2 * time.Second
	// mostAsked is how many hosts in flight are asked how they do.
	mostAsked = 8
)

// A failure of a check counts when it has gone on for judgedFor, and a host has to
// fail within judged of its change: so long may it take to enact the change and to
// be seen failing. Without --over in proportion they would outlast the rollout.
func (d *demo) judgedFor() time.Duration { return min(max(d.over/40, time.Second/2), time.Second) }

func (d *demo) judged() time.Duration {
	_, most := d.enactTimes()
	return most + 2*d.judgedFor()
}

// objective is that a software's check goes on passing.
func (d *demo) objective(s *software) *slo.Objective {
	holds := rollout.Duration(d.judgedFor())
	return &slo.Objective{
		Name: s.objective(), Check: s.name, For: &holds, Grace: new(2 * holds),
		WithinOfChange: &slo.Within{AtMost: 1, Window: rollout.Duration(d.judged())},
	}
}

// spec is the rollout of a software's new version.
func (d *demo) spec(s *software) (rollout.Spec, error) {
	to, err := rollout.StringValue(s.to)
	return rollout.Spec{
		Name: s.rollout(), Variable: s.variable, To: to, Spread: []rollout.Word{"zone"},
		Guard: &rollout.Guard{Objectives: []rollout.ID{s.objective()}},
	}, err
}

// badSpec is the bad rollout. Its hosts never confirm and so keep their places:
// there is one for every host, or the in-flight limit would stop it first.
func (d *demo) badSpec() (rollout.Spec, error) {
	spec, err := d.spec(&helios)
	spec.InFlight = rollout.InFlight{Max: 100, PerRole: 100}
	spec.Ramp.Over = rollout.Duration(time.Duration(d.hosts) * min(max(d.over/badPace, leastPace), mostPace))
	return spec, err
}

// startBad starts the bad rollout, and waits until the guard lets it move.
func (d *demo) startBad(ctx context.Context) error {
	b := &d.scene.bad
	spec, err := d.badSpec()
	if err != nil {
		return err
	}
	if err := d.client.Call(ctx, control.RolloutStart, control.StartRequest{Rollout: spec}, &b.view); err != nil {
		return err
	}
	err = d.retry(ctx, startBound, func(ctx context.Context) error {
		v, err := d.rollout(ctx, b.id)
		if err == nil && v.Guard != nil && !v.Guard.Clear {
			if len(v.Guard.Standings) > 0 { // else it has yet to take notice
				d.show.progress(fmt.Sprintf("%s waits: %s …", b.id, v.Guard.Why))
			}
			err = fmt.Errorf("%s waits: %s", b.id, v.Guard.Why)
		}
		return err
	})
	if err != nil {
		return err
	}
	d.show.event(fmt.Sprintf("%s begins: %s", b.id, badChange))
	return nil
}

// badChange is what it does.
var badChange = fmt.Sprintf("%s %s → %s, which comes up on no host", helios.variable, helios.from, helios.to)

// lookBad looks how the bad rollout stands.
func (d *demo) lookBad(ctx context.Context) error {
	b := &d.scene.bad
	ended := b.ended()
	v, err := d.rollout(ctx, b.id)
	if err != nil {
		return err
	}
	b.view = v
	if !ended && b.ended() {
		_, _, words, detail := b.status()
		d.show.event(words + ": " + detail)
	}
	if b.ended() {
		return nil
	}
	return d.ask(ctx)
}

func (d *demo) rollout(ctx context.Context, id rollout.ID) (v control.RolloutView, err error) {
	err = d.client.Call(ctx, control.RolloutShow, control.RolloutRequest{ID: id}, &v)
	return v, err
}

// ask looks which of the bad rollout's hosts fail.
func (d *demo) ask(ctx context.Context) error {
	b := &d.scene.bad
	failing, said := 0, ""
	for _, f := range b.view.Waiting[:min(len(b.view.Waiting), mostAsked)] {
		var h control.HostView
		if err := d.client.Call(ctx, control.HostShow, control.HostRequest{Host: f.Host}, &h); err != nil {
			return err
		}
		if c := h.Checks[helios.name]; c.Status == rollout.Failing {
			failing++
			said = cmp.Or(said, fmt.Sprintf("%s: %s", h.Host, c.Output))
		}
	}
	b.failing, b.said = failing, said
	return nil
}

// untold are its roles as the good rollout finds them.
func (b *bad) untold() []control.RoleView {
	roles := make([]control.RoleView, len(b.view.Roles))
	for i, r := range b.view.Roles {
		roles[i] = control.RoleView{Role: r.Role, Hosts: r.Hosts, Target: r.Hosts}
	}
	return roles
}

// frozen says whether it is frozen, by whomever.
func (b *bad) frozen() bool { return b.view.State == rollout.StateFrozen }

// byGuard says whether it is frozen by the guard, with evidence.
func (b *bad) byGuard() bool {
	a := b.view.Abort
	return b.frozen() && a != nil && a.Actor == string(rollout.SloGuard) && a.Evidence != nil && len(a.Evidence.Standings) == 1
}

// blind says that the guard has seen every host fail, and that no number of
// failures would have frozen the rollout: there are too few hosts to tell.
func (b *bad) blind() bool {
	v := &b.view
	if v.State != rollout.StateRunning || v.Told < v.Target || v.Guard == nil || !v.Guard.Clear || len(v.Guard.Standings) != 1 {
		return false
	}
	s := v.Guard.Standings[0]
	return s.Needs == 0 && s.E < s.Bar && s.TreatedFailed+s.Unwatched >= v.Target
}

// ended says whether nothing more is to be expected of it by itself.
func (b *bad) ended() bool {
	return !b.view.State.Live() || b.frozen() || b.blind()
}

// fault says why its end isn't the one that the guard has to give it.
func (b *bad) fault() error {
	switch {
	case b.byGuard(), b.blind():
		return nil
	case b.frozen():
		return fmt.Errorf("rollout %s was frozen, but not by the guard: %s", b.id, orState(&b.view))
	}
	return fmt.Errorf("rollout %s wasn't frozen by the guard: it is %s", b.id, orState(&b.view))
}

// status puts how it stands into words.
func (b *bad) status() (mark string, st style, words, detail string) {
	v := &b.view
	switch {
	case b.byGuard():
		return "■", redStyle, fmt.Sprintf("%s frozen by the guard after %d of %s", b.id, v.Told, plural(b.hosts, "host")), contrast(&v.Abort.Evidence.Standings[0])
	case b.blind():
		return "‖", oldStyle, fmt.Sprintf("%s: %s, too few for the guard to tell", b.id, plural(b.hosts, "host")), contrast(&v.Guard.Standings[0])
	case v.State == rollout.StateRunning && (v.Reason == "" || v.ReasonCode == rollout.Unconfirmed):
		words = fmt.Sprintf("%s moving: told %s", b.id, plural(v.Told, "host"))
		if b.failing > 0 {
			words += fmt.Sprintf(", %d failing", b.failing)
		}
		return "▶", oldStyle, words, cmp.Or(b.said, badChange)
	}
	mark, st, words = status(v)
	return mark, st, fmt.Sprintf("%s %s", b.id, words), b.said
}

// contrast says in a line what speaks against a rollout.
func contrast(s *slo.Standing) string {
	return fmt.Sprintf("%d of %d changed failed, %d of %d not yet changed; evidence %.4g, bar %.4g",
		s.TreatedFailed, s.Treated, s.ControlFailed, s.Control, s.E, s.Bar)
}

// mostFailed is how many hosts may fail before the guard freezes a rollout that
// breaks all, beside those that were told before the first failure counted.
const mostFailed = 3

// judge says what is wrong with how the guard ended the bad rollout.
func (d *demo) judge(t *tally) error {
	b := &d.scene.bad
	if err := b.fault(); err != nil || b.blind() {
		return err
	}
	v := b.view.Abort.Evidence
	if len(v.Failed) == 0 {
		return errors.New("the guard's evidence names no host that failed")
	}
	counted := v.Failed[0].Time.Add(d.judgedFor())
	meanwhile := 0
	for _, at := range t.badTold {
		if at.After(v.Failed[0].Time) && at.Before(counted) {
			meanwhile++
		}
	}
	if v.Of > mostFailed+meanwhile {
		return fmt.Errorf("%d hosts had failed before the guard froze %s, want at most %d", v.Of, b.id, mostFailed+meanwhile)
	}
	return nil
}

// sumUpBad prints what came of the bad rollout.
func (d *demo) sumUpBad(t *tally) {
	b := &d.scene.bad
	v := &b.view
	told := fmt.Sprintf("%d of %s", len(t.badTold), plural(d.hosts, "host"))
	switch {
	case b.byGuard():
		e := v.Abort.Evidence
		s := &e.Standings[0]
		means := "does harm"
		if e.Kind == slo.Breach {
			means = "breaches " + string(e.Objective)
		}
		d.say("\n%s was frozen by the guard: %s %s %s.\n\n", b.id, v.Variable, v.To.Text(), means)
		d.row("told", "%s; %d had failed for long enough to count", told, e.Of)
		if len(e.Failed) > 0 {
			d.row("frozen", "%s after the first of them began to fail, and no host was told after that", since(e.Failed[0].Time, v.Abort.Time))
		}
		d.row("evidence", "%.4g of %.4g: %d of %d changed failed, %d of %d not yet changed", s.E, s.Bar, s.TreatedFailed, s.Treated, s.ControlFailed, s.Control)
		for i, f := range e.Failed {
			d.row(first(i, "failed"), "%s: %s", f.Host, cmp.Or(f.Output, string(f.How)))
		}
		for i, why := range e.RuledOut {
			d.row(first(i, "ruled out"), "%s", why)
		}
	case b.blind():
		d.say("\n%s broke its hosts unnoticed: there are too few for the guard to tell.\n\n", b.id)
		d.row("told", "%s, and all have failed", told)
		d.row("evidence", "%s", contrast(&v.Guard.Standings[0]))
	default:
		return // the error says it
	}
	d.row("take back", "%s", rollback)
}

// rollback takes the bad rollout's hosts back.
var rollback = fmt.Sprintf("tsunamictl rollout rollback %s --why \"%s %s doesn't come up\"", helios.rollout(), helios.name, helios.to)

// first is the name of a row that goes on over several lines.
func first(i int, name string) string {
	if i > 0 {
		return ""
	}
	return name
}
