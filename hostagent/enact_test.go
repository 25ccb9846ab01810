package hostagent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func failing(program string) func(Command) error {
	return func(c Command) error {
		if c.Args[0] == program {
			return errors.New("exit status 1")
		}
		return nil
	}
}

func TestRetriesUntilItSucceeds(t *testing.T) {
	r := newRig(t)
	r.m.fault = failing("set")
	r.start()
	r.tell(change(1, "a", docker("1"), nil))
	p := r.reported("failed for good", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.EnactFail })
	if e := p.Enact["docker_version"]; e.Attempts < 3 || e.Generation != 1 || e.Error != "exit status 1: it said no" {
		t.Errorf("%+v", e)
	}
	if p.Generation != 1 {
		t.Errorf("the document counts as not taken: %+v", p)
	}
	var statuses []string
	await(t, "three events", func() bool {
		statuses = nil
		for _, e := range r.events() {
			statuses = append(statuses, e.Status)
		}
		return len(statuses) >= 3
	})
	// It goes on trying.
	r.m.with(func() { r.m.fault = nil })
	if p := r.enacted(1, "docker_version", "1"); p.Enact["docker_version"].Attempts < 4 || p.Enact["docker_version"].Error != "" {
		t.Errorf("%+v", p.Enact)
	}
	await(t, "the success", func() bool {
		all := r.events()
		statuses = nil
		for _, e := range all {
			statuses = append(statuses, e.Status)
		}
		return statuses[len(statuses)-1] == "enacted"
	})
	if want := []string{"retrying", "retrying", "failed", "enacted"}; !slices.Equal(statuses, want) {
		t.Errorf("events %v, want %v", statuses, want)
	}
}

// Success is what observe says, not the exit status.
func TestObserveDecides(t *testing.T) {
	r := newRig(t)
	r.o.Exec = func(ctx context.Context, c Command) Result {
		if c.Args[0] == "set" && c.Args[2] == "exits-0" {
			return Result{} // and does nothing
		}
		res := r.m.run(ctx, c)
		if c.Args[0] == "set" {
			res.Err = errors.New("exit status 7")
		}
		return res
	}
	r.start()
	r.tell(change(1, "a", docker("exits-0"), nil))
	p := r.reported("failed", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.EnactFail })
	if e := p.Enact["docker_version"].Error; e != `the enactor exited with 0, but observe says ""` {
		t.Errorf("error %q", e)
	}
	r.tell(change(2, "b", docker("exits-7"), nil))
	r.enacted(2, "docker_version", "exits-7")
}

func TestObservation(t *testing.T) {
	for _, tt := range []struct{ out, want, err string }{
		{"1.2\n", "1.2", ""},
		{"  1.2 \r\n", "1.2", ""},
		{"", "", ""},
		{" \n\n", "", ""},
		{"a\nb\n", "", "printed 2 lines"},
		{"a\x00b", "", "control characters"},
		{"\xff", "", "UTF-8"},
		{strings.Repeat("x", 1025), "", "1025 bytes"},
	} {
		v, err := observation(Result{Stdout: tt.out})
		if v.Text() != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q, %v", tt.out, v.Text(), err)
		}
	}
	if _, err := observation(Result{Stdout: "1.2", Err: errors.New("exit status 1")}); err == nil {
		t.Error("a failed observer is believed")
	}
}

// An observer that fails after the enactor: not a success, and said so.
func TestObserverFails(t *testing.T) {
	r := newRig(t)
	r.m.fault = failing("get")
	r.start()
	r.reported("unobserved", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Unobserved })
	r.tell(change(1, "a", docker("1"), nil))
	p := r.reported("failed", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.EnactFail })
	if e := p.Enact["docker_version"].Error; !strings.Contains(e, "observing failed: exit status 1: it said no") {
		t.Errorf("error %q", e)
	}
	if _, ok := p.Actual["docker_version"]; ok {
		t.Errorf("actual %v", p.Actual)
	}
}

func TestTypedValues(t *testing.T) {
	r := newRig(t)
	r.start()
	five := parsed(rollout.Integer, "5")
	r.tell(change(1, "a", rollout.Document{"docker_version": five, "flag": parsed(rollout.Boolean, "true")}, nil))
	p := r.enacted(1, "docker_version", "5")
	if p.Actual["docker_version"] != five {
		t.Errorf("actual is %#v", p.Actual["docker_version"])
	}
	p = r.enacted(1, "flag", "true")
	if p.Actual["flag"] != parsed(rollout.Boolean, "true") {
		t.Errorf("actual is %#v", p.Actual["flag"])
	}
}

