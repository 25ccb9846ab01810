package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// onSmallDisk gives the command line that runs a program with a disk of its
// own, mounted on dir where that program alone sees it. It needs no root where
// users may make namespaces.
func onSmallDisk(t *testing.T, dir, size string, argv ...string) []string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	own := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		own = append(own, "--user", "--map-root-user")
	}
	own = append(own, "--", "sh", "-c", `mount -t tmpfs -o "size=$1" tsunami-e2e "$2" && shift 2 && exec "$@"`, "sh", size, dir)
	return append(append(own, program(t, argv[0])), argv[1:]...)
}

// fill writes to the disk that the process sees at dir until nothing more goes
// in, and returns what takes it away again.
func (p *process) fill(dir string) (free func()) {
	p.t.Helper()
	name := filepath.Join(fmt.Sprintf("/proc/%d/root", p.cmd.Process.Pid), dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); err == nil {
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			p.t.Fatal(err)
		}
		block = block[:len(block)/2]
	}
	return func() {
		p.t.Helper()
		if err := os.Remove(name); err != nil {
			p.t.Error(err)
		}
	}
}

// TestFullDiskUnderAnAgent: the host takes nothing new, says so, and goes on by
// itself when there is space; the other host doesn't notice.
func TestFullDiskUnderAnAgent(t *testing.T) {
	const id, full, well = "flag-2", "full.example.net", "well.example.net"
	s := newSite(t)
	s.tsunamid()
	s.apply("flag.yaml", "kind: Variable\nname: flag\ntype: integer\ninitial: 1\n")
	_, config := s.fileEnactor(well, "flag")
	s.agent(well, "web", "enact:\n"+config)
	file, config := s.fileEnactor(full, "flag")
	state := filepath.Join(s.dir, "agents", full, "state")
	agent := start(t, s.dir, full, onSmallDisk(t, state, "256k", "tsunami-agent", "--config", write(t, filepath.Join(s.dir, "agents", full, "agent.yaml"), 0o644,
		fmt.Sprintf("server: %s\nhost: %s\nrole: web\nstate: %s\nenact:\n%s", s.url, full, state, config)))...)
	s.welcomed(well, full)

	free := agent.fill(state)
	s.apply("rollout.yaml", fmt.Sprintf("kind: Rollout\nname: %s\nvariable: flag\nto: 2\nramp: {over: 1s}\ninFlight: {max: 100%%, perRole: 100%%}\n", id))
	s.until(time.Minute, id, "has confirmed the host with space", func(v control.RolloutView) bool { return v.Told == 2 && v.Confirmed == 1 })
	eventually(t, 30*time.Second, "the agent says what is wrong", func() (bool, string) {
		return strings.Contains(agent.output(), "no space left"), agent.tail(2000)
	})
	if h := s.host(full); h.Generation != 2 || h.Actual["flag"].Text() != "1" {
		t.Errorf("%s: %+v", full, h)
	}
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Errorf("%s enacted what it couldn't keep: it runs %q, %v", full, b, err)
	}
	if v := s.rollout(id); v.State != rollout.StateRunning || len(v.Waiting) != 1 || v.Waiting[0].Host != full {
		t.Errorf("the rollout is %s and waits for %+v", v.State, v.Waiting)
	}
	free()
	s.until(2*time.Minute, id, "has completed", func(v control.RolloutView) bool { return v.State == rollout.StateCompleted })
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != "2" {
		t.Errorf("%s runs %q, %v", full, b, err)
	}
}

// TestFullDiskUnderTheBroker: nothing is told while nothing can be kept, a
// person sees why, and the rollout goes on when there is space, with nothing
// lost and nobody told twice.
func TestFullDiskUnderTheBroker(t *testing.T) {
	t.Parallel()
	t.Run("under steps", func(t *testing.T) { testFullDisk(newSite(t), false) })
	// A plain put fails in another way than a step does.
	t.Run("under an abort", func(t *testing.T) { testFullDisk(newSite(t), true) })
}

func testFullDisk(s *site, put bool) {
	const id, hosts = "flag-2", 6
	t := s.t
	data := filepath.Join(s.dir, "data")
	s.http = "http://" + freeAddress(t)
	server := start(t, s.dir, "tsunamid", onSmallDisk(t, data, "64m", "tsunamid",
		"--data", data, "--listen", s.address(), "--http", strings.TrimPrefix(s.http, "http://"))...)
	s.ready(server)
	s.apply("flag.yaml", "kind: Variable\nname: flag\ntype: integer\ninitial: 1\n")
	var names []string
	for i := range hosts {
		name := fmt.Sprintf("h%d.example.net", i+1)
		_, config := s.fileEnactor(name, "flag")
		s.agent(name, "web", "enact:\n"+config)
		names = append(names, name)
	}
	s.welcomed(names...)
	s.apply("rollout.yaml", fmt.Sprintf("kind: Rollout\nname: %s\nvariable: flag\nto: 2\nramp: {over: 6s}\ninFlight: {max: 100%%, perRole: 100%%}\n", id))
	s.until(time.Minute, id, "has told two hosts", func(v control.RolloutView) bool { return v.Told >= 2 })

	free := server.fill(data)
	s.warned("nothing is told")
	if put {
		// An abort of another rollout, for this one is to go on.
		if r := execute(t, s.dir, "nats", "--server", s.url, "--timeout", "2s", "kv", "put", "tsunami", "abort.another", strings.Repeat("x", 100_000)); r.code == 0 {
			t.Errorf("nats kv put on a full disk: %s", r)
		}
		eventually(t, time.Minute, "tsunamid says that its disk is full", func() (bool, string) {
			return strings.Contains(server.output(), "no space left"), server.tail(2000)
		})
	}
	if !server.running() {
		t.Fatal("tsunamid has ended")
	}
	free()
	done := s.until(2*time.Minute, id, "has completed", func(v control.RolloutView) bool { return v.State == rollout.StateCompleted })
	if done.Told != hosts || done.Confirmed != hosts {
		t.Errorf("it says of itself %+v", done)
	}
	js := s.stream()
	for _, name := range names {
		changes, _ := s.changes(js, name)
		if len(changes) != 2 || changes[1] == nil || changes[1].Desired.Generation != 2 || changes[1].Rollout != id {
			t.Errorf("%s: %d records, want its first document and the rollout's", name, len(changes))
		}
		if n := len(ask[[]control.AuditRecord](s, "audit", "--host", name)); n != 2 {
			t.Errorf("%s: %d audit records", name, n)
		}
	}
}
