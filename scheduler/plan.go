package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// mostPlanned bounds the hosts of one plan that is sent.
const mostPlanned = 20_000

// planView plans a rollout that is there, or a document: one that isn't there
// yet, or another document for one that is.
func (s *scheduler) planView(q control.PlanRequest, now time.Time) (any, error) {
	o := rollout.PlanOptions{Confirm: time.Duration(q.Confirm)}
	if q.Rollout == nil {
		p, err := s.snap.Plan(q.ID, o, now)
		if err != nil {
			return nil, err
		}
		st, err := s.snap.Status(q.ID, now)
		if err != nil {
			return nil, err
		}
		v := planView(q, q.ID, p)
		v.Power, err = s.power(&st.Record.Spec, p)
		return v, err
	}
	spec := *q.Rollout
	if err := notRollback(spec); err != nil {
		return nil, err
	}
	if spec.Name == "" {
		spec.Name = s.freeName(spec)
	}
	var p rollout.Plan
	refused := ""
	st, err := s.snap.Status(spec.Name, now)
	if err == nil {
		var same bool
		if same, err = equal(spec, st.Record.Spec); err != nil {
			return nil, err
		}
		if same {
			p, err = s.snap.Plan(spec.Name, o, now)
		} else {
			p, err = s.snap.PlanChanged(spec, o, now)
		}
	} else {
		p, err = s.snap.PlanSpec(spec, s.leader.Seed, o, now)
		if no := s.snap.Admit(spec, rollout.With{}); no != nil {
			refused = no.Error()
		}
	}
	if err != nil {
		return nil, err
	}
	v := planView(q, spec.Name, p)
	v.Refused = refused
	v.Power, err = s.power(&spec, p)
	return v, err
}

// power says what the guard would see of a plan; nil of a rollout that names no
// objectives. Of one under way it is of what is left of it: hosts that had their
// turn are no longer compared with.
func (s *scheduler) power(spec *rollout.Spec, p rollout.Plan) ([]slo.Power, error) {
	if spec.Guard == nil || spec.Rollback != "" {
		return nil, nil
	}
	selection, err := spec.Selection()
	if err != nil {
		return nil, err
	}
	strata, index, of := []int{}, map[string]int{}, map[rollout.Host]int{}
	for _, name := range s.snap.Hosts() {
		h, err := s.snap.Host(name)
		if err != nil {
			return nil, err
		}
		group, ok := selection.Group(name, h.Report.Role, h.Report.Labels)
		if !ok || h.Presence == rollout.Gone || h.Desired != nil && h.Desired.Told[spec.Variable].Rollout == spec.Name {
			continue
		}
		i, ok := index[group]
		if !ok {
			i, strata = len(strata), append(strata, 0)
			index[group] = i
		}
		strata[i]++
		of[name] = i
	}
	arrivals := make([]slo.Arrival, 0, len(p.Hosts))
	for _, h := range p.Hosts {
		if i, ok := of[h.Host]; ok {
			arrivals = append(arrivals, slo.Arrival{Stratum: i, Due: h.Due})
		}
	}
	objectives := make([]*slo.Objective, 0, len(spec.Guard.Objectives))
	for _, name := range spec.Guard.Objectives {
		if o := s.objectives[name]; o != nil { // one whose record can't be read judges nothing
			objectives = append(objectives, o)
		}
	}
	return slo.PowerOf(arrivals, strata, objectives), nil
}

func planView(q control.PlanRequest, id rollout.ID, p rollout.Plan) control.PlanView {
	v := control.PlanView{
		ID: id, Starts: p.Starts, Clock: p.Clock, Ends: p.Ends, Length: rollout.Duration(p.Length), Target: p.Target, Told: p.Told,
		Roles: roleViews(p.Roles), Hosts: []control.PlanHost{},
		Days: planDays(p), Zones: planZones(p.Hosts), Curve: planCurve(p), Costs: heldViews(p.Costs), Conflicts: p.Conflicts,
	}
	for _, c := range p.Closed {
		v.Closed = append(v.Closed, control.PlanClosure{From: c.From, Until: c.Until, Reason: c.Why.String()})
	}
	first, last := q.First, q.Last
	if first <= 0 && last <= 0 || first+last > mostPlanned {
		first, last = mostPlanned, 0
	}
	n := len(p.Hosts)
	for i, h := range p.Hosts {
		if i < first || i >= n-last {
			v.Hosts = append(v.Hosts, control.PlanHost{Host: h.Host, Role: h.Role, Position: h.Position, Due: h.Due, Canary: h.Canary})
		}
	}
	v.Omitted = n - len(v.Hosts)
	return v
}

// planDays counts the hosts by the day, in UTC, on which they are due.
func planDays(p rollout.Plan) []control.PlanDay {
	days := []control.PlanDay{}
	for i, h := range p.Hosts {
		name := h.Due.UTC().Format(time.DateOnly)
		if n := len(days); n == 0 || days[n-1].Day != name {
			days = append(days, control.PlanDay{Day: name})
		}
		day := &days[len(days)-1]
		day.Hosts++
		day.Total = p.Told + i + 1
	}
	return days
}

// planZones counts the hosts by zone, if any has one.
func planZones(hosts []rollout.Planned) []control.PlanZone {
	zones := map[rollout.Word]*control.PlanZone{}
	for _, h := range hosts {
		z := zones[h.Zone]
		if z == nil {
			z = &control.PlanZone{Zone: h.Zone, First: h.Due}
			zones[h.Zone] = z
		}
		z.Hosts++
		z.Last = h.Due
	}
	if len(zones) == 0 || len(zones) == 1 && zones[""] != nil {
		return nil
	}
	out := make([]control.PlanZone, 0, len(zones))
	for _, z := range zones {
		out = append(out, *z)
	}
	slices.SortFunc(out, func(a, b control.PlanZone) int { return cmp.Compare(a.Zone, b.Zone) })
	return out
}

// curvePoints is into how many parts a plan's curve is divided.
const curvePoints = 60

// planCurve samples how many hosts have been told by when, evenly in time from
// the plan's start to its end.
func planCurve(p rollout.Plan) []control.PlanPoint {
	span := p.Ends.Sub(p.Starts)
	if len(p.Hosts) == 0 || span <= 0 {
		return []control.PlanPoint{{Time: p.Ends, Hosts: p.Told + len(p.Hosts)}}
	}
	curve := make([]control.PlanPoint, curvePoints+1)
	told := 0
	for i := range curve {
		at := p.Starts.Add(time.Duration(float64(span) / curvePoints * float64(i)))
		if i == curvePoints {
			at = p.Ends
		}
		for told < len(p.Hosts) && !p.Hosts[told].Due.After(at) {
			told++
		}
		curve[i] = control.PlanPoint{Time: at, Hosts: p.Told + told}
	}
	return curve
}
