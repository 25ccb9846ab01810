package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func (s *scheduler) rolloutView(id rollout.ID, now time.Time, whole bool) (control.RolloutView, error) {
	st, err := s.snap.Status(id, now)
	if err != nil {
		return control.RolloutView{}, err
	}
	r := st.Record
	v := control.RolloutView{
		ID: id, Variable: r.Spec.Variable, To: r.Spec.To, State: r.State,
		Reason: st.Reason.String(), ReasonCode: st.Reason.Code,
		Target: st.Target, Told: st.Told, Confirmed: st.Confirmed, Failed: st.Failed,
		InFlight: st.InFlight, Limit: st.Limit, Planned: st.Planned,
		Ends: st.Ends, Next: st.Next, Elapsed: rollout.Duration(st.Elapsed), Over: rollout.Duration(st.Length),
		Author: r.Author, By: r.By, Created: r.Created, Changed: r.Changed, Why: r.Why, Layer: st.Layer,
		Remove: r.Spec.Remove, Started: st.Started, PlannedEnd: st.PlannedEnd, Held: heldViews(st.Held), Late: late(st, now),
		ApprovalsNeeded: st.ApprovalsNeeded, Approvals: r.Approvals, RollbackOf: r.Spec.Rollback, Rollback: st.Rollback,
	}
	if st.Target > 0 {
		v.Fraction = float64(st.Told) / float64(st.Target)
	}
	if a := s.snap.AbortOf(id); a.Sequence > 0 {
		v.Abort = abortView(a)
	}
	if r.State == rollout.StateFrozen {
		v.NotEnacted = st.InFlight
	}
	if whole {
		v.Roles = roleViews(st.Roles)
		v.Spec, v.Pinned, v.Guard = &r.Spec, st.Pinned, s.guardView(id, &r.Spec, now)
		if v.Abort != nil {
			v.Abort.Evidence = s.guard.verdicts[id]
		}
		for _, f := range s.snap.Flights(id, 100) {
			v.Waiting = append(v.Waiting, control.FlightView{Host: f.Host, Role: f.Role, Since: f.Since, Status: f.Enact.Status, Error: f.Enact.Error, Online: f.Online})
		}
	}
	return v, nil
}

