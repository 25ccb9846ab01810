package hostagent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// obstruct makes writing a file fail, for root too, as a full disk does.
func obstruct(t *testing.T, path string) (clear func()) {
	t.Helper()
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.MkdirAll(filepath.Join(temp, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(temp, filepath.Join(filepath.Dir(path), "cleared")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	r := newRig(t)
	r.start()
	r.tell(change(1, "a", docker("1"), nil))
	r.enacted(1, "docker_version", "1")
	await(t, "the state", func() bool {
		s, err := loadState(r.o.Config.State, "h1")
		return err == nil && s.fulfilled("docker_version")
	})
	clear := obstruct(t, filepath.Join(r.o.Config.State, stateFile))
	r.tell(change(2, "b", docker("2"), nil))
	p := r.reported("not taken", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Retrying })
	if e := p.Enact["docker_version"]; p.Generation != 1 || e.Generation != 2 || !strings.Contains(e.Error, "generation 2 isn't taken") {
		t.Errorf("%+v", p)
	}
	r.event("refused", func(e subjects.HealthEvent) bool {
		return e.Kind == subjects.HealthRefused && e.Generation == 2 && e.Rollout == "b" && strings.Contains(e.Output, "can't be put on disk")
	})
	if b, err := os.ReadFile(filepath.Join(r.o.Config.State, desiredFile)); err != nil || !strings.Contains(string(b), `"1"`) {
		t.Errorf("desired.json: %s, %v", b, err)
	}
	// A newer one takes its place in the queue.
	r.tell(change(3, "c", docker("3"), nil))
	clear()
	r.enacted(3, "docker_version", "3")
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1", "docker_version=3"}) {
		t.Errorf("enacted %v", sets)
	}
}

// Nothing is enacted while the files that enactors may read are behind.
func TestUnwritableFacts(t *testing.T) {
	r := newRig(t)
	r.o.Config.Facts = filepath.Join(t.TempDir(), "tsunami.json")
	clear := obstruct(t, r.o.Config.Facts)
	r.start()
	r.tell(change(1, "a", rollout.Document{"docker_version": str("1"), "file_only": str("x")}, nil))
	p := r.reported("the fault", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Retrying })
	if p.Generation != 1 || !strings.Contains(p.Enact["file_only"].Error, "can't be written") || p.Enact["file_only"].Status == rollout.Unenacted {
		t.Errorf("%+v", p)
	}
	if sets := r.m.setTo(); len(sets) != 0 {
		t.Errorf("enacted %v", sets)
	}
	clear()
	p = r.enacted(1, "docker_version", "1")
	if p.Enact["file_only"].Status != rollout.Unenacted {
		t.Errorf("%+v", p.Enact)
	}
}

// An agent whose state file is damaged takes nothing, and says so; a person
// decides.
func TestDamagedState(t *testing.T) {
	r := newRig(t)
	stop := r.start()
	r.tell(change(1, "a", docker("1"), nil))
	r.enacted(1, "docker_version", "1")
	stop()

	path := filepath.Join(r.o.Config.State, stateFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	r.tell(change(2, "b", docker("2"), nil))
	stop = r.start()
	p := r.reported("the fault", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.EnactFail })
	if e := p.Enact["docker_version"]; p.Generation != 0 || e.Generation != 2 || !strings.Contains(e.Error, path) {
		t.Errorf("%+v", p)
	}
	if p.Actual["docker_version"] != str("1") {
		t.Errorf("it doesn't observe: %+v", p)
	}
	r.event("refused", func(e subjects.HealthEvent) bool {
		return e.Kind == subjects.HealthRefused && e.Generation == 2 && strings.Contains(e.Output, "remove it to start as a new host")
	})
	if !strings.Contains(r.log.String(), "the state file can't be used") {
		t.Error("the log doesn't say so")
	}
	stop()
	if b, err := os.ReadFile(path); err != nil || string(b) != string(good[:len(good)/2]) {
		t.Error("the damaged file was touched")
	}

	// Removed, the host starts anew and takes the newest.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.enacted(2, "docker_version", "2")
}

func TestStateDirectoryFaults(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := r.o
	o.Config.State = file
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Errorf("a file in the directory's place: %v", err)
	}
	o = r.o
	o.Config.Role = ""
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "role: is missing") {
		t.Errorf("no role: %v", err)
	}
	r.start()
	r.reported("any", func(p *rollout.Report) bool { return p.Boot != "" })
	if err := Run(t.Context(), r.o); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent: %v", err)
	}
}
