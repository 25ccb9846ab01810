package fleettest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// The commands by which operators steer, each one request of theirs.

// applyDocuments applies the documents below the command.
func applyDocuments(s *script) error {
	all, err := s.read()
	if err != nil {
		return err
	}
	var q control.ApplyRequest
	for _, l := range all {
		q.Documents = append(q.Documents, l.Document)
		if v := l.Variable; v != nil {
			s.types[v.Name] = v.Type
		}
	}
	return s.Call(control.Apply, q, nil)
}

// read reads the documents below the command.
func (s *script) read() ([]control.Located, error) {
	all, err := control.ParseDocuments(fmt.Sprintf("below %s:%d", s.path, s.line), []byte(s.documents))
	if err == nil && len(all) == 0 {
		err = errors.New("no document stands below it")
	}
	return all, err
}

// remove deletes a document: delete Blackout christmas.
func remove(s *script, words []string) error {
	return s.Call(control.Delete, control.DeleteRequest{Kind: at(words, 0), Name: at(words, 1)}, nil)
}

// as carries a command out as another operator: as bob approve up.
func as(s *script, words []string) error {
	f := commands[at(words, 1)]
	if f == nil {
		return fmt.Errorf("there is no command %q", at(words, 1))
	}
	return s.As(rollout.ID(words[0]), func() error { return f(s, words[2:]) })
}

func approve(s *script, words []string) error {
	return change(control.RolloutApprove)(s, words)
}

// advanceRollout lets a rollout go on faster: advance up to=60%.
func advanceRollout(s *script, words []string) error {
	plain, given := options(words)
	q := control.AdvanceRequest{ID: rollout.ID(at(plain, 0)), Why: why(plain, 1)}
	if to := take(given, "to", ""); to != "" {
		p, err := number(to)
		if err != nil {
			return err
		}
		q.To = rollout.Percent(p)
	}
	if err := nothingLeft(given); err != nil {
		return err
	}
	return s.Call(control.RolloutAdvance, q, nil)
}

// why is what the operator says, the words from the n-th on.
func why(words []string, n int) string {
	if len(words) <= n {
		return "the script says so"
	}
	return strings.Join(words[n:], " ")
}

// releaseHost frees hosts' places in flight: release up h3 h5..h7.
func releaseHost(s *script, words []string) error {
	hosts, err := hostNames(words[min(1, len(words)):])
	for _, h := range hosts {
		q := control.HostReleaseRequest{ID: rollout.ID(words[0]), Host: h, Why: why(nil, 0)}
		err = errors.Join(err, s.Call(control.RolloutRelease, q, nil))
	}
	return err
}

// rollBack takes a rollout's hosts back: rollback up [to=VALUE] [over=2h].
func rollBack(s *script, words []string) error {
	plain, given := options(words)
	q := control.RollbackRequest{ID: rollout.ID(at(plain, 0)), ToText: take(given, "to", ""), Why: why(plain, 1)}
	var err error
	if q.Over, err = rollout.ParseDuration(take(given, "over", "0s")); err != nil {
		return err
	}
	if err := nothingLeft(given); err != nil {
		return err
	}
	return s.Call(control.RolloutRollback, q, nil)
}

// pin holds a variable of a host: pin h3 VAR=VALUE [until=3h]. Until is a time,
// or how long from now.
func pin(s *script, words []string) error {
	plain, given := options(words)
	q := control.PinRequest{Host: rollout.Host(at(plain, 0)), Why: why(plain, 1)}
	if until := take(given, "until", ""); until != "" {
		var err error
		if q.Until, err = s.moment(until); err != nil {
			return err
		}
	}
	if len(given) != 1 {
		return errors.New("want one variable: pin h3 VAR=VALUE")
	}
	for name, value := range given {
		q.Variable, q.ValueText = rollout.Name(name), value
	}
	return s.Call(control.HostPin, q, nil)
}

// unpin ends a host's pins, or that of one variable: unpin h3 [VAR].
func unpin(s *script, words []string) error {
	q := control.PinRequest{Host: rollout.Host(at(words, 0)), Why: why(nil, 0)}
	if len(words) > 1 {
		q.Variable = rollout.Name(words[1])
	}
	return s.Call(control.HostUnpin, q, nil)
}

// moment reads a time, or a duration from now.
func (s *script) moment(text string) (time.Time, error) {
	if t, err := readTime(text); err == nil {
		return t, nil
	}
	d, err := duration(text)
	return time.Now().Add(d), err
}

// moveTo lets time pass until a moment.
func moveTo(s *script, words []string) error {
	t, err := readTime(at(words, 0))
	if err != nil {
		return err
	}
	if !t.After(time.Now()) {
		return fmt.Errorf("it is %s already", time.Now().In(t.Location()).Format(time.RFC3339))
	}
	return s.pass(time.Until(t))
}

// plan asks for the plan of a rollout, or of the one below, for `expect
// told-as-planned`: plan up [confirm=10m].
func plan(s *script, words []string) error {
	plain, given := options(words)
	var q control.PlanRequest
	var err error
	if q.Confirm, err = rollout.ParseDuration(take(given, "confirm", "0s")); err != nil {
		return err
	}
	id := rollout.ID("")
	if len(plain) > 0 {
		id, q.ID = rollout.ID(plain[0]), rollout.ID(plain[0])
	} else {
		all, err := s.read()
		if err != nil {
			return err
		}
		if q.Rollout = all[0].Rollout; q.Rollout == nil || len(all) > 1 {
			return errors.New("want one rollout below it")
		}
		id = q.Rollout.Name
	}
	p := plannedAt{asked: time.Now()}
	err = errors.Join(nothingLeft(given), s.Call(control.RolloutPlan, q, &p.PlanView))
	s.plans[id] = p
	return err
}
