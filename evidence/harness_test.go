package evidence

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

var epoch = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// tape is an evidence stream as its writers write it, and a fold that takes each
// message at once.
type tape struct {
	t        testing.TB
	f        *Fold
	now      time.Time
	messages []Message
	verdicts []slo.Verdict
	records  map[rollout.ID]*rollout.Record
	reports  map[rollout.Host]*rollout.Report
	desired  map[rollout.Host]*rollout.Desired
	events   map[rollout.Host]uint64
}

func newTape(t testing.TB) *tape {
	return &tape{
		t: t, f: New(), now: epoch, records: make(map[rollout.ID]*rollout.Record), reports: make(map[rollout.Host]*rollout.Report),
		desired: make(map[rollout.Host]*rollout.Desired), events: make(map[rollout.Host]uint64),
	}
}

func (p *tape) pass(d time.Duration) { p.now = p.now.Add(d) }

// put stores a message that can be read.
func (p *tape) put(subject string, h subjects.Header, data []byte) {
	p.t.Helper()
	if err := p.putAny(subject, h, data); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tape) putAny(subject string, h subjects.Header, data []byte) error {
	m := Message{Subject: subject, Header: h, Data: data, Sequence: uint64(len(p.messages)) + 1, Time: p.now}
	p.messages = append(p.messages, m)
	verdicts, err := p.f.Take(m)
	p.verdicts = append(p.verdicts, verdicts...)
	return err
}

func (p *tape) encode(v any) []byte {
	b, err := subjects.Encode(v)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *tape) owned() subjects.Header {
	return subjects.Header{subjects.HeaderTime: {p.now.Format(time.RFC3339Nano)}}
}

func (p *tape) objective(o *slo.Objective) {
	p.t.Helper()
	p.put(subjects.EvidenceOf(subjects.KindObjective, string(o.Name)), p.owned(), p.encode(o))
}

func docker() *slo.Objective { return &slo.Objective{Name: "docker-healthy", Check: "docker"} }

// start creates a rollout of docker_version that is running at once, over two
// weeks.
func (p *tape) start(id rollout.ID, objectives ...rollout.ID) *rollout.Record {
	p.t.Helper()
	p.records[id] = &rollout.Record{
		Spec: rollout.Spec{
			Name: id, Variable: "docker_version", To: value("2"), Ramp: rollout.Ramp{Over: field.Duration(14 * 24 * time.Hour)},
			Guard: &rollout.Guard{Objectives: objectives},
		},
		State: rollout.StateRunning, Created: p.now, Clock: p.now, Length: 14 * 24 * time.Hour, Planned: p.now.Add(14 * 24 * time.Hour),
	}
	p.record(id)
	return p.records[id]
}

func (p *tape) record(id rollout.ID) {
	p.t.Helper()
	p.put(subjects.EvidenceOf(subjects.KindRollout, string(id)), p.owned(), p.encode(p.records[id]))
}

func (p *tape) report(host rollout.Host) {
	p.t.Helper()
	p.put(subjects.EvidenceOf(subjects.KindHost, string(host)), nil, p.encode(p.reports[host]))
}

// host reports itself for the first time: it runs version 1, and its check
// passes.
func (p *tape) host(host rollout.Host, role rollout.Word) *rollout.Report {
	p.t.Helper()
	p.reports[host] = &rollout.Report{
		Role: role, Actual: rollout.Document{"docker_version": value("1")}, Boot: "boot-1",
		Checks: map[rollout.ID]rollout.Check{"docker": {Status: rollout.Passing}},
	}
	p.report(host)
	return p.reports[host]
}

func value(s string) rollout.Value {
	v, err := rollout.StringValue(s)
	if err != nil {
		panic(err)
	}
	return v
}

func name(i int) rollout.Host { return rollout.Host(fmt.Sprintf("h%04d", i)) }

func (p *tape) hosts(from, to int, role rollout.Word) {
	p.t.Helper()
	for i := from; i < to; i++ {
		p.host(name(i), role)
	}
}

// tell tells a host the value of docker_version; by no rollout where id is "".
func (p *tape) tell(host rollout.Host, id rollout.ID) {
	p.t.Helper()
	to := value("9")
	if r := p.records[id]; r != nil {
		to = r.Spec.To
	}
	p.change(p.next(host, "docker_version", to, id))
}

