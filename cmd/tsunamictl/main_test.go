package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func TestMain(m *testing.M) {
	zone = time.UTC
	testscript.Main(m, map[string]func(){"tsunamictl": func() { os.Exit(mainCode()) }})
}

// The scripts run the program itself against a broker, and a scheduler that
// only answers.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"end-scheduler": func(ts *testscript.TestScript, _ bool, _ []string) { ts.Value("scheduler").(func())() },
			"exits":         exits,
			"record": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(recordEvidence(ts.Value("js").(jetstream.JetStream)))
			},
		},
		Setup: func(env *testscript.Env) error {
			b, err := broker.Start(broker.Options{Dir: filepath.Join(env.WorkDir, ".broker"), Listen: "127.0.0.1:0", Unsynced: true})
			if err != nil {
				return err
			}
			env.Defer(b.Shutdown)
			nc, err := bus.Connect(bus.ConnectOptions{InProcess: b.InProcess()})
			if err != nil {
				return err
			}
			env.Defer(nc.Close)
			js, err := jetstream.New(nc)
			if err != nil {
				return err
			}
			if err := bus.Setup(t.Context(), js, 1); err != nil {
				return err
			}
			if err := seed(t, js); err != nil {
				return err
			}
			stop, err := control.Serve(t.Context(), nc, "0.3.0", newFake().handle)
			if err != nil {
				return err
			}
			env.Defer(stop)
			env.Values["scheduler"], env.Values["js"] = stop, js
			env.Setenv("TSUNAMI_SERVER", b.ClientURL())
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second a command otherwise
			return nil
		},
	})
}

// exits runs a command that is to end with an exit code: exits 4 tsunamictl …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENT…")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// seed writes what the scheduler would have: rollouts, and a change that
// one of them made; and what became of another host long ago.
func seed(t *testing.T, js jetstream.JetStream) error {
	told := rollout.Told{Rollout: "docker-1-12-3", Generation: 2, Time: then}
	c := subjects.Change{
		Host: "web1.lon2.example.net", Variable: "docker_version", Previous: text("1.9"), Rollout: "docker-1-12-3", Actor: "alice", Time: then,
		Reason:  rollout.Reason{Code: rollout.ByRamp, Role: "web", Position: 3, Target: 10, Share: 0.25},
		Desired: rollout.Desired{Generation: 2, Values: rollout.Document{"docker_version": text("1.10")}, Told: map[rollout.Name]rollout.Told{"docker_version": told}},
	}
	h, body, err := c.Encode()
	if err != nil {
		return err
	}
	all := []bus.Message{{Subject: subjects.KindDesired.Subject(string(c.Host)), Header: h, Data: body}}
	old := subjects.Change{Host: "old.example.net", Actor: rollout.Scheduler, Time: time.Date(2025, 3, 1, 10, 0, 0, 0, time.UTC), Reason: rollout.Reason{Code: rollout.ByFirst}}
	for i, v := range []string{"1.8", "1.9", ""} {
		old.Desired = rollout.Desired{
			Generation: uint64(i + 1), Values: rollout.Document{"docker_version": text(v)},
			Told: map[rollout.Name]rollout.Told{"docker_version": {Rollout: old.Rollout, Generation: uint64(i + 1), Time: old.Time}},
		}
		old.Decommissioned = v == ""
		h, body, err := old.Encode()
		if err != nil {
			return err
		}
		all = append(all, bus.Message{Subject: subjects.KindDesired.Subject(string(old.Host)), Header: h, Data: body})
		old.Time = old.Time.Add(24 * time.Hour)
		old.Variable, old.Previous, old.Rollout, old.Actor, old.Reason = "docker_version", text(v), "docker-1-9", "alice", c.Reason
		if i == 1 {
			old.Variable, old.Previous, old.Rollout, old.Actor = "", rollout.Value{}, "", "bob"
			old.Reason = rollout.Reason{Code: rollout.Decommissioned, Detail: "sold"}
		}
	}
	bare := subjects.Change{
		Host: "bare.example.net", Actor: rollout.Scheduler, Time: then, Reason: rollout.Reason{Code: rollout.ByFirst},
		Desired: rollout.Desired{Generation: 1, Values: rollout.Document{"docker_version": text("1.9")}, Told: map[rollout.Name]rollout.Told{"docker_version": {Generation: 1, Time: then}}},
	}
	for range 2 {
		h, body, err := bare.Encode()
		if err != nil {
			return err
		}
		all = append(all, bus.Message{Subject: subjects.KindDesired.Subject(string(bare.Host)), Header: h, Data: body})
		bare.Time, bare.Desired = then.Add(time.Hour), rollout.Desired{Generation: 2, Values: rollout.Document{}}
		bare.Variable, bare.Previous, bare.Rollout, bare.Actor, bare.Reason = "docker_version", text("1.9"), "no-docker", "carol", c.Reason
	}
	for _, id := range []rollout.ID{"docker-1-12-3", "agent-2", "done", "over"} {
		b, err := subjects.Encode(rollout.Record{Spec: *running().Spec, State: rollout.StateRunning, Why: "started", By: "alice", Author: "alice", Changed: then})
		if err != nil {
			return err
		}
		all = append(all, bus.Message{Subject: subjects.KindRollout.Subject(string(id)), Data: b})
	}
	for _, m := range all {
		if _, err := bus.Put(t.Context(), js, m); err != nil {
			return err
		}
	}
	for { // the log is sourced a moment later
		n, err := bus.LastSequence(t.Context(), js, subjects.AuditStream)
		if err != nil || n == uint64(len(all)) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
