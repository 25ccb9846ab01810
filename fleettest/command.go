package fleettest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// command carries one line of a script out.
type command func(s *script, words []string) error

// commands are the verbs of scripts; doc.go says what they do.
var commands map[string]command

func init() {
	commands = map[string]command{
		"hosts": addHosts, "join": addHosts, "apply": apply, "delete": remove, "start": startOrRelease,
		"approve": approve, "release": releaseHost, "rollback": rollBack, "pin": pin, "unpin": unpin, "as": as, "plan": plan, "at": moveTo,
		"pause":  change(control.RolloutPause),
		"cancel": change(control.RolloutCancel),
		"resume": resume, "abort": abort, "stop": stop, "decommission": decommission,
		"leave":  each(func(s *script, h rollout.Host) error { return s.SwitchOff(h) }),
		"return": each(func(s *script, h rollout.Host) error { return s.SwitchOn(h) }),
		"cut":    each(func(s *script, h rollout.Host) error { return s.Cut(h, true) }),
		"mend":   each(func(s *script, h rollout.Host) error { return s.Cut(h, false) }),
		"hang":   each(func(s *script, h rollout.Host) error { return s.Hang(h, true) }),
		"unhang": each(func(s *script, h rollout.Host) error { return s.Hang(h, false) }),
		"echoes": setEchoes, "scheduler": runScheduler, "guard": guard, "broker": runBroker, "put": put,
		"advance": advance, "until": until, "expect": expect, "refuse": refuse, "watch": watchLine, "unwatch": unwatch, "audit": checkAudit,
		"repeat": nil, // read by parseScript and run
	}
}

// options splits words into those without = and those with one.
func options(words []string) (plain []string, given map[string]string) {
	given = make(map[string]string)
	for _, w := range words {
		if key, value, ok := strings.Cut(w, "="); ok {
			given[key] = value
		} else {
			plain = append(plain, w)
		}
	}
	return plain, given
}

// take takes an option out of those given.
func take(given map[string]string, key, otherwise string) string {
	v, ok := given[key]
	delete(given, key)
	if !ok {
		return otherwise
	}
	return v
}

func number(s string) (float64, error) { return strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64) }

func addHosts(s *script, words []string) error {
	plain, given := options(words)
	n, err := strconv.Atoi(at(plain, 0))
	if err != nil {
		return fmt.Errorf("so many hosts: %w", err)
	}
	roles := strings.Split(take(given, "role", ""), ",")
	if r := take(given, "roles", ""); r != "" {
		count, err := strconv.Atoi(r)
		if err != nil {
			return fmt.Errorf("roles: %w", err)
		}
		roles = nil
		for i := range count {
			roles = append(roles, fmt.Sprintf("r%d", i+1))
		}
	}
	zones, err := strconv.Atoi(take(given, "zones", "1"))
	if err != nil || zones < 1 {
		return fmt.Errorf("zones: want 1 or more")
	}
	actual := make(rollout.Document)
	for name, v := range given {
		variable, err := rollout.ParseName(name)
		if err != nil {
			return err
		}
		if actual[variable], err = s.value(variable, v); err != nil {
			return err
		}
	}
	for i := range n {
		s.hosts++
		role, err := rollout.ParseWord("role", roles[i%len(roles)])
		if err != nil {
			return err
		}
		labels := map[rollout.Word]rollout.Word{"zone": rollout.Word(fmt.Sprintf("z%d", i/len(roles)%zones+1))}
		s.AddHost(rollout.Host(fmt.Sprintf("h%d", s.hosts)), role, labels, actual)
	}
	time.Sleep(time.Minute) // until they are known
	return nil
}

func (s *script) value(variable rollout.Name, text string) (rollout.Value, error) {
	return rollout.ParseValue(cmp.Or(s.types[variable], rollout.String), text)
}

