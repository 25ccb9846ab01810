package hostagent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// A value is one argument and one variable of the environment, whatever is in it:
// no shell ever reads it.
func TestValuesNeverReachAShell(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	out, canary := filepath.Join(dir, "out"), filepath.Join(dir, "canary")
	program := filepath.Join(dir, "enact")
	script := "#!/bin/sh\nprintf '%s\\0%s\\0%s' \"$#\" \"$2\" \"$TSUNAMI_VALUE\" >" + out + ".new && mv " + out + ".new " + out + "\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r.o.Exec = nil
	r.o.Config.Enact = map[rollout.Name]Enactor{"docker_version": {Exec: []string{program, "first argument"}}}
	r.start()
	values := []string{
		"$(touch " + canary + ")", "`touch " + canary + "`", "; touch " + canary, "| touch " + canary, "&& touch " + canary,
		"x' ; touch " + canary + " ; '", `x" ; touch ` + canary + ` ; "`, "> " + canary, "--help", "-rf /", "*", "~", "${HOME}", `\`, " a  b ", "",
	}
	for i, v := range values {
		r.tell(change(uint64(i+1), "a", docker(v), nil))
		want := []string{"2", v, v}
		var got []string
		await(t, "the program to be run with "+v, func() bool {
			b, _ := os.ReadFile(out)
			got = strings.Split(string(b), "\x00")
			return slices.Equal(got, want)
		})
	}
	if _, err := os.Lstat(canary); err == nil {
		t.Error("a value was run")
	}
}

// What no argument can hold, and what would be two lines of a file, is no value.
func TestControlCharactersAreNoValues(t *testing.T) {
	r := newRig(t)
	r.start()
	r.reported("the first", func(p *rollout.Report) bool { return p.Boot != "" })
	for i, body := range []string{`{"docker_version":"a\u0000b"}`, `{"docker_version":"a\nb"}`, `{"docker_version":"a\u001bb"}`} {
		h, _, err := change(uint64(i+1), "a", docker("x"), nil).Encode()
		if err != nil {
			t.Fatal(err)
		}
		r.put(subjects.KindDesired.Subject("h1"), h, []byte(body))
		await(t, "a refusal of "+body, func() bool {
			n := 0
			for _, e := range r.events() {
				if e.Kind == subjects.HealthRefused && strings.Contains(e.Output, "control characters") {
					n++
				}
			}
			return n == i+1
		})
	}
	if sets := r.m.setTo(); len(sets) != 0 {
		t.Errorf("enacted %v", sets)
	}
}

// Somebody who may write into a directory in which the agent writes can't have
// it write, or read, elsewhere.
func TestLinksAreNotFollowed(t *testing.T) {
	const kept = "somebody's own\n"
	for _, tt := range []struct {
		name string
		lay  func(t *testing.T, dir, victim string)
	}{
		{"a link in the place of desired.json", func(t *testing.T, dir, victim string) { link(t, victim, filepath.Join(dir, desiredFile)) }},
		{"a link in the place of its temporary name", func(t *testing.T, dir, victim string) {
			link(t, victim, filepath.Join(dir, "."+desiredFile+".tmp"))
		}},
		{"a link in the place of the state's temporary name", func(t *testing.T, dir, victim string) {
			link(t, victim, filepath.Join(dir, "."+stateFile+".tmp"))
		}},
		{"a hard link in the place of the state's temporary name", func(t *testing.T, dir, victim string) {
			if err := os.Link(victim, filepath.Join(dir, "."+stateFile+".tmp")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link within the directory", func(t *testing.T, dir, _ string) { link(t, stateFile, filepath.Join(dir, "."+desiredFile+".tmp")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte(kept), 0o644); err != nil {
				t.Fatal(err)
			}
			tt.lay(t, r.o.Config.State, victim)
			r.start()
			r.tell(change(1, "a", docker("1"), nil))
			r.enacted(1, "docker_version", "1")
			if b, err := os.ReadFile(victim); err != nil || string(b) != kept {
				t.Errorf("the victim is now %q, %v", b, err)
			}
			for _, name := range []string{stateFile, desiredFile} {
				if info, err := os.Lstat(filepath.Join(r.o.Config.State, name)); err != nil || !info.Mode().IsRegular() {
					t.Errorf("%s: %v, %v: want a file", name, info, err)
				}
			}
			if s, err := loadState(r.o.Config.State, "h1"); err != nil || s.Generation != 1 {
				t.Errorf("the state is %+v, %v", s, err)
			}
		})
	}
}

// A state file that isn't one in the state directory is as a damaged one.
func TestStateElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name string
		lay  func(t *testing.T, path string)
	}{
		{"a link to another directory", func(t *testing.T, path string) {
			elsewhere := filepath.Join(t.TempDir(), stateFile)
			s := (&state{Format: stateFormat, Host: "h1"}).with(change(9, "a", docker("9"), nil))
			b, err := s.encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(elsewhere, b, 0o600); err != nil {
				t.Fatal(err)
			}
			link(t, elsewhere, path)
		}},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"a pipe", makePipe},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.lay(t, filepath.Join(dir, stateFile))
			done := make(chan error, 1)
			go func() {
				_, err := loadState(dir, "h1")
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil {
					t.Error("it was read")
				}
			case <-time.After(10 * time.Second):
				t.Fatal("reading it doesn't end")
			}
		})
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func makePipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
