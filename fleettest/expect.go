package fleettest

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// expect compares what stands with what the script says must.
func expect(s *script, words []string) error {
	near, words, err := nearness(words)
	if err != nil {
		return err
	}
	if len(words) < 2 {
		return errors.New("want a subject and conditions")
	}
	switch words[0] {
	case "told-as-planned":
		return s.toldAsPlanned(rollout.ID(words[1]))
	case "last-told-first":
		return s.lastToldFirst(rollout.ID(words[1]))
	}
	about := map[string]int{"tells": 1, "actual": 2, "host": 2, "variable": 2, "blackout": 2, "plan": 2, "why": 3}
	n := max(1, about[words[0]]) // words before the conditions
	conditions, err := parseConditions(words[min(n, len(words)):])
	if err != nil {
		return err
	}
	var have map[string]string
	switch words[0] {
	case "tells":
		have = s.countTells()
	case "actual":
		have = count(s.Actual(rollout.Name(words[1])))
	case "host":
		have, err = s.host(rollout.Host(words[1]))
	case "variable":
		have, err = s.variable(rollout.Name(words[1]))
	case "blackout":
		have, err = s.blackout(rollout.ID(words[1]))
	case "plan":
		have, err = s.planned(rollout.ID(words[1]))
	case "why":
		have, err = s.why(rollout.Host(words[1]), rollout.Name(at(words, 2)))
	default:
		have, err = s.show(rollout.ID(words[0]))
	}
	if err != nil {
		return err
	}
	for i, c := range conditions {
		if t, err := readTime(c.want); err == nil {
			conditions[i].want = s.date(t)
		}
	}
	return compare(conditions, have, near)
}

// date gives a time as expectations have it: how long after the fleet began,
// and 0 for none.
func (s *script) date(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return rollout.Duration(t.Sub(s.Began)).String()
}

// nearness takes within= out of the words of an expectation.
func nearness(words []string) (near float64, rest []string, err error) {
	near = 2
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, "within="); ok {
			if near, err = number(v); err != nil {
				d, derr := duration(v)
				near, err = d.Hours(), derr
			}
			continue
		}
		rest = append(rest, w)
	}
	return near, rest, err
}

func compare(conditions []condition, have map[string]string, near float64) error {
	var faults []error
	for _, c := range conditions {
		h, known := have[c.field]
		if !known {
			h = "0"
		}
		ok, err := c.holds(h, near)
		if err != nil {
			return err
		}
		if !ok {
			faults = append(faults, fmt.Errorf("%s is %s, want %s%s", c.field, h, c.op, c.want))
		}
	}
	if len(faults) > 0 {
		var all []string
		for _, k := range sortedKeys(have) {
			all = append(all, k+"="+have[k])
		}
		faults = append(faults, errors.New("it has "+strings.Join(all, " ")))
	}
	return errors.Join(faults...)
}

// show gives a rollout's fields as texts.
func (s *script) show(id rollout.ID) (map[string]string, error) {
	var v control.RolloutView
	if err := s.Call(control.RolloutShow, control.RolloutRequest{ID: id}, &v); err != nil {
		return nil, err
	}
	out := map[string]string{
		"state": string(v.State), "reason": string(v.ReasonCode), "says": v.Reason, "why": v.Why, "by": string(v.By),
		"target": strconv.Itoa(v.Target), "told": strconv.Itoa(v.Told), "confirmed": strconv.Itoa(v.Confirmed),
		"failed": strconv.Itoa(v.Failed), "inFlight": strconv.Itoa(v.InFlight), "limit": strconv.Itoa(v.Limit),
		"planned": strconv.Itoa(v.Planned), "elapsed": v.Elapsed.String(), "over": v.Over.String(), "layer": strconv.FormatBool(v.Layer),
		"next": s.date(v.Next), "ends": s.date(v.Ends), "started": s.date(v.Started), "plannedEnd": s.date(v.PlannedEnd), "late": v.Late.String(),
		"approvalsNeeded": strconv.Itoa(v.ApprovalsNeeded), "approvals": strconv.Itoa(len(v.Approvals)),
		"rollback": string(v.Rollback), "rollbackOf": string(v.RollbackOf), "pinned": strconv.Itoa(v.Pinned), "notEnacted": strconv.Itoa(v.NotEnacted),
	}
	for _, r := range v.Roles {
		out["told."+string(r.Role)] = strconv.Itoa(r.Told)
		out["target."+string(r.Role)] = strconv.Itoa(r.Target)
	}
	held(out, "held.", v.Held)
	return out, nil
}

