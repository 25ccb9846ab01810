package evidence

import (
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// outside is a fleet of ten web hosts and one db, and rollout r1 that is judged by
// one objective, of which nothing has been heard yet.
func outside(t *testing.T, o *slo.Objective) *tape {
	t.Helper()
	o.Name = "outside"
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	p := newTape(t)
	p.objective(o)
	p.hosts(0, 10, "web")
	p.host("db1", "db")
	p.start("r1", o.Name)
	return p
}

func (p *tape) signal(s subjects.Signal) {
	p.t.Helper()
	s.Time = p.now
	p.put(subjects.SignalOf("outside"), nil, p.encode(s))
}

func (p *tape) unclear(want string) {
	p.t.Helper()
	if why, _ := p.f.Clear("r1"); want == "" && why != "" || !strings.Contains(why, want) {
		p.t.Fatalf("unclear because %q, want %q", why, want)
	}
}

func all() (hosts []rollout.Host) {
	for i := range 10 {
		hosts = append(hosts, name(i))
	}
	return append(hosts, "db1")
}

// alert is one of role web's host, or of nobody's where host is "".
func (p *tape) alert(firing bool, fingerprint string, labels map[string]string) subjects.Alert {
	return subjects.Alert{Fingerprint: fingerprint, Firing: firing, Starts: epoch, Labels: labels, Summary: "it is bad"}
}

func (p *tape) alerted(alerts ...subjects.Alert) {
	p.t.Helper()
	p.put(subjects.AlertsReceived, nil, p.encode(subjects.Alerts{Alerts: alerts}))
}

// Hosts that a query says fail are weighed as those whose check fails, and a fold
// of the same records comes to the same.
func TestSignalsOfHosts(t *testing.T) {
	p := outside(t, &slo.Objective{PromQL: &slo.Query{Query: "up", Success: "> 0"}})
	p.unclear("hasn't been asked yet")
	p.signal(subjects.Signal{Full: true, Outcome: slo.Success, Passing: append(all(), "nobody-knows-it")})
	p.unclear("")
	p.want("r1", "0/0 0/11")
	for i := range 3 {
		p.tell(name(i), "r1")
	}
	p.pass(15 * time.Second)
	p.signal(subjects.Signal{Outcome: slo.Success, Failing: map[rollout.Host]string{name(0): "0", name(1): "0", name(9): "0"}})
	p.pass(time.Minute)
	p.signal(subjects.Signal{Outcome: slo.Success, Unsaid: []rollout.Host{name(1)}})
	p.want("r1", "1/3 1/8")
	// A rollout that begins now knows the hosts by what was said last.
	p.start("r2", "outside")
	p.want("r2", "0/0 0/8")
	p.pass(3 * time.Minute)
	p.signal(subjects.Signal{Outcome: slo.Errored, Why: "connection refused"})
	p.unclear("for longer than 2m")
	f := New()
	for _, m := range p.messages {
		if _, err := f.Take(m); err != nil {
			t.Fatal(err)
		}
	}
	if state(t, f) != text(t, p) {
		t.Error("a replay comes to something else")
	}
}

// A look that comes in parts ends with the last.
func TestSignalInParts(t *testing.T) {
	p := outside(t, &slo.Objective{PromQL: &slo.Query{Query: "up", Success: "> 0"}})
	p.signal(subjects.Signal{Full: true, More: true, Outcome: slo.Success, Passing: all()[:5]})
	p.unclear("hasn't been asked yet")
	p.signal(subjects.Signal{Outcome: slo.Success, Passing: all()[5:]})
	p.unclear("")
	p.want("r1", "0/0 0/11")
}

func TestSignalsOfRoles(t *testing.T) {
	p := outside(t, &slo.Objective{PromQL: &slo.Query{Query: "x", Per: slo.PerRole, Failure: "> 1"}})
	say := func(role rollout.Word, outcome slo.Outcome) {
		p.pass(15 * time.Second)
		p.signal(subjects.Signal{Outcome: outcome, Roles: map[rollout.Word]subjects.RoleSignal{role: {Outcome: outcome, Why: "3"}}})
	}
	say("web", slo.Success)
	p.unclear("")
	p.tell(name(0), "r1")
	say("db", slo.Failing)
	if len(p.verdicts) > 0 {
		t.Fatal("a role that isn't changed freezes it")
	}
	say("web", slo.Failing)
	if len(p.verdicts) != 1 || p.verdicts[0].Kind != slo.Limit {
		t.Fatalf("verdicts %+v", p.verdicts)
	}
}

// An alert freezes where it is about what the rollout has changed, once, and holds
// while it fires for another reason.
func TestAlertsAsGates(t *testing.T) {
	o := &slo.Objective{Alert: &slo.Alert{Name: "Down", Match: map[string]string{"severity": "page"}}}
	labels := func(host, severity string) map[string]string {
		return map[string]string{"alertname": "Down", "severity": severity, "instance": host + ":9100"}
	}
	p := outside(t, o)
	p.unclear("")
	p.tell(name(0), "r1")
	p.alerted(p.alert(true, "1", labels("h0000", "info")), p.alert(true, "2", labels("h0005", "page")))
	p.unclear("")
	p.alerted(p.alert(true, "3", map[string]string{"alertname": "Down", "severity": "page", "rollout": "another"}))
	if len(p.verdicts) > 0 {
		t.Fatalf("an alert about something else freezes it: %+v", p.verdicts[0])
	}
	// It fired before a rollout began to be watched: that one holds until it ends.
	p.alerted(p.alert(true, "4", map[string]string{"alertname": "Down", "severity": "page", "rollout": "r2"}))
	p.start("r2", "outside")
	if why, _ := p.f.Clear("r2"); !strings.Contains(why, "fails already") || !strings.Contains(why, "it is bad") {
		t.Fatalf("r2: %q", why)
	}
	p.tell(name(7), "r2")
	p.alerted(p.alert(true, "4", map[string]string{"alertname": "Down", "severity": "page", "rollout": "r2"}))
	if len(p.verdicts) > 0 {
		t.Fatalf("an alert that fired already freezes: %+v", p.verdicts[0])
	}
	p.alerted(p.alert(false, "4", map[string]string{"alertname": "Down", "severity": "page", "rollout": "r2"}))
	if why, _ := p.f.Clear("r2"); why != "" {
		t.Fatalf("r2: %q after it has ended", why)
	}
	p.alerted(p.alert(true, "5", labels("h0000", "page")))
	if len(p.verdicts) != 1 || p.verdicts[0].Rollout != "r1" || p.verdicts[0].Kind != slo.Limit || !strings.Contains(p.verdicts[0].Standings[0].Gate.Why, "it is bad") {
		t.Fatalf("verdicts %+v", p.verdicts)
	}
}

// Alerts per host are weighed; a watchdog that isn't heard holds.
func TestAlertsOfHosts(t *testing.T) {
	o := &slo.Objective{Alert: &slo.Alert{Name: "Down", Per: slo.PerHost, Watchdog: "Watchdog"}}
	p := outside(t, o)
	p.unclear("Watchdog, which always fires")
	dog := p.alert(true, "dog", map[string]string{"alertname": "Watchdog"})
	p.alerted(dog)
	p.unclear("")
	p.want("r1", "0/0 0/11")
	p.tell(name(0), "r1")
	down := map[string]string{"alertname": "Down", "instance": string(name(0))}
	p.pass(time.Minute)
	p.alerted(p.alert(true, "1", down))
	p.pass(time.Second)
	p.listens("s1")
	p.want("r1", "1/1 0/10")
	p.pass(2 * time.Minute)
	p.listens("s1")
	p.unclear("Watchdog, which always fires")
	p.alerted(dog)
	p.unclear("")
}