// apply applies the documents below it, or makes a variable of a line.
func apply(s *script, words []string) error {
	if len(words) == 0 {
		return applyDocuments(s)
	}
	plain, given := options(words)
	name, err := rollout.ParseName(at(plain, 0))
	if err != nil {
		return err
	}
	v := rollout.Variable{Name: name, Type: rollout.Type(take(given, "type", "string")), Enact: take(given, "enact", "")}
	s.types[name] = v.Type
	if initial := take(given, "initial", ""); initial != "" {
		if v.Initial, err = s.value(name, initial); err != nil {
			return err
		}
	}
	if err := nothingLeft(given); err != nil {
		return err
	}
	return s.Call(control.Apply, control.ApplyRequest{Documents: []control.Document{{Variable: &v}}}, nil)
}

func nothingLeft(given map[string]string) error {
	for key := range given {
		return fmt.Errorf("%s= means nothing here", key)
	}
	return nil
}

// startOrRelease starts a rollout, or releases the red button.
func startOrRelease(s *script, words []string) error {
	plain, given := options(words)
	if len(given) == 0 {
		last, err := s.client.LastStop(s.T.Context())
		if err != nil {
			return err
		}
		if last == nil {
			return errors.New("nobody has pressed stop")
		}
		return s.Call(control.Start, control.ReleaseRequest{Why: at(plain, 0), Acknowledge: last.Sequence}, nil)
	}
	var spec rollout.Spec
	var err, bad error
	if spec.Name, err = rollout.ParseID("rollout", at(plain, 0)); err != nil {
		return err
	}
	if spec.Variable, err = rollout.ParseName(at(plain, 1)); err != nil {
		return err
	}
	if spec.To, err = s.value(spec.Variable, take(given, "to", "")); err != nil {
		return err
	}
	percent := func(key string) rollout.Percent {
		text := take(given, key, "")
		if text == "" {
			return 0
		}
		p, err := number(text)
		bad = errors.Join(bad, err)
		return rollout.Percent(p)
	}
	period := func(key string) rollout.Duration {
		d, err := rollout.ParseDuration(take(given, key, "0s"))
		bad = errors.Join(bad, err)
		return d
	}
	spec.Where = take(given, "where", "")
	spec.Ramp = rollout.Ramp{Over: period("over"), Percent: percent("percent")}
	spec.InFlight = rollout.InFlight{Max: percent("inFlight"), PerRole: percent("perRole")}
	spec.Settle = period("settle")
	spec.After = rollout.ID(take(given, "after", ""))
	spec.Supersedes = rollout.ID(take(given, "supersedes", ""))
	if w := take(given, "spread", ""); w != "" {
		for label := range strings.SplitSeq(w, ",") {
			spec.Spread = append(spec.Spread, rollout.Word(label))
		}
	}
	if text := take(given, "limit", ""); text != "" {
		l, err := limit(text)
		if err != nil {
			return err
		}
		spec.Limits = []rollout.Limit{l}
	}
	if err := errors.Join(bad, nothingLeft(given)); err != nil {
		return err
	}
	return s.Call(control.RolloutStart, control.StartRequest{Rollout: spec}, nil)
}

// limit reads "percent=30 atLeast=1 atMost=5 where=role == 'web'"; where takes
// the rest.
func limit(text string) (rollout.Limit, error) {
	var l rollout.Limit
	text, l.Where, _ = strings.Cut(text, "where=")
	_, given := options(strings.Fields(text))
	if p := take(given, "percent", ""); p != "" {
		n, err := number(p)
		if err != nil {
			return l, err
		}
		l.Percent = rollout.Percent(n)
	}
	var err, err2 error
	l.AtLeast, err = strconv.Atoi(take(given, "atLeast", "0"))
	if most := take(given, "atMost", ""); most != "" {
		var n int
		n, err2 = strconv.Atoi(most)
		l.AtMost = &n
	}
	return l, errors.Join(err, err2, nothingLeft(given))
}