// Two variables, one enactor at a time, and what isn't configured.
func TestSerialAndUnenacted(t *testing.T) {
	r := newRig(t)
	hold := make(chan struct{})
	r.m.hold = hold
	r.start()
	r.tell(change(1, "a", rollout.Document{"docker_version": str("1"), "flag": str("on"), "other": str("x")}, nil))
	first := <-r.m.begun
	p := r.reported("enacting", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Enacting })
	if p.Enact["other"].Status != rollout.Unenacted || p.Enact["flag"].Status != rollout.Enacting || p.Enact["flag"].Attempts != 0 {
		t.Errorf("%+v", p.Enact)
	}
	r.event("unenacted", func(e subjects.HealthEvent) bool { return e.Variable == "other" && e.Status == "unenacted" })
	select {
	case second := <-r.m.begun:
		t.Fatalf("%s runs beside %s", second, first)
	case <-time.After(100 * time.Millisecond):
	}
	close(hold)
	r.enacted(1, "docker_version", "1")
	r.enacted(1, "flag", "on")
}

// Later drift is reported, not repaired, over restarts too.
func TestDrift(t *testing.T) {
	r := newRig(t)
	stop := r.start()
	r.tell(change(1, "a", docker("1"), nil))
	r.enacted(1, "docker_version", "1")
	r.m.with(func() { r.m.values["docker_version"] = "0.5" })
	drifted := func(p *rollout.Report) bool {
		return p.Enact["docker_version"].Status == rollout.DriftedOff && p.Actual["docker_version"] == str("0.5")
	}
	r.reported("drifted", drifted)
	r.event("drifted", func(e subjects.HealthEvent) bool { return e.Status == "drifted" })
	stop()
	boot := r.report().Boot
	r.start()
	r.reported("drifted after the restart", func(p *rollout.Report) bool { return p.Boot != boot && drifted(p) })
	// A document that changes something else doesn't touch it.
	r.tell(change(2, "b", rollout.Document{"docker_version": str("1"), "flag": str("on")}, map[rollout.Name]uint64{"docker_version": 1}))
	r.enacted(2, "flag", "on")
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1", "flag=on"}) {
		t.Errorf("enacted %v", sets)
	}
	// Told anew, it is enacted.
	r.tell(change(3, "c", rollout.Document{"docker_version": str("1"), "flag": str("on")}, map[rollout.Name]uint64{"flag": 2}))
	r.enacted(3, "docker_version", "1")
}

// A newer document interrupts the wait for a retry.
func TestNewerInterruptsTheWait(t *testing.T) {
	r := newRig(t)
	e := r.o.Config.Enact["docker_version"]
	e.Retry.First, e.Retry.Max = rollout.Duration(time.Hour), rollout.Duration(time.Hour)
	r.o.Config.Enact["docker_version"] = e
	r.m.fault = func(c Command) error {
		if c.Args[0] == "set" && c.Args[2] == "bad" {
			return errors.New("exit status 1")
		}
		return nil
	}
	r.start()
	r.tell(change(1, "a", docker("bad"), nil))
	r.reported("retrying", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Retrying })
	r.tell(change(2, "b", docker("good"), nil))
	p := r.enacted(2, "docker_version", "good")
	if p.Enact["docker_version"].Attempts != 1 {
		t.Errorf("%+v", p.Enact)
	}
}

// A newer document lets the running enactor finish, and then has its turn.
func TestNewerWaitsForTheEnactor(t *testing.T) {
	r := newRig(t)
	hold := make(chan struct{})
	r.m.hold = hold
	r.start()
	r.tell(change(1, "a", docker("1"), nil))
	<-r.m.begun
	r.tell(change(2, "b", docker("2"), nil))
	r.tell(change(3, "c", docker("3"), nil))
	r.reported("the newer one taken", func(p *rollout.Report) bool { return p.Generation == 3 })
	close(hold)
	r.enacted(3, "docker_version", "3")
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1", "docker_version=3"}) {
		t.Errorf("enacted %v", sets)
	}
	r.m.with(func() {
		if !slices.Contains(r.m.sets[1].Env, "TSUNAMI_PREVIOUS=2") {
			t.Errorf("environment %q", r.m.sets[1].Env)
		}
	})
	r.event("the older one's result", func(e subjects.HealthEvent) bool { return e.Value == str("1") && e.Generation == 1 && e.Rollout == "a" })
}

// Killed with kill -9 at any point is: another agent starts on what is on
// disk. Here is every state that the disk can be in around one change.
func TestContinuesAfterAKill(t *testing.T) {
	taken := (&state{Format: stateFormat, Host: "h1"}).with(change(1, "a", docker("1"), nil))
	done := taken.withEnacted("docker_version", enactedValue{str("1"), 1})
	for _, tt := range []struct {
		name string
		st   *state
		runs string
		want []string // what is enacted
		end  rollout.EnactStatus
	}{
		{"before the document was on disk", nil, "0", []string{"docker_version=1"}, rollout.Enacted},
		{"before the enactor", taken, "0", []string{"docker_version=1"}, rollout.Enacted},
		{"after the enactor, before that was on disk", taken, "1", nil, rollout.Enacted},
		{"after all", done, "1", nil, rollout.Enacted},
		{"after all, and drifted since", done, "0", nil, rollout.DriftedOff},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.st != nil {
				if err := (&agent{Options: r.o}).save(tt.st); err != nil {
					t.Fatal(err)
				}
			}
			// A file half-written when it was killed is in nobody's way.
			if err := os.WriteFile(filepath.Join(r.o.Config.State, "."+stateFile+".tmp"), []byte(`{"for`), 0o600); err != nil {
				t.Fatal(err)
			}
			r.m.values["docker_version"] = tt.runs
			r.tell(change(1, "a", docker("1"), nil))
			r.start()
			r.reported(string(tt.end), func(p *rollout.Report) bool {
				return p.Generation == 1 && p.Enact["docker_version"].Status == tt.end
			})
			if sets := r.m.setTo(); !slices.Equal(sets, tt.want) {
				t.Errorf("enacted %v, want %v", sets, tt.want)
			}
			if b, err := os.ReadFile(filepath.Join(r.o.Config.State, desiredFile)); err != nil || string(b) != `{"docker_version":"1"}`+"\n" {
				t.Errorf("desired.json: %q, %v", b, err)
			}
		})
	}
}

