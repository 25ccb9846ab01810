package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Bounds of the demo.
const (
	mostHosts = 2000
	leastOver = time.Second
	mostOver  = time.Hour
	// pollEvery is how often the demo looks, and draws.
	pollEvery = 200 * time.Millisecond
	// startBound is for all hosts to come in and have their first document.
	startBound = 2 * time.Minute
)

// demoOptions are the demo's flags.
type demoOptions struct {
	hosts int
	over  time.Duration
	exit  bool
}

// durationFlag is a flag that is written as documents write durations.
type durationFlag struct{ d *time.Duration }

func (f durationFlag) String() string { return rollout.Duration(*f.d).String() }
func (f durationFlag) Set(s string) error {
	d, err := rollout.ParseDuration(s)
	*f.d = time.Duration(d)
	return err
}

func demoCommand() *cobra.Command {
	o := demoOptions{hosts: 200, over: 40 * time.Second}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A fleet of real agents, a good rollout and a bad one, drawn in the terminal",
		Long: `Demo runs broker, scheduler, guard, console and a fleet of agents in this one process
and a temporary directory, and upgrades ` + string(docker.variable) + ` from ` + docker.from + ` to ` + docker.to + ` on them. Each
agent is the real one; its machine is a directory with files that say what it runs.

Before that a rollout of ` + string(helios.variable) + ` ` + helios.to + ` begins, which comes up on no host. The
guard freezes it after a few, and the other one goes its way.

While it is up, tsunamictl and nats can be used on it. Without a terminal, or with
NO_COLOR set, it prints lines. With --exit it ends with the rollouts: exit code 0 says
that every host was told the good version once, runs it, and stands in the audit log,
and that the guard froze the bad one, or had too few hosts to tell.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.hosts < 1 || o.hosts > mostHosts {
				return usagef("--hosts %d: want 1 to %d", o.hosts, mostHosts)
			}
			if o.over < leastOver || o.over > mostOver {
				return usagef("--over %s: want %s to %s", rollout.Duration(o.over), rollout.Duration(leastOver), rollout.Duration(mostOver))
			}
			// Whoever looks on may go, with the terminal or by closing the
			// pipe. The demo clears up then as ever.
			ctx, release := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer release()
			signal.Ignore(syscall.SIGPIPE)
			return runDemo(ctx, o, cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.IntVar(&o.hosts, "hosts", o.hosts, "how many hosts: `N`")
	fs.Var(text{"DURATION", durationFlag{&o.over}}, "over", "how long the good rollout takes")
	fs.BoolVar(&o.exit, "exit", false, "end when the rollouts have ended")
	return cmd
}

// demo is one run of it.
type demo struct {
	demoOptions
	out    io.Writer
	show   show
	dir    string
	daemon *daemon
	fleet  *fleet
	client *control.Client
	scene  scene
	// mostInFlight is the greatest number of hosts in flight that was seen.
	mostInFlight int
	finished     bool
}

// finish gives the output back, once.
func (d *demo) finish() {
	if !d.finished {
		d.finished = true
		d.show.finish(&d.scene)
	}
}

// errUnfinished says that the demo was interrupted.
var errUnfinished = errors.New("the demo was interrupted before its rollouts had ended")

// runDemo runs the demo until its end, or that of ctx.
func runDemo(ctx context.Context, o demoOptions, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "tsunami-demo-")
	if err != nil {
		return fmt.Errorf("the demo's directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := &watched{out, cancel}
	d := &demo{demoOptions: o, out: lines, show: newShow(out, lines), dir: dir}
	log, err := os.Create(filepath.Join(dir, "demo.log"))
	if err != nil {
		return fmt.Errorf("the demo's log: %w", err)
	}
	defer func() {
		_ = log.Close() // it is read below and removed at the end
		if err != nil && !errors.Is(err, errUnfinished) {
			err = fmt.Errorf("%w%s", err, complaints(log.Name()))
		}
	}()
	defer d.finish() // whatever happens
	err = d.start(ctx, slog.New(slog.NewTextHandler(log, nil)))
	if err == nil {
		err = d.run(ctx)
		err = errors.Join(err, d.stop())
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errUnfinished
	}
	if errors.Is(err, errUnfinished) && !o.exit {
		d.finish()
		d.say("%v\n", err)
		return nil // without --exit there is no other way to end it
	}
	return err
}

// start brings up everything but the rollouts.
func (d *demo) start(ctx context.Context, logger *slog.Logger) (err error) {
	d.show.milestone("starting broker, scheduler, guard and console …")
	d.daemon, err = start(ctx, config{
		data: filepath.Join(d.dir, "broker"), listen: "127.0.0.1:0", http: "127.0.0.1:0", parts: defaultParts,
		heartbeat: demoHeartbeat, logger: logger,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: d.daemon.broker.InProcess(), Name: "tsunamid demo", Logger: logger})
	if err != nil {
		return err
	}
	d.daemon.onStop("connection of the demo", connectionTime, nc.Close)
	if d.client, err = control.NewClient(nc, "demo"); err != nil {
		return err
	}
	if err := d.apply(ctx); err != nil {
		return err
	}
	least, most := d.enactTimes()
	hosts := demoHosts(d.hosts, filepath.Join(d.dir, "hosts"), least, most)
	if d.fleet, err = startFleet(ctx, hosts, d.daemon.broker.InProcess(), logger.With("part", "agent")); err != nil {
		return err
	}
	return nil
}

// stop gives the terminal back, stops the fleet, then the rest.
func (d *demo) stop() error {
	d.finish()
	if d.fleet != nil {
		d.daemon.onStop("agents", partTimeout, d.fleet.stop)
	}
	return d.daemon.stop()
}

// enactTimes are how long a host takes to change, in proportion to the
// rollout: so that hosts in flight can be seen and don't dominate.
func (d *demo) enactTimes() (least, most time.Duration) { return d.over / 80, d.over / 16 }

// limits leaves room for three times the hosts that are in flight on the
// average, beside half a second for reporting. Neither depends on the number
// of hosts: they are told evenly over the ramp.
func (d *demo) limits() rollout.InFlight {
	_, most := d.enactTimes()
	share := 100 * float64(most+500*time.Millisecond) / float64(d.over)
	return rollout.InFlight{
		Max:     rollout.Percent(math.Ceil(min(100, max(5, 3*share)))),
		PerRole: rollout.Percent(math.Ceil(min(100, max(20, 3*share)))),
	}
}

// apply makes the variables and the objectives, as soon as the scheduler leads.
func (d *demo) apply(ctx context.Context) error {
	var documents []control.Document
	for _, s := range demoSoftware {
		from, err := rollout.StringValue(s.from)
		if err != nil {
			return err
		}
		v := &rollout.Variable{Name: s.variable, Type: rollout.String, Initial: from}
		documents = append(documents, control.Document{Variable: v}, control.Document{Objective: d.objective(s)})
	}
	return d.retry(ctx, startBound, func(ctx context.Context) error {
		return d.client.Call(ctx, control.Apply, control.ApplyRequest{Documents: documents}, nil)
	})
}

// retry calls try until it returns nil or something that waiting won't change.
func (d *demo) retry(ctx context.Context, bound time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[*control.Error](err); ok && e.Code != control.Unavailable {
			return err
		}
		var agents chan error
		if d.fleet != nil {
			agents = d.fleet.failed
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return errUnfinished
			}
			return fmt.Errorf("gave up after %s: %w", bound, err)
		case err := <-d.daemon.failed:
			return err
		case err := <-agents:
			return err
		case <-time.After(pollEvery):
		}
	}
}

// run waits for the fleet, rolls out, and sums up.
func (d *demo) run(ctx context.Context) error {
	d.show.milestone(fmt.Sprintf("%s: their agents are starting …", d.fleet.describe()))
	if err := d.retry(ctx, startBound, d.allIn); err != nil {
		return err
	}
	d.show.milestone(fmt.Sprintf("all are in and have their first document; broker %s, console %s", d.daemon.brokerURL(), d.daemon.httpURL()))
	if err := d.rollOut(ctx); err != nil {
		return err
	}
	err := d.watch(ctx)
	if err == nil {
		err = d.sumUp(ctx)
	}
	d.finish()
	if d.exit || errors.Is(err, errUnfinished) {
		return err
	}
	if err != nil {
		d.say("\n%v\n", err)
	}
	d.tryNext()
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.daemon.failed:
		return err
	case err := <-d.fleet.failed:
		return err
	}
}

// say prints for people.
func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, format, args...) // a reader that is gone ends the demo
}

// allIn says who is missing: every host has to report its versions, and to have
// its first document.
func (d *demo) allIn(ctx context.Context) error {
	told, in := d.hosts, d.hosts
	for _, s := range demoSoftware {
		v, err := d.variable(ctx, s)
		if err != nil {
			return err
		}
		told, in = min(told, v.Hosts[s.from]), min(in, v.Actual[s.from])
	}
	if told == d.hosts && in == d.hosts {
		return nil
	}
	d.show.progress(fmt.Sprintf("%s: %d are in, %d have their first document …", d.fleet.describe(), in, told))
	return fmt.Errorf("of %d hosts %d are in and %d have their first document", d.hosts, in, told)
}

func (d *demo) variable(ctx context.Context, s *software) (control.VariableView, error) {
	var all []control.VariableView
	if err := d.client.Call(ctx, control.VariableList, nil, &all); err != nil {
		return control.VariableView{}, err
	}
	for _, v := range all {
		if v.Name == s.variable {
			return v, nil
		}
	}
	return control.VariableView{}, fmt.Errorf("the variable %s is gone", s.variable)
}

// rollOut starts the rollouts: now the bad one.
func (d *demo) rollOut(ctx context.Context) error {
	s := &d.scene
	*s = scene{title: "Tsunami", variable: docker.variable, from: docker.from, to: docker.to, hosts: d.hosts, over: d.over}
	s.bad = bad{id: helios.rollout(), hosts: d.hosts}
	const end = "Ctrl-C ends the demo."
	url := d.daemon.brokerURL()
	s.footers = []string{
		fmt.Sprintf("%s  In another terminal: %s --server %s rollout show %s", end, program("tsunamictl"), url, s.bad.id),
		fmt.Sprintf("%s  The broker is at %s", end, url),
		end,
	}
	return d.startBad(ctx)
}

// startGood starts the rollout that the picture shows.
func (d *demo) startGood(ctx context.Context) error {
	spec, err := d.spec(&docker)
	if err != nil {
		return err
	}
	spec.Ramp, spec.InFlight = rollout.Ramp{Over: rollout.Duration(d.over)}, d.limits()
	return d.client.Call(ctx, control.RolloutStart, control.StartRequest{Rollout: spec}, &d.scene.view)
}

// watch follows the rollouts to their ends. One that somebody holds may take as
// long as it likes, unless the demo is to exit.
func (d *demo) watch(ctx context.Context) error {
	if d.exit {
		bound, cancel := context.WithTimeoutCause(ctx, 3*d.over+2*time.Minute, errors.New("the rollouts take far longer than planned"))
		defer cancel()
		ctx = bound
	}
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	misses := 0
	for {
		err := d.look(ctx)
		switch {
		case err == nil:
			misses = 0
			d.show.update(&d.scene)
			if ended, err := d.scene.ended(); ended || err != nil {
				return err
			}
		case ctx.Err() == nil:
			if misses++; misses > 25 {
				return err
			}
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				_, _, words := d.scene.status()
				_, _, others, _ := d.scene.bad.status()
				return fmt.Errorf("%w: %s; %s", cause, words, others)
			}
			return errUnfinished
		case err := <-d.daemon.failed:
			return err
		case err := <-d.fleet.failed:
			return err
		case <-ticker.C:
		}
	}
}

// ended says whether both rollouts have come to their ends. The good one has only
// one that is right.
func (s *scene) ended() (bool, error) {
	switch st := s.view.State; {
	case st == "" || st.Live():
		return false, nil
	case st != rollout.StateCompleted:
		return true, fmt.Errorf("rollout %s was %s: %s", s.view.ID, st, s.view.Why)
	}
	return true, nil
}

// look takes a sample, and starts the good rollout when the bad one has ended.
func (d *demo) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := d.lookBad(ctx); err != nil {
		return err
	}
	switch s := &d.scene; {
	case s.view.ID != "":
		return d.lookGood(ctx)
	case s.bad.ended():
		return d.startGood(ctx)
	default:
		d.arrange(s.bad.untold())
		return nil
	}
}

func (d *demo) lookGood(ctx context.Context) error {
	s := &d.scene
	view, err := d.rollout(ctx, s.view.ID)
	if err != nil {
		return err
	}
	if s.began.IsZero() {
		if view.Guard != nil && !view.Guard.Clear {
			return nil // the guard has yet to take notice of it
		}
		s.began = time.Now().Add(-time.Duration(view.Elapsed))
	}
	v, err := d.variable(ctx, &docker) // afterwards, so that who has confirmed is counted
	if err != nil {
		return err
	}
	s.view = view
	d.arrange(view.Roles)
	s.samples = append(s.samples, sample{
		at:      time.Since(s.began),
		planned: view.Planned, told: view.Told, confirmed: view.Confirmed, changed: v.Actual[docker.to],
	})
	d.mostInFlight = max(d.mostInFlight, view.InFlight)
	return nil
}

// complaints are the last lines of the log that say more than info.
func complaints(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " level=WARN ") || strings.Contains(line, " level=ERROR ") {
			found = append(found, "  "+strings.TrimSpace(line))
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "\nIts log says:\n" + strings.Join(found[max(0, len(found)-20):], "\n")
}
