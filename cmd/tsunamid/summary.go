package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// auditBound is how long the audit log may take to catch up.
const auditBound = 15 * time.Second

// tally is what the audit log and the hosts say of the rollouts.
type tally struct {
	records  int                        // of hosts' desired states, in the audit log
	changes  uint64                     // documents that hosts were given, by their generations
	told     map[rollout.Host]int       // by the good rollout
	badTold  map[rollout.Host]time.Time // by the bad one
	steps    int                        // of the good one that told somebody
	lastTold time.Time
	wrong    []string // what isn't as it must be

	byHost  map[rollout.Host]uint64 // records
	last    uint64                  // the bucket's sequence of the newest record
	origins []uint64                // those of the good rollout
}

func (t *tally) fault(format string, args ...any) {
	t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
}

func newTally() tally {
	return tally{told: map[rollout.Host]int{}, badTold: map[rollout.Host]time.Time{}, byHost: map[rollout.Host]uint64{}}
}

// add takes the next row of the audit log.
func (t *tally) add(r *control.AuditRecord, good rollout.ID, bad *control.RolloutView) {
	if r.Origin != t.last { // a first document has a row for each variable
		t.last = r.Origin
		t.records++
		t.byHost[r.Host]++
	}
	if r.Reason == "" || r.Actor == "" {
		t.fault("audit record %d of %s has no reason or no actor", r.Sequence, r.Host)
	}
	switch r.Rollout {
	case good:
		t.told[r.Host]++
		t.origins = append(t.origins, r.Origin)
		if r.Time.After(t.lastTold) {
			t.lastTold = r.Time
		}
	case bad.ID:
		if _, twice := t.badTold[r.Host]; twice {
			t.fault("%s told %s twice", r.Rollout, r.Host)
		}
		t.badTold[r.Host] = r.Time
		if a := bad.Abort; a != nil && r.Origin > a.Sequence {
			t.fault("%s told %s with record %d, after its abort, which is %d", r.Rollout, r.Host, r.Origin, a.Sequence)
		}
	}
}

// count adds up the audit log and compares it with the hosts, one by one.
func (d *demo) count(ctx context.Context) (tally, error) {
	t := newTally()
	for r, err := range d.client.Audit(ctx, control.AuditFilter{Kinds: []subjects.Kind{subjects.KindDesired}}) {
		if err != nil {
			return t, err
		}
		t.add(&r, d.scene.view.ID, &d.scene.bad.view)
	}
	t.steps = batches(t.origins)
	if told := d.scene.bad.view.Told; told != len(t.badTold) {
		t.fault("%s has told %s, and %d are in the audit log", d.scene.bad.id, plural(told, "host"), len(t.badTold))
	}
	for after := rollout.Host(""); ; {
		var page control.HostListResponse
		if err := d.client.Call(ctx, control.HostList, control.HostListRequest{After: after}, &page); err != nil {
			return t, err
		}
		for _, h := range page.Hosts {
			t.changes += h.Generation
			if t.byHost[h.Host] != h.Generation {
				t.fault("%s was given %d documents, and %d are in the audit log", h.Host, h.Generation, t.byHost[h.Host])
			}
			if n := t.told[h.Host]; n != 1 {
				t.fault("%s was told %d times", h.Host, n)
			}
			if v := h.Actual[docker.variable].Text(); v != docker.to {
				t.fault("%s runs %s %q", h.Host, docker.name, v)
			}
			_, broken := t.badTold[h.Host]
			if v := h.Actual[helios.variable].Text(); broken != (v == helios.to) {
				t.fault("%s runs %s %q; was it told %s? %v", h.Host, helios.name, v, helios.to, broken)
			}
			after = h.Host
		}
		if !page.More || len(page.Hosts) == 0 {
			return t, nil
		}
	}
}

// batches counts the steps behind records by their sequences in the bucket:
// those of one step follow each other without a gap.
func batches(origins []uint64) int {
	slices.Sort(origins)
	n := 0
	for i, o := range origins {
		if i == 0 || o != origins[i-1]+1 {
			n++
		}
	}
	return n
}