// Without an observer, what was enacted last is what the host runs; it
// outlives the agent.
func TestWithoutObserver(t *testing.T) {
	r := newRig(t)
	stop := r.start()
	r.tell(change(1, "a", rollout.Document{"flag": str("on")}, nil))
	r.enacted(1, "flag", "on")
	stop()
	before := r.report().Boot
	r.start()
	p := r.reported("after the restart", func(p *rollout.Report) bool { return p.Boot != before })
	if p.Actual["flag"] != str("on") || p.Enact["flag"].Status != rollout.Enacted {
		t.Errorf("%+v", p)
	}
	if sets := r.m.setTo(); len(sets) != 1 {
		t.Errorf("enacted %v", sets)
	}
}

func TestStopsCleanly(t *testing.T) {
	t.Run("the enactor ends in time", func(t *testing.T) {
		r := newRig(t)
		hold := make(chan struct{})
		r.m.hold = hold
		stop := r.start()
		r.tell(change(1, "a", docker("1"), nil))
		<-r.m.begun
		time.AfterFunc(50*time.Millisecond, func() { close(hold) })
		stop()
		if p := r.report(); p.Enact["docker_version"].Status != rollout.Enacted {
			t.Errorf("the last report is %+v", p)
		}
	})
	t.Run("the enactor hangs", func(t *testing.T) {
		r := newRig(t)
		r.m.hold = make(chan struct{})
		r.o.Grace = 50 * time.Millisecond
		stop := r.start()
		r.tell(change(1, "a", docker("1"), nil))
		<-r.m.begun
		stop()
		r.m.with(func() { r.m.hold = nil })
		r.start()
		r.enacted(1, "docker_version", "1")
	})
}

// Real programs that misbehave.
func TestRealPrograms(t *testing.T) {
	r := newRig(t)
	r.o.Exec = nil
	file := filepath.Join(t.TempDir(), "value")
	ms := rollout.Duration(time.Millisecond)
	retry := Retry{First: 10 * ms, Max: 20 * ms, Attempts: 2}
	script := func(s string) []string { return []string{"/bin/sh", "-c", s, "sh"} }
	r.o.Config.Enact = map[rollout.Name]Enactor{
		"good":  {Exec: script(`printf %s "$TSUNAMI_VALUE" >` + file), Observe: script("cat " + file + " 2>/dev/null || true"), Retry: retry},
		"hangs": {Exec: script("sleep 600"), Timeout: 200 * ms, Retry: retry},
		"loud":  {Exec: script(`i=0; while [ $i -lt 100 ]; do printf '%065536d' 0; i=$((i+1)); done; echo the last words >&2; exit 1`), Retry: retry},
		"gone":  {Exec: []string{"/nowhere/enactor"}, Retry: retry},
		"plain": {Exec: []string{file}, Retry: retry},
	}
	r.start()
	value := str(`$(touch /x); "it's"`)
	r.tell(change(1, "a", rollout.Document{"good": value, "hangs": str("x"), "loud": str("x"), "gone": str("x"), "plain": str("x")}, nil))
	p := r.reported("all came to a result", func(p *rollout.Report) bool {
		for _, n := range []rollout.Name{"hangs", "loud", "gone", "plain"} {
			if p.Enact[n].Status != rollout.EnactFail {
				return false
			}
		}
		return p.Enact["good"].Status == rollout.Enacted
	})
	if p.Actual["good"] != value {
		t.Errorf("the value arrived as %q", p.Actual["good"].Text())
	}
	for name, want := range map[rollout.Name]string{
		"hangs": "longer than its timeout of 200ms", "loud": "the last words", "gone": "isn't there", "plain": "can't be executed",
	} {
		if e := p.Enact[name].Error; !strings.Contains(e, want) || len(e) > maxError {
			t.Errorf("%s: %d bytes: %q", name, len(e), e)
		}
		e := r.event(string(name), func(e subjects.HealthEvent) bool { return e.Variable == name && e.Status == "failed" })
		if !strings.Contains(e.Output, want) || len(e.Output) > maxOutput {
			t.Errorf("%s: event of %d bytes: %q", name, len(e.Output), e.Output)
		}
	}
}