func change(verb control.Verb) command {
	return func(s *script, words []string) error {
		return s.Call(verb, control.RolloutRequest{ID: rollout.ID(at(words, 0)), Why: strings.Join(words[min(1, len(words)):], " ")}, nil)
	}
}

// resume acknowledges the newest abort, if there is one.
func resume(s *script, words []string) error {
	q := control.RolloutRequest{ID: rollout.ID(at(words, 0)), Why: "resumed"}
	last, err := s.client.LastAbort(s.T.Context(), q.ID)
	if err != nil {
		return err
	}
	if last != nil {
		q.Acknowledge = last.Sequence
	}
	return s.Call(control.RolloutResume, q, nil)
}

func abort(s *script, words []string) error {
	_, err := s.Put(subjects.KindAbort, at(words, 0), at(words, 1))
	return err
}

func stop(s *script, words []string) error {
	_, err := s.Put(subjects.KindStop, "", at(words, 0))
	return err
}

// put writes a key by hand: put desired.h3 rubbish.
func put(s *script, words []string) error {
	kind, name, _ := strings.Cut(at(words, 0), ".")
	_, err := s.Put(subjects.Kind(kind), name, at(words, 1))
	return err
}

// each carries something out for each of the hosts that are named: h3 h5..h8.
func each(f func(s *script, h rollout.Host) error) command {
	return func(s *script, words []string) error {
		names, err := hostNames(words)
		for _, name := range names {
			err = errors.Join(err, f(s, name))
		}
		return err
	}
}