// next is a host's next desired state.
func (p *tape) next(host rollout.Host, variable rollout.Name, to rollout.Value, id rollout.ID) subjects.Change {
	d := p.desired[host]
	if d == nil {
		d = &rollout.Desired{Values: rollout.Document{}, Told: map[rollout.Name]rollout.Told{}}
		p.desired[host] = d
	}
	d.Generation++
	d.Values[variable] = to
	d.Told[variable] = rollout.Told{Rollout: id, Generation: d.Generation, Time: p.now, Pin: id == ""}
	return subjects.Change{Host: host, Desired: *d, Rollout: id, Variable: variable, Reason: rollout.Reason{Code: "ramp"}, Actor: "scheduler", Time: p.now}
}

func (p *tape) change(c subjects.Change) {
	p.t.Helper()
	h, body, err := c.Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	p.put(subjects.EvidenceOf(subjects.KindDesired, string(c.Host)), h, body)
}

// event is the host's next health event, of its check docker.
func (p *tape) event(host rollout.Host, status rollout.CheckStatus) subjects.HealthEvent {
	p.events[host]++
	e := subjects.HealthEvent{
		Kind: subjects.HealthCheck, Boot: "boot-1", Sequence: p.events[host], Time: p.now, Check: "docker", Status: string(status),
	}
	if d := p.desired[host]; d != nil {
		e.Generation, e.Rollout = d.Generation, d.Told["docker_version"].Rollout
	}
	return e
}

func (p *tape) send(host rollout.Host, e subjects.HealthEvent) {
	p.t.Helper()
	p.put(subjects.Health(host), nil, p.encode(e))
}

func (p *tape) fails(host rollout.Host) {
	p.t.Helper()
	e := p.event(host, rollout.Failing)
	e.Output = "exit status 1"
	p.send(host, e)
}

// breaks lets a host fail for as long as it takes to count.
func (p *tape) breaks(host rollout.Host) {
	p.t.Helper()
	p.fails(host)
	p.pass(time.Minute)
	p.listens("s1")
}

func (p *tape) silence(host rollout.Host, kind subjects.SilenceKind, session string) {
	p.t.Helper()
	p.put(subjects.SilenceOf(host), nil, p.encode(subjects.Silence{Kind: kind, Session: session, Heard: p.now}))
}

func (p *tape) listens(session string) {
	p.t.Helper()
	p.put(subjects.Listening, nil, p.encode(subjects.Silence{Kind: subjects.Listens, Session: session}))
}

// abort writes the guard's abort of a verdict, and freezes the rollout.
func (p *tape) abort(v slo.Verdict) {
	p.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	h := subjects.Header{subjects.HeaderActor: {string(subjects.SloGuard)}}
	p.put(subjects.EvidenceOf(subjects.KindAbort, string(v.Rollout)), h, p.encode(subjects.Abort{Why: "the guard", Actor: string(subjects.SloGuard), Evidence: data}))
	r := p.records[v.Rollout]
	r.State, r.Abort = rollout.StateFrozen, uint64(len(p.messages))
	p.record(v.Rollout)
}

// standing is that of a rollout's first objective: treated failed/treated,
// control failed/control.
func (p *tape) standing(id rollout.ID) string {
	v, ok := p.f.View(id)
	if !ok || len(v.Standings) == 0 {
		return "none"
	}
	s := v.Standings[0]
	return fmt.Sprintf("%d/%d %d/%d", s.TreatedFailed, s.Treated, s.ControlFailed, s.Control)
}

func (p *tape) want(id rollout.ID, standing string) {
	p.t.Helper()
	if got := p.standing(id); got != standing {
		p.t.Fatalf("treated and control of %s stand at %s, want %s", id, got, standing)
	}
}

// guarded is a fleet of a hundred web hosts and a rollout r1 that is guarded by
// docker-healthy.
func guarded(t testing.TB, objectives ...*slo.Objective) *tape {
	t.Helper()
	p := newTape(t)
	if objectives == nil {
		objectives = []*slo.Objective{docker()}
	}
	var ids []rollout.ID
	for _, o := range objectives {
		p.objective(o)
		ids = append(ids, o.Name)
	}
	p.hosts(0, 100, "web")
	p.start("r1", ids...)
	p.want("r1", "0/0 0/100")
	return p
}