// heldViews lists for how long something stood still for each reason, the
// longest first.
func heldViews(held map[rollout.Code]time.Duration) []control.HeldView {
	out := make([]control.HeldView, 0, len(held))
	for code, d := range held {
		out = append(out, control.HeldView{Reason: code, For: rollout.Duration(d)})
	}
	slices.SortFunc(out, func(a, b control.HeldView) int {
		return cmp.Or(cmp.Compare(b.For, a.For), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// late is by how much a rollout ends, or ended, after the end that was planned
// when its clock started: as far as it is known, or already true.
func late(st rollout.Status, now time.Time) rollout.Duration {
	ends := st.Ends
	switch {
	case st.PlannedEnd.IsZero():
		return 0
	case st.Record.Spec.Guard != nil && !st.Last.IsZero() && (st.Record.State == rollout.StateCompleted || st.Reason.Code == rollout.ObjectiveWindow):
		ends = st.Last // that it is watched for a while afterwards was planned
	case !st.Record.State.Live():
		ends = st.Record.Changed
	case ends.IsZero():
		ends = now
	}
	return rollout.Duration(max(0, ends.Sub(st.PlannedEnd)))
}

func abortView(a rollout.Abort) *control.AbortView {
	return &control.AbortView{Sequence: a.Sequence, Why: a.Why, Actor: a.Actor, Time: a.Time}
}

func roleViews(roles []rollout.RoleStatus) []control.RoleView {
	out := make([]control.RoleView, len(roles))
	for i, r := range roles {
		out[i] = control.RoleView{
			Role: r.Role, Hosts: r.Hosts, Target: r.Target, Told: r.Told,
			Confirmed: r.Confirmed, Failed: r.Failed, InFlight: r.InFlight, Next: r.Next,
		}
	}
	return out
}

func (s *scheduler) hostView(name rollout.Host) (control.HostView, error) {
	h, err := s.snap.Host(name)
	if err != nil {
		return control.HostView{}, err
	}
	v := control.HostView{
		Host: name, Labels: map[rollout.Word]rollout.Word{}, Desired: rollout.Document{}, Actual: rollout.Document{},
		Checks: map[rollout.ID]rollout.Check{}, Online: h.Presence == rollout.Online, LastSeen: s.heard[name],
	}
	if v.LastSeen.IsZero() {
		v.LastSeen = s.touched[name]
	}
	if r := h.Report; r != nil {
		v.Role, v.Applied, v.Version, v.Enact = r.Role, r.Generation, r.Version, r.Enact
		maps.Copy(v.Labels, r.Labels)
		maps.Copy(v.Actual, r.Actual)
		maps.Copy(v.Checks, r.Checks)
	} else {
		v.Problems = append(v.Problems, "it has a document but never reported itself")
	}
	v.Pin = h.Pin
	if d := h.Desired; d != nil {
		v.Generation = d.Generation
		maps.Copy(v.Desired, d.Values)
		if h.Report != nil && h.Report.Generation > d.Generation {
			v.Problems = append(v.Problems, fmt.Sprintf("it reports generation %d, but was told only %d", h.Report.Generation, d.Generation))
		}
		for _, n := range slices.Sorted(maps.Keys(d.Told)) {
			if !d.Told[n].Pin || h.Pin != nil && !h.Pin.Values[n].IsZero() {
				continue
			}
			if next := s.afterPin(name, n, time.Now()); next != "" {
				v.Problems = append(v.Problems, next)
			}
		}
	}
	if h.Report != nil && h.Report.Held != "" {
		v.Problems = append(v.Problems, "held: "+h.Report.Held)
	}
	if s.problems[subjects.KindPin.Key(string(name))] != "" {
		v.Problems = append(v.Problems, "its pin in the bucket was overwritten or deleted by hand; the last good one counts")
	}
	for _, x := range s.snap.Variables() {
		if h.Drifted(x) {
			v.Problems = append(v.Problems, "drifted: runs "+string(x.Name)+" "+h.Report.Actual[x.Name].String())
		}
	}
	if h.Report != nil {
		for _, n := range slices.Sorted(maps.Keys(h.Report.Enact)) {
			if e := h.Report.Enact[n]; e.Error != "" {
				switch e.Status {
				case rollout.Unobserved:
					v.Problems = append(v.Problems, fmt.Sprintf("%s can't be observed, so the host isn't told its value: %s", n, e.Error))
				case rollout.EnactFail, rollout.Retrying:
					v.Problems = append(v.Problems, fmt.Sprintf("%s %s, attempts so far %d: %s", n, e.Status, e.Attempts, e.Error))
				}
			}
		}
	}
	switch {
	case h.Decommissioned:
		v.Problems = append(v.Problems, "decommissioned")
	case h.Damaged:
		v.Problems = append(v.Problems, "its document in the bucket was overwritten or deleted by hand")
	case h.Presence == rollout.Gone:
		v.Problems = append(v.Problems, "not seen for 7 days: it doesn't count")
	}
	return v, nil
}

func (s *scheduler) hostList(q control.HostListRequest) (any, error) {
	where, err := rollout.ParseWhere(q.Where)
	if err != nil {
		return nil, &rollout.FieldError{Field: "where", Problem: err.Error()}
	}
	limit := q.Limit
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	out := control.HostListResponse{Hosts: []control.HostView{}}
	size := 0
	for _, name := range s.snap.Hosts() {
		if name <= q.After {
			continue
		}
		v, err := s.hostView(name)
		if err != nil {
			return nil, err
		}
		if ok, err := where.Selects(name, v.Role, v.Labels); err != nil || !ok {
			continue
		}
		size += viewSize(v)
		if len(out.Hosts) == limit || size > maxAnswer && len(out.Hosts) > 0 {
			out.More = true
			return out, nil
		}
		out.Hosts = append(out.Hosts, v)
	}
	return out, nil
}

// maxAnswer keeps a page of hosts within one message of 1 MiB.
const maxAnswer = 600 << 10

// viewSize is a rough upper bound of the view's JSON, in bytes.
func viewSize(v control.HostView) int {
	n := 400 + len(v.Host)
	for k, w := range v.Labels {
		n += len(k) + len(w) + 8
	}
	for k, w := range v.Desired {
		n += len(k) + 2*len(w.Text()) + 8
	}
	for k, w := range v.Actual {
		n += len(k) + 2*len(w.Text()) + 8
	}
	for k, c := range v.Checks {
		n += len(k) + 2*len(c.Output) + 60
	}
	for k, e := range v.Enact {
		n += len(k) + 2*len(e.Error) + 80
	}
	for _, p := range v.Problems {
		n += 2*len(p) + 4
	}
	if v.Pin != nil {
		n += 200 + 2*len(v.Pin.Why)
		for k, w := range v.Pin.Values {
			n += len(k) + 2*len(w.Text()) + 8
		}
	}
	return n
}

// counted is how the fleet stands with a variable.
type counted struct {
	desired, actual    map[string]int
	drifted, unenacted int
}

func (s *scheduler) count(v *rollout.Variable) counted {
	c := counted{desired: map[string]int{}, actual: map[string]int{}}
	for _, name := range s.snap.Hosts() {
		h, err := s.snap.Host(name)
		if err != nil {
			continue
		}
		c.actual[h.Report.Actual[v.Name].Text()]++
		if h.Drifted(v) {
			c.drifted++
		}
		if h.Desired == nil {
			c.desired[""]++
			continue
		}
		c.desired[h.Desired.Values[v.Name].Text()]++
		if unenactedOn(h, v) {
			c.unenacted++
		}
	}
	return c
}

// unenactedOn says whether a host was told the variable and has no enactor for
// it.
func unenactedOn(h rollout.HostStatus, v *rollout.Variable) bool {
	if h.Desired == nil || v.Enact == "file" {
		return false
	}
	_, told := h.Desired.Values[v.Name]
	return told && h.Report.Enact[v.Name].Status == rollout.Unenacted
}

func (s *scheduler) variableViews() []control.VariableView {
	out := []control.VariableView{}
	for _, v := range s.snap.Variables() {
		c := s.count(v)
		out = append(out, control.VariableView{
			Variable: *v, Hosts: c.desired, Actual: c.actual, Drifted: c.drifted, Unenacted: c.unenacted,
			Rollout: s.snap.LiveRollout(v.Name),
		})
	}
	return out
}

func (s *scheduler) stopView() control.StopView {
	v := control.StopView{Stopped: s.snap.Stopped()}
	if a := s.snap.Stop(); a.Sequence > 0 {
		v.Stop = abortView(a)
	}
	return v
}

func (s *scheduler) status() control.StatusView {
	p := s.snap.Presences()
	v := control.StatusView{
		StopView: s.stopView(), Leader: s.leader.Name, Since: s.leader.Since, Version: s.o.Version,
		Hosts: p[rollout.Online] + p[rollout.Offline] + p[rollout.Gone] + p[rollout.Unheard], Online: p[rollout.Online],
	}
	v.Unheard = p[rollout.Unheard]
	for _, id := range s.snap.Rollouts() {
		st, err := s.snap.Status(id, time.Now())
		if err != nil {
			continue
		}
		never := st.Reason.Code == rollout.WaitingForRollout && st.Reason.Detail != ""
		if state := st.Record.State; state == rollout.StateFrozen || state == rollout.StatePaused || st.Reason.Code == rollout.Aborted || st.Reason.Code == rollout.AwaitingApproval || never {
			v.Warnings = append(v.Warnings, fmt.Sprintf("rollout %s: %s", id, st.Reason))
		}
		if st.Record.State.Live() && st.Failed > 0 {
			v.Warnings = append(v.Warnings, fmt.Sprintf("rollout %s: hosts that failed: %d", id, st.Failed))
		}
	}
	if silent := s.unguarded(time.Now()); silent != "" {
		v.Warnings = append(v.Warnings, silent)
	}
	for _, key := range slices.Sorted(maps.Keys(s.notices)) {
		v.Warnings = append(v.Warnings, s.notices[key].text)
	}
	for _, key := range slices.Sorted(maps.Keys(s.problems)) {
		v.Warnings = append(v.Warnings, key+": "+s.problems[key])
		if len(v.Warnings) == 100 {
			v.Warnings = append(v.Warnings, fmt.Sprintf("and %d more", len(s.problems)-100))
			break
		}
	}
	return v
}

func (s *scheduler) whyView(q control.WhyRequest, now time.Time) (any, error) {
	e, err := s.snap.Explain(q.Host, q.Variable, now)
	if err != nil {
		return nil, err
	}
	v := control.WhyView{
		Host: q.Host, Variable: q.Variable, Value: e.Value, Actual: e.Actual, Told: e.Told.Time, Rollout: e.Told.Rollout,
		Confirmed: e.Confirmed, Next: e.Next, To: e.To, Due: e.Due,
	}
	for _, b := range e.Blocked {
		v.Blocked = append(v.Blocked, b.String())
	}
	return v, nil
}