func hostNames(words []string) ([]rollout.Host, error) {
	var out []rollout.Host
	for _, w := range words {
		first, last, ok := strings.Cut(w, "..")
		if !ok {
			last = first
		}
		a, err1 := strconv.Atoi(strings.TrimPrefix(first, "h"))
		b, err2 := strconv.Atoi(strings.TrimPrefix(last, "h"))
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		for i := a; i <= b; i++ {
			out = append(out, rollout.Host(fmt.Sprintf("h%d", i)))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no host is named")
	}
	return out, nil
}

func decommission(s *script, words []string) error {
	return each(func(s *script, h rollout.Host) error {
		return s.Call(control.HostDecommission, control.HostRequest{Host: h, Why: "left"}, nil)
	})(s, words)
}

func setEchoes(s *script, words []string) error {
	_, given := options(words)
	var x Faults
	for key, share := range map[string]*float64{"lose": &x.Lose, "double": &x.Double, "reorder": &x.Reorder} {
		p, err := number(take(given, key, "0"))
		if err != nil {
			return err
		}
		*share = p / 100
	}
	s.Echoes(x)
	return nothingLeft(given)
}

func runScheduler(s *script, words []string) error {
	plain, given := options(words)
	switch strings.Join(plain, " ") {
	case "up":
		s.SchedulerUp()
	case "down":
		s.SchedulerDown()
	case "kill":
		s.SchedulerKill()
	case "blind":
		s.SchedulerBlind(true)
	case "sees":
		s.SchedulerBlind(false)
	case "kill in step":
		within, err := duration(take(given, "within", "2d"))
		if err != nil {
			return err
		}
		if !s.SchedulerKillInStep(within) {
			return errors.New("there was no step")
		}
	default:
		return errors.New("want up, down, kill, kill in step, blind or sees")
	}
	return nothingLeft(given)
}

func runBroker(s *script, words []string) error {
	switch at(words, 0) {
	case "down":
		s.BrokerDown()
	case "up":
		s.BrokerUp()
	case "restart":
		s.BrokerDown()
		s.BrokerUp()
	default:
		return errors.New("want up, down or restart")
	}
	return nil
}

// between draws from a range such as 1h..20h, to the minute, or reads a single
// duration.
func (s *script) between(text string) (time.Duration, error) {
	first, last, ok := strings.Cut(text, "..")
	a, err := duration(first)
	if err != nil || !ok {
		return a, err
	}
	b, err := duration(last)
	if err != nil {
		return 0, err
	}
	return a + time.Duration(s.Random.Float64()*float64(b-a)).Round(time.Minute), nil
}

// tick is the longest time between two checks.
const tick = time.Hour

// advance lets time pass, or a rollout go on faster.
func advance(s *script, words []string) error {
	if first := at(words, 0); first[0] < '0' || first[0] > '9' {
		return advanceRollout(s, words)
	}
	d, err := s.between(at(words, 0))
	if err != nil {
		return err
	}
	return s.pass(d)
}

// pass lets time pass, and checks now and then.
func (s *script) pass(d time.Duration) error {
	for d > 0 && !s.T.Failed() {
		time.Sleep(min(d, tick))
		d -= tick
		s.check()
	}
	return nil
}

func watchLine(s *script, words []string) error {
	plain, given := options(words)
	fleet, err1 := number(take(given, "fleet", "2"))
	role, err2 := number(take(given, "role", "1"))
	s.Checker.Watch(rollout.ID(at(plain, 0)), fleet, role)
	return errors.Join(err1, err2, nothingLeft(given))
}

func unwatch(s *script, words []string) error {
	s.Checker.Unwatch(rollout.ID(at(words, 0)))
	return nil
}

func checkAudit(s *script, _ []string) error {
	s.fault(s.CheckAudit())
	return nil
}

// refuse carries out another command, which must be refused, with because= for
// a reason that has this in it.
func refuse(s *script, words []string) error {
	because := ""
	if text, ok := strings.CutPrefix(at(words, 0), "because="); ok {
		because, words = text, words[1:]
	}
	f := commands[at(words, 0)]
	if f == nil {
		return fmt.Errorf("there is no command %q", at(words, 0))
	}
	err := f(s, words[1:])
	e, answered := errors.AsType[*control.Error](err)
	_, wrong := errors.AsType[*control.LocatedError](err)
	wrong = wrong || answered && (e.Code == control.Refused || e.Code == control.Usage || e.Code == control.NotFound)
	if !wrong || !strings.Contains(err.Error(), because) {
		return fmt.Errorf("it isn't refused: %v", err)
	}
	s.trace.printf("    refused: %v\n", err)
	return nil
}

// condition is one of an expectation's: told>=137, elapsed~3d, state=running.
type condition struct{ field, op, want string }

func parseConditions(words []string) ([]condition, error) {
	var out []condition
	for _, w := range words {
		i := strings.IndexAny(w, "=~<>")
		if i < 1 {
			return nil, fmt.Errorf("%q isn't a condition, such as told=3, told~150 or told<=5", w)
		}
		c := condition{field: w[:i], op: w[i : i+1], want: w[i+1:]}
		if strings.HasPrefix(c.want, "=") {
			c.op, c.want = c.op+"=", c.want[1:]
		}
		out = append(out, c)
	}
	return out, nil
}

// holds compares; near is what ~ allows. A text is near what it has in it.
func (c condition) holds(have string, near float64) (bool, error) {
	if c.op == "=" {
		return have == c.want, nil
	}
	if c.op == "~" && strings.IndexAny(c.want, "0123456789") != 0 {
		return strings.Contains(have, c.want), nil
	}
	quantity := func(s string) (float64, error) {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f, nil
		}
		d, err := duration(s)
		return d.Hours(), err
	}
	h, err := quantity(have)
	if err != nil {
		return false, err
	}
	w, err := quantity(c.want)
	if err != nil {
		return false, err
	}
	switch c.op {
	case "~":
		return math.Abs(h-w) <= near, nil
	case "<=":
		return h <= w, nil
	case ">=":
		return h >= w, nil
	}
	return false, fmt.Errorf("%q isn't a comparison", c.op)
}

// sortedKeys is for messages.
func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
