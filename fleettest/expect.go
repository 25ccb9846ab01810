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
	conditions, err := parseConditions(words[1:])
	var have map[string]string
	switch words[0] {
	case "tells":
		have = s.countTells()
	case "actual":
		conditions, err = parseConditions(words[2:])
		have = count(s.Actual(rollout.Name(words[1])))
	case "host":
		conditions, err = parseConditions(words[2:])
		have, err = s.host(rollout.Host(words[1]), err)
	case "variable":
		conditions, err = parseConditions(words[2:])
		have, err = s.variable(rollout.Name(words[1]), err)
	default:
		have, err = s.show(rollout.ID(words[0]), err)
	}
	if err != nil {
		return err
	}
	return compare(conditions, have, near)
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
func (s *script) show(id rollout.ID, err error) (map[string]string, error) {
	if err != nil {
		return nil, err
	}
	var v control.RolloutView
	if err := s.Call(control.RolloutShow, control.RolloutRequest{ID: id}, &v); err != nil {
		return nil, err
	}
	out := map[string]string{
		"state": string(v.State), "reason": string(v.ReasonCode), "why": v.Why, "by": string(v.By),
		"target": strconv.Itoa(v.Target), "told": strconv.Itoa(v.Told), "confirmed": strconv.Itoa(v.Confirmed),
		"failed": strconv.Itoa(v.Failed), "inFlight": strconv.Itoa(v.InFlight), "limit": strconv.Itoa(v.Limit),
		"planned": strconv.Itoa(v.Planned), "elapsed": v.Elapsed.String(), "layer": strconv.FormatBool(v.Layer),
	}
	if !v.Ends.IsZero() {
		out["ends"] = rollout.Duration(v.Ends.Sub(began)).String()
	}
	for _, r := range v.Roles {
		out["told."+string(r.Role)] = strconv.Itoa(r.Told)
		out["target."+string(r.Role)] = strconv.Itoa(r.Target)
	}
	return out, nil
}

func (s *script) host(name rollout.Host, err error) (map[string]string, error) {
	if err != nil {
		return nil, err
	}
	var v control.HostView
	if err := s.Call(control.HostShow, control.HostRequest{Host: name}, &v); err != nil {
		return nil, err
	}
	out := map[string]string{"online": strconv.FormatBool(v.Online), "generation": strconv.FormatUint(v.Generation, 10), "applied": strconv.FormatUint(v.Applied, 10)}
	for variable, value := range v.Desired {
		out[string(variable)] = value.Text()
	}
	for variable, value := range v.Actual {
		out["actual."+string(variable)] = value.Text()
	}
	return out, nil
}

func (s *script) variable(name rollout.Name, err error) (map[string]string, error) {
	if err != nil {
		return nil, err
	}
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
