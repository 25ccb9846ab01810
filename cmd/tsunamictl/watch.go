package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	// watchRefresh is how often a watch looks when nothing was heard.
	watchRefresh = time.Second
	// watchGap is the least time between two looks: a fast rollout echoes
	// hundreds of steps a second.
	watchGap = 100 * time.Millisecond
)

func (a *app) watchCommand() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use: "watch ROLLOUT", Short: "Watch a rollout until it ends", SuggestFor: []string{"wait", "follow", "tail"},
		Long: `Watch a rollout until it is completed, or what --until says: exit code 0. Where
that can't come any more, because it is frozen, cancelled, superseded or taken
back, the exit code is 1, with the reason; after --timeout it is 4. In the bar,
# is confirmed, = told, and | is where the ramp is. Without a terminal every
change is a line.`,
		Example: `  tsunamictl rollout watch docker-1-12-3
  tsunamictl rollout watch docker-1-12-3 --until completed --timeout 1h
  tsunamictl rollout watch docker-1-12-3 --until 50%`,
		Args: arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			g, err := parseGoal(until)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if a.timeout != 0 {
				bounded, cancel := context.WithTimeout(ctx, time.Duration(a.timeout))
				defer cancel()
				ctx = bounded
			}
			return a.watch(ctx, id, g)
		},
	}
	cmd.Flags().StringVar(&until, "until", string(rollout.StateCompleted), "wait for this `state`, or for a share of the hosts to be told, such as 50%")
	return cmd
}

var states = []rollout.State{
	rollout.StatePending, rollout.StateRunning, rollout.StatePaused, rollout.StateFrozen,
	rollout.StateCompleted, rollout.StateCancelled, rollout.StateSuperseded,
}

// goal is what a watch waits for: a state, or a share of the target told.
type goal struct {
	state rollout.State
	share rollout.Percent
}

func parseGoal(s string) (goal, error) {
	if strings.HasSuffix(s, "%") {
		share, err := parsePercent(s)
		if err != nil {
			return goal{}, usagef("--until: %v", err)
		}
		return goal{share: share}, nil
	}
	if !slices.Contains(states, rollout.State(s)) {
		return goal{}, usagef("--until: %q isn't a state: want one of %s, or a share of the hosts such as 50%%", s, joined(states))
	}
	return goal{state: rollout.State(s)}, nil
}

func (g goal) String() string {
	if g.share != 0 {
		return "at " + g.share.String()
	}
	return string(g.state)
}

func (g goal) reached(v *control.RolloutView) bool {
	if g.share != 0 {
		return 100*v.Fraction >= float64(g.share)
	}
	return v.State == g.state
}