// sumUp prints what came of the rollouts. The error says what isn't as it must
// be.
func (d *demo) sumUp(ctx context.Context) error {
	var t tally
	err := d.retry(ctx, auditBound, func(ctx context.Context) (err error) {
		if t, err = d.count(ctx); err == nil && len(t.wrong) > 0 {
			err = fmt.Errorf("%s, the first: %s", plural(len(t.wrong), "thing")+" that should be otherwise", t.wrong[0])
		}
		return err
	})
	s, v := &d.scene, &d.scene.view
	d.finish()
	if errors.Is(err, errUnfinished) {
		return err
	}
	if err == nil && (v.Confirmed != d.hosts || v.Failed > 0) {
		err = fmt.Errorf("%d of %d hosts have confirmed and %d have failed", v.Confirmed, d.hosts, v.Failed)
	}
	d.sumUpBad(&t)
	if err == nil {
		d.say("\n%s is complete: all %s run %s %s.\n\n", v.ID, plural(d.hosts, "host"), v.Variable, v.To.Text())
	}
	off := 0
	for _, p := range s.samples {
		off = max(off, p.told-p.planned, p.planned-p.told)
	}
	d.row("planned", "%s", seconds(s.over))
	d.row("took", "%s: the last host was told after %s, and then watched", since(s.began, v.Changed), since(s.began, t.lastTold))
	d.row("told", "%s, each once, in %s, never more than %d off the straight line", plural(len(t.told), "host"), plural(t.steps, "step"), off)
	d.row("confirmed", "%s", plural(v.Confirmed, "host"))
	d.row("in flight", "%d at the most, of %d allowed", d.mostInFlight, v.Limit)
	d.row("audit", "%s of %s: %d first documents, %d by %s, %d by %s", plural(t.records, "record"), plural(int(t.changes), "change"),
		t.records-len(t.told)-len(t.badTold), len(t.told), v.ID, len(t.badTold), s.bad.id)
	return errors.Join(err, d.judge(&t))
}

// row prints a line of the summary.
func (d *demo) row(name, format string, args ...any) {
	d.say("  %-10s %s\n", name, fmt.Sprintf(format, args...))
}

// since is the time between two moments, to a tenth of a second.
func since(from, to time.Time) string {
	return seconds(max(0, to.Sub(from)).Round(100 * time.Millisecond))
}

// arrange keeps the roles for the picture, the largest first.
func (d *demo) arrange(roles []control.RoleView) {
	if len(roles) == 0 {
		return // it has ended: the last known ones stay
	}
	slices.SortFunc(roles, func(a, b control.RoleView) int {
		return cmp.Or(cmp.Compare(b.Hosts, a.Hosts), cmp.Compare(a.Role, b.Role))
	})
	d.scene.roles = roles
}

// tryNext suggests commands that work while the demo is up.
func (d *demo) tryNext() {
	ctl := program("tsunamictl") + " --server " + d.daemon.brokerURL()
	host := d.fleet.hosts[0].name
	d.say("\nEverything is still running. Try in another terminal:\n\n")
	for _, line := range []string{
		ctl + " rollout show " + string(d.scene.bad.id),
		ctl + " objective list",
		ctl + strings.TrimPrefix(rollback, "tsunamictl"),
		ctl + " why " + string(host) + " " + string(docker.variable),
		ctl + " audit --host " + string(host),
		ctl + " host show " + string(host),
		ctl + " rollout start " + string(docker.variable) + " " + docker.from + " --over 1m",
		ctl + " stop --why \"trying the red button\"",
		"nats --server " + d.daemon.brokerURL() + " kv history tsunami desired." + string(host),
		"curl " + d.daemon.httpURL() + "/v1/hosts/" + string(host) + "/desired",
	} {
		d.say("  %s\n", line)
	}
	d.say("\nCtrl-C ends the demo and removes %s.\n", d.dir)
}

// program is how a program that was built beside this one is called from here;
// by its bare name where there is none.
func program(name string) string {
	exe, err := os.Executable()
	if err != nil {
		return name
	}
	path := filepath.Join(filepath.Dir(exe), name)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return name
	}
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	if !strings.ContainsRune(rel, filepath.Separator) {
		rel = "." + string(filepath.Separator) + rel
	}
	return rel
}
