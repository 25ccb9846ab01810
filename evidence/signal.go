package evidence

import (
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// signalAge is how old a look may be for a rollout that begins to be watched to
// know its hosts by it. The guard begins each objective with a full look.
const signalAge = 15 * time.Minute

// signals is what the looks at one objective have said of hosts.
type signals struct {
	at    time.Time
	hosts map[rollout.Host]slo.State
}

// signal takes a look at what Prometheus says.
func (f *Fold) signal(objective rollout.ID, m Message) error {
	s, err := lenient[subjects.Signal](m.Data)
	if err != nil {
		return err
	}
	for _, role := range sortedKeys(s.Roles) {
		for _, t := range f.ordered {
			t.watch.Gate(objective, role, s.Roles[role].Outcome, s.Roles[role].Why, true, f.now)
		}
	}
	about := f.about(objective)
	switch {
	case len(s.Roles) > 0:
		return nil
	case about == nil: // no rollout that is watched names it
	case about.Of() != slo.PerHost:
		for _, t := range f.ordered {
			t.watch.Gate(objective, "", s.Outcome, s.Why, true, f.now)
		}
		return nil
	}
	known := f.signals[objective]
	if known == nil || s.Full {
		known = &signals{hosts: make(map[rollout.Host]slo.State, len(s.Passing))}
		f.signals[objective] = known
	}
	known.at = f.now
	for _, name := range sortedKeys(s.Failing) {
		f.said(objective, known, name, slo.Fails, s.Failing[name])
	}
	for _, name := range s.Passing {
		f.said(objective, known, name, slo.Passes, "")
	}
	for _, name := range s.Unsaid {
		f.said(objective, known, name, slo.PassesYet, "") // neither
		delete(known.hosts, name)
	}
	if !s.More {
		for _, t := range f.ordered {
			t.watch.Looked(objective, s.Outcome, s.Why, f.now)
		}
	}
	return nil
}

// Queries are the objectives with a query by which rollouts that go on are judged.
func (f *Fold) Queries() (out []*slo.Objective) {
	for _, t := range f.ordered {
		if !t.state.Live() {
			continue
		}
		for _, o := range t.watch.Objectives() {
			if o.Asked() != nil && !slices.ContainsFunc(out, func(other *slo.Objective) bool { return other.Name == o.Name }) {
				out = append(out, o)
			}
		}
	}
	return out
}

// about is the query of an objective that a rollout is judged by.
func (f *Fold) about(objective rollout.ID) *slo.Query {
	for _, t := range f.ordered {
		if o := t.watch.Objective(objective); o != nil && o.Asked() != nil {
			return o.Asked()
		}
	}
	return nil
}

// said takes what a look says of one host. Hosts that aren't in the inventory
// count for nothing.
func (f *Fold) said(objective rollout.ID, known *signals, name rollout.Host, state slo.State, output string) {
	if f.hosts[name] == nil {
		return
	}
	known.hosts[name] = state
	for _, t := range f.ordered {
		t.watch.Said(name, objective, state, output, f.now)
	}
}

// alerts are those that fire.
type alerts struct {
	known  map[string]*subjects.Alert // by fingerprint
	fired  []*subjects.Alert          // in the order in which they were heard of
	byHost map[rollout.Host][]*subjects.Alert
}

// mostAlerts bounds how many alerts that fire are kept: beyond it the newest is
// left aside.
const mostAlerts = 50_000

func newAlerts() alerts {
	return alerts{known: make(map[string]*subjects.Alert), byHost: make(map[rollout.Host][]*subjects.Alert)}
}

// named are the hosts that an alert's labels may name.
func named(a *subjects.Alert) (out []rollout.Host) {
	for _, value := range a.Labels {
		if host := rollout.Host(slo.HostLabel(value)); !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

// put takes what an alert says now, and says whether it is news that it fires.
func (f *alerts) put(a *subjects.Alert) bool {
	was := f.known[a.Fingerprint]
	if was != nil && a.Firing && was.Starts.Equal(a.Starts) {
		return false
	}
	if was != nil {
		other := func(b *subjects.Alert) bool { return b == was }
		delete(f.known, a.Fingerprint)
		f.fired = slices.DeleteFunc(f.fired, other)
		for _, host := range named(was) {
			if f.byHost[host] = slices.DeleteFunc(f.byHost[host], other); len(f.byHost[host]) == 0 {
				delete(f.byHost, host)
			}
		}
	}
	if !a.Firing || len(f.known) >= mostAlerts {
		return false
	}
	f.known[a.Fingerprint] = a
	f.fired = append(f.fired, a)
	for _, host := range named(a) {
		f.byHost[host] = append(f.byHost[host], a)
	}
	return true
}

// alertsReceived takes what Alertmanager says.
func (f *Fold) alertsReceived(m Message) error {
	r, err := lenient[subjects.Alerts](m.Data)
	if err != nil {
		return err
	}
	for i := range r.Alerts {
		a := &r.Alerts[i]
		if a.Fingerprint == "" {
			continue
		}
		news := f.alerts.put(a)
		for _, t := range f.ordered {
			f.alerted(t, a, news)
		}
	}
	return nil
}

// alerted takes to one rollout what an alert says; news says that it wasn't known
// to fire.
func (f *Fold) alerted(t *trial, a *subjects.Alert, news bool) {
	for _, o := range t.watch.Objectives() {
		if o.Alert == nil {
			continue
		}
		if a.Firing && o.Alert.Watchdog != "" && a.Labels["alertname"] == o.Alert.Watchdog {
			t.watch.Heartbeat(o.Name, f.now)
		}
		if !o.Alert.Matches(a.Labels) || !t.named(a) {
			continue
		}
		if o.Alert.Of() == slo.PerHost {
			f.alertedHost(t, o, f.hosts[rollout.Host(o.Alert.Host(a.Labels))])
			continue
		}
		f.alertedGate(t, o, a, news)
	}
}

// named says whether an alert may be about a rollout: it names no other.
func (t *trial) named(a *subjects.Alert) bool {
	id := a.Labels["rollout"]
	return id == "" || id == string(t.id)
}

// alertedHost says how a host stands by the alerts that fire for it.
func (f *Fold) alertedHost(t *trial, o *slo.Objective, h *host) {
	if h == nil {
		return
	}
	for _, a := range f.alerts.byHost[h.name] {
		if o.Alert.Matches(a.Labels) && o.Alert.Host(a.Labels) == string(h.name) && t.named(a) {
			t.watch.Said(h.name, o.Name, slo.Fails, describe(a), f.now)
			return
		}
	}
	t.watch.Said(h.name, o.Name, slo.Passes, "", f.now)
}

// alertedGate says how a role, or the rollout, stands by the alerts that fire, now
// that one of them has begun or ended.
func (f *Fold) alertedGate(t *trial, o *slo.Objective, a *subjects.Alert, news bool) {
	if !a.Firing {
		i := slices.IndexFunc(f.alerts.fired, func(b *subjects.Alert) bool { return o.Alert.Matches(b.Labels) && f.concerns(t, o, b) })
		if i < 0 {
			t.watch.Gate(o.Name, "", slo.Success, "", false, f.now)
			return
		}
		a, news = f.alerts.fired[i], false
	}
	if f.concerns(t, o, a) {
		t.watch.Gate(o.Name, role(o, a), slo.Failing, describe(a), news, f.now)
	}
}

// concerns says whether an alert speaks against a rollout: one that names a host
// does if the rollout has changed it.
func (f *Fold) concerns(t *trial, o *slo.Objective, a *subjects.Alert) bool {
	name := rollout.Host(o.Alert.Host(a.Labels))
	return t.named(a) && (f.hosts[name] == nil || t.watch.Changed(name))
}

// role is the role that an alert speaks of; "" for the rollout.
func role(o *slo.Objective, a *subjects.Alert) rollout.Word {
	if o.Alert.Of() == slo.PerRole {
		return rollout.Word(a.Labels[slo.DefaultRoleLabel])
	}
	return ""
}

func describe(a *subjects.Alert) string {
	text := "alert " + a.Labels["alertname"] + " fires since " + a.Starts.UTC().Format(time.RFC3339)
	if a.Summary != "" {
		text += ": " + a.Summary
	}
	return text
}

// outside says to a watch what is known of a host from outside.
func (f *Fold) outside(t *trial, h *host) {
	for _, o := range t.watch.Objectives() {
		switch known := f.signals[o.Name]; {
		case o.Alert != nil && o.Alert.Of() == slo.PerHost:
			f.alertedHost(t, o, h)
		case o.PromQL != nil && known != nil && f.now.Sub(known.at) <= signalAge:
			if state, ok := known.hosts[h.name]; ok {
				t.watch.Said(h.name, o.Name, state, "", f.now)
			}
		}
	}
}

// firesAlready says to a watch that begins which alerts fire: they hold it, and
// aren't counted.
func (f *Fold) firesAlready(t *trial) {
	for _, o := range t.watch.Objectives() {
		if o.Alert == nil || o.Alert.Of() == slo.PerHost {
			continue
		}
		for _, a := range f.alerts.fired {
			if o.Alert.Matches(a.Labels) {
				f.alertedGate(t, o, a, false)
			}
		}
	}
}