// watch looks whenever something of the rollout is echoed, and each second.
func (a *app) watch(ctx context.Context, id rollout.ID, until goal) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	wake := make(chan struct{}, 1)
	for _, k := range []subjects.Kind{subjects.KindRollout, subjects.KindProgress, subjects.KindAbort} {
		sub, err := c.Conn().Subscribe(k.Echo(string(id)), func(*nats.Msg) {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		if err != nil {
			return fmt.Errorf("watch %s: %w", id, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	}
	w := &watcher{a: a, id: id}
	tick := time.NewTicker(watchRefresh)
	defer tick.Stop()
	for {
		v := new(control.RolloutView)
		switch err := a.look(ctx, c, id, v); {
		case ctx.Err() != nil:
			return w.gaveUp(ctx, until)
		case err != nil && !passing(err):
			return err
		case err != nil:
			w.trouble(err)
		default:
			w.show(v, time.Now())
			if done, err := ended(v, until); done {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return w.gaveUp(ctx, until)
		case <-time.After(watchGap):
		}
		select {
		case <-ctx.Done():
			return w.gaveUp(ctx, until)
		case <-wake:
		case <-tick.C:
		}
	}
}

func (a *app) look(ctx context.Context, c *control.Client, id rollout.ID, v *control.RolloutView) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.Call(ctx, control.RolloutShow, control.RolloutRequest{ID: id}, v)
}

// passing says whether a watch should outlast the error: a scheduler that is
// being replaced, a broker that is away.
func passing(err error) bool {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Code == control.Unavailable
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrReconnectBufExceeded) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionReconnecting)
}

// ended says whether there is nothing more to wait for, and with an error that
// what was waited for can't come, unless somebody does something about it.
func ended(v *control.RolloutView, until goal) (bool, error) {
	if until.reached(v) {
		return true, nil
	}
	forward := until.share != 0 || until.state == rollout.StateCompleted
	switch v.State {
	case rollout.StateCompleted, rollout.StateCancelled, rollout.StateSuperseded:
	case rollout.StateFrozen:
		if !forward {
			return false, nil
		}
	case rollout.StatePaused, rollout.StatePending:
		if !forward || v.Rollback == "" {
			return false, nil
		}
	default:
		return false, nil
	}
	return true, fmt.Errorf("%s at %s is %s", v.ID, toldOf(v), standing(v))
}

// watcher draws what a watch sees.
type watcher struct {
	a     *app
	id    rollout.ID
	last  *control.RolloutView
	lines int    // drawn on the terminal
	said  string // the last line without one
}

func (w *watcher) gaveUp(ctx context.Context, until goal) error {
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	within := rollout.Duration(w.a.timeout)
	switch {
	case w.last == nil && timedOut:
		return &exitError{exitTimedOut, fmt.Errorf("the scheduler didn't answer within %s", within)}
	case w.last == nil:
		return errors.New("interrupted: the scheduler hasn't answered")
	case timedOut:
		return &exitError{exitTimedOut, fmt.Errorf("%s is not %s within %s; at %s it is %s", w.id, until, within, toldOf(w.last), standing(w.last))}
	}
	return fmt.Errorf("interrupted: %s at %s is %s, and goes on", w.id, toldOf(w.last), standing(w.last))
}

func (w *watcher) trouble(err error) {
	line := "waiting: " + printable(err.Error())
	if !w.a.isTerminal {
		w.say(line)
		return
	}
	if w.said != line {
		w.said = line
		fmt.Fprintf(w.a.out, "\r\x1b[K%s\r", line)
	}
}

// say prints a line unless it is the last one again.
func (w *watcher) say(line string) {
	if line != w.said {
		w.said = line
		fmt.Fprintln(w.a.out, line)
	}
}

func (w *watcher) show(v *control.RolloutView, now time.Time) {
	w.last = v
	switch {
	case w.a.output == "json" || w.a.output == "yaml":
		if line := watchLine(v); line != w.said {
			w.said = line
			_ = w.a.emit(v, nil) // a reader that has gone away ends the watch by its signal
		}
	case !w.a.isTerminal:
		w.say(watchLine(v))
	default:
		w.said = ""
		w.draw(v, now)
	}
}

// watchLine is a rollout in one line, without what changes by the clock alone.
func watchLine(v *control.RolloutView) string {
	s := fmt.Sprintf("%s: told %d of %d (%s), confirmed %d", v.ID, v.Told, v.Target, percent(v.Fraction), v.Confirmed)
	if v.Failed > 0 {
		s += fmt.Sprintf(", failed %d", v.Failed)
	}
	return printable(s + "; " + standing(v))
}

// standing is the state with its reason, which may begin with the state.
func standing(v *control.RolloutView) string {
	if strings.HasPrefix(v.Reason, string(v.State)) {
		return v.Reason
	}
	return string(v.State) + because(v.Reason)
}

func (w *watcher) draw(v *control.RolloutView, now time.Time) {
	columns, rows, err := term.GetSize(w.a.terminal)
	if err != nil || columns < 20 {
		columns, rows = 80, 24
	}
	lines := w.a.picture(v, now, columns, rows)
	var b strings.Builder
	if w.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", w.lines)
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[K" + l + "\n")
	}
	b.WriteString("\x1b[J")
	w.lines = len(lines)
	fmt.Fprint(w.a.out, b.String())
}

// picture draws a rollout for a terminal of this size.
func (a *app) picture(v *control.RolloutView, now time.Time, columns, rows int) []string {
	cut := func(s string) string { return fit(printable(s), columns-1) }
	lines := []string{
		cut(fmt.Sprintf("%s   %s", v.ID, moves(v))),
		a.color(stateColor(v.State), cut(standing(v))),
		bar(v.Confirmed, v.Told, v.Planned, v.Target, min(columns-12, 100)) + fmt.Sprintf(" %6s", percent(v.Fraction)),
		cut(fmt.Sprintf("told %d of %d (planned %d), confirmed %d, in flight %d (limit %d)", v.Told, v.Target, v.Planned, v.Confirmed, v.InFlight, v.Limit)),
	}
	if v.Failed > 0 {
		lines = append(lines, a.color(red, cut(fmt.Sprintf("failed %d", v.Failed))))
	}
	var ends []string
	if !v.Next.IsZero() {
		ends = append(ends, "next host "+relative(v.Next, now))
	}
	if !v.Ends.IsZero() {
		ends = append(ends, "ends "+moment(v.Ends, now))
	}
	if len(ends) > 0 {
		lines = append(lines, cut(strings.Join(ends, "; ")))
	}
	if len(v.Roles) < 2 {
		return lines
	}
	lines = append(lines, "")
	widest := 0
	for _, r := range v.Roles {
		widest = max(widest, len(r.Role))
	}
	widest = min(widest, max(8, columns/3))
	for i, r := range v.Roles {
		if len(lines) >= rows-2 && i < len(v.Roles)-1 {
			lines = append(lines, cut("… and "+plural(len(v.Roles)-i, "more role")))
			break
		}
		counts := fmt.Sprintf(" %d/%d", r.Told, r.Target)
		if r.Failed > 0 {
			counts += fmt.Sprintf(", failed %d", r.Failed)
		}
		lines = append(lines, cut(fmt.Sprintf("%-*s ", widest, fit(string(r.Role), widest))+bar(r.Confirmed, r.Told, -1, r.Target, max(10, min(columns-widest-26, 60)))+counts))
	}
	return lines
}

// bar draws confirmed ≤ told ≤ target as ####==== with the straight line's
// place as |; a negative line isn't drawn.
func bar(confirmed, told, line, target, size int) string {
	size = max(size, 10)
	place := func(n int) int {
		if target <= 0 {
			return 0
		}
		return min(size, max(0, n)*size/target)
	}
	b := []rune(strings.Repeat(".", size))
	for i := range place(told) {
		b[i] = '='
	}
	for i := range min(place(confirmed), place(told)) {
		b[i] = '#'
	}
	if line >= 0 && target > 0 {
		b[min(place(line), size-1)] = '|'
	}
	return "[" + string(b) + "]"
}

// fit cuts a text to so many columns of a terminal.
func fit(s string, columns int) string {
	if width(s) <= columns {
		return s
	}
	n := 0
	for i, r := range s {
		if n += width(string(r)); n > columns-1 {
			return s[:i] + "…"
		}
	}
	return s
}