func held(out map[string]string, prefix string, all []control.HeldView) {
	for _, h := range all {
		out[prefix+string(h.Reason)] = h.For.String()
	}
}

func (s *script) host(name rollout.Host) (map[string]string, error) {
	var v control.HostView
	if err := s.Call(control.HostShow, control.HostRequest{Host: name}, &v); err != nil {
		return nil, err
	}
	out := map[string]string{
		"online": strconv.FormatBool(v.Online), "generation": strconv.FormatUint(v.Generation, 10), "applied": strconv.FormatUint(v.Applied, 10),
		"pinned": strconv.FormatBool(v.Pin != nil), "problems": strings.Join(v.Problems, "; "),
	}
	for variable, value := range v.Desired {
		out[string(variable)] = value.Text()
	}
	for variable, value := range v.Actual {
		out["actual."+string(variable)] = value.Text()
	}
	return out, nil
}

func (s *script) variable(name rollout.Name) (map[string]string, error) {
	var all []control.VariableView
	if err := s.Call(control.VariableList, control.Empty{}, &all); err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.Name == name {
			out := map[string]string{"value": v.Value.Text(), "drifted": strconv.Itoa(v.Drifted)}
			for value, n := range v.Hosts {
				out[value] = strconv.Itoa(n)
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("there is no variable %s", name)
}

func (s *script) blackout(name rollout.ID) (map[string]string, error) {
	var all []control.BlackoutView
	if err := s.Call(control.BlackoutList, control.Empty{}, &all); err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.Name == name {
			var holds []string
			for _, id := range v.Holds {
				holds = append(holds, string(id))
			}
			return map[string]string{"inForce": strconv.FormatBool(v.InForce), "next": s.date(v.Next), "holds": strings.Join(holds, ",")}, nil
		}
	}
	return nil, fmt.Errorf("there is no blackout %s", name)
}

// planned gives the plan that a script asked for last, or as it is now, as
// texts. host.h3 is when h3 is due.
func (s *script) planned(id rollout.ID) (map[string]string, error) {
	v, asked := s.plans[id]
	if !asked {
		if err := s.Call(control.RolloutPlan, control.PlanRequest{ID: id}, &v.PlanView); err != nil {
			return nil, err
		}
	}
	out := map[string]string{
		"starts": s.date(v.Starts), "clock": s.date(v.Clock), "ends": s.date(v.Ends), "length": v.Length.String(), "target": strconv.Itoa(v.Target), "told": strconv.Itoa(v.Told),
		"hosts": strconv.Itoa(len(v.Hosts)), "days": strconv.Itoa(len(v.Days)), "closed": strconv.Itoa(len(v.Closed)),
		"conflicts": strings.Join(v.Conflicts, "; "), "refused": v.Refused,
	}
	canaries := 0
	for _, h := range v.Hosts {
		out["host."+string(h.Host)] = s.date(h.Due)
		if h.Canary {
			canaries++
		}
	}
	out["canaries"] = strconv.Itoa(canaries)
	held(out, "costs.", v.Costs)
	return out, nil
}

func (s *script) why(host rollout.Host, variable rollout.Name) (map[string]string, error) {
	var v control.WhyView
	if err := s.Call(control.Why, control.WhyRequest{Host: host, Variable: variable}, &v); err != nil {
		return nil, err
	}
	return map[string]string{
		"value": v.Value.Text(), "actual": v.Actual.Text(), "told": s.date(v.Told), "rollout": string(v.Rollout), "reason": v.Reason, "actor": string(v.Actor),
		"confirmed": strconv.FormatBool(v.Confirmed), "next": string(v.Next), "to": v.To.Text(), "due": s.date(v.Due), "blocked": strings.Join(v.Blocked, "; "),
	}, nil
}

// tells gives the documents by which a rollout has told hosts, in order.
func (s *script) tells(id rollout.ID) []*subjects.Change {
	s.check()
	var out []*subjects.Change
	for _, m := range s.bucket.between(0, s.bucket.taken) {
		kind, name, err := subjects.ParseKey(m.Subject)
		if err != nil || kind != subjects.KindDesired || m.Header.Get(subjects.HeaderRollout) != string(id) {
			continue
		}
		if c, err := subjects.DecodeChange(rollout.Host(name), m.Header, m.Data); err == nil && c.Reason.Code != rollout.ByRelease {
			out = append(out, c)
		}
	}
	return out
}

// toldAsPlanned compares the plan that a script asked for with when hosts were
// told since, to the second.
func (s *script) toldAsPlanned(id rollout.ID) error {
	v, asked := s.plans[id]
	if !asked {
		return fmt.Errorf("nobody asked for the plan of %s", id)
	}
	told := make(map[rollout.Host]time.Time)
	for _, c := range s.tells(id) {
		if !c.Time.Before(v.asked) {
			told[c.Host] = c.Time
		}
	}
	var faults []error
	for _, h := range v.Hosts {
		at, ok := told[h.Host]
		delete(told, h.Host)
		if !ok {
			faults = append(faults, fmt.Errorf("%s was to be told at %s, and never was", h.Host, h.Due))
		} else if off := at.Sub(h.Due).Abs(); off >= time.Second {
			faults = append(faults, fmt.Errorf("%s was to be told at %s, and was at %s", h.Host, h.Due, at))
		}
	}
	for name := range told {
		faults = append(faults, fmt.Errorf("%s was told, and isn't in the plan", name))
	}
	if n := len(faults); n > 5 {
		faults = append(faults[:5], fmt.Errorf("and %d more of %d hosts", n-5, len(v.Hosts)))
	}
	if len(v.Hosts) == 0 {
		faults = append(faults, errors.New("the plan has no hosts"))
	}
	return errors.Join(faults...)
}

// lastToldFirst says whether a rollback took hosts back in the opposite order
// in which its original had told them, role by role.
func (s *script) lastToldFirst(id rollout.ID) error {
	var v control.RolloutView
	if err := s.Call(control.RolloutShow, control.RolloutRequest{ID: id}, &v); err != nil {
		return err
	}
	when := make(map[rollout.Host]time.Time)
	for _, c := range s.tells(v.RollbackOf) {
		when[c.Host] = c.Time
	}
	last := make(map[rollout.Word]*subjects.Change)
	n := 0
	for _, c := range s.tells(id) {
		if c.Desired.Told[c.Variable].Released {
			continue // offline hosts aren't waited for
		}
		if b := last[c.Reason.Role]; b != nil && when[c.Host].After(when[b.Host]) {
			return fmt.Errorf("%s was taken back before %s, which had been told later", b.Host, c.Host)
		}
		last[c.Reason.Role] = c
		n++
	}
	if n == 0 {
		return fmt.Errorf("%s has taken nobody back", id)
	}
	return nil
}

func count(values map[rollout.Host]string) map[string]string {
	n := make(map[string]int)
	for v := range maps.Values(values) {
		n[v]++
	}
	out := make(map[string]string)
	for v, n := range n {
		out[v] = strconv.Itoa(n)
	}
	return out
}

// countTells counts the desired-state records of each rollout in the bucket.
func (s *script) countTells() map[string]string {
	s.check()
	n := make(map[string]int)
	for _, m := range s.bucket.between(0, s.bucket.taken) {
		if kind, _, err := subjects.ParseKey(m.Subject); err == nil && kind == subjects.KindDesired {
			n[m.Header.Get(subjects.HeaderRollout)]++
		}
	}
	out := make(map[string]string)
	for id, n := range n {
		out[id] = strconv.Itoa(n)
	}
	return out
}

// until lets time pass until the conditions hold: it looks whenever something
// was written, and every hour.
func until(s *script, words []string) error {
	var within time.Duration
	var rest []string
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, "within="); ok {
			var err error
			if within, err = duration(v); err != nil {
				return err
			}
			continue
		}
		w, err := s.draw(w)
		if err != nil {
			return err
		}
		rest = append(rest, w)
	}
	if within == 0 || len(rest) < 2 {
		return errors.New("want a rollout, conditions, and within=")
	}
	for end := time.Now().Add(within); ; {
		err := expect(s, rest)
		if err == nil || s.T.Failed() {
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("not within %s: %w", within, err)
		}
		select {
		case <-s.bucket.news:
		case <-time.After(min(left, tick)):
			s.check()
		}
	}
}

// draw draws the number of a condition such as told>=1..290.
func (s *script) draw(w string) (string, error) {
	head, last, ok := strings.Cut(w, "..")
	if !ok {
		return w, nil
	}
	i := strings.LastIndexAny(head, "=~")
	a, err1 := strconv.Atoi(head[i+1:])
	b, err2 := strconv.Atoi(last)
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("%s: %w", w, err)
	}
	return head[:i+1] + strconv.Itoa(a+s.Random.IntN(b-a+1)), nil
}
