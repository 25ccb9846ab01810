package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// fileEnactor is the plainest variable: its value is a file's content.
func (s *site) fileEnactor(host, variable string) (file, config string) {
	s.t.Helper()
	enact := write(s.t, filepath.Join(s.dir, "enact-file"), 0o755, "#!/bin/sh\nprintf '%s\\n' \"$2\" >\"$1.new\" && mv \"$1.new\" \"$1\"\n")
	file = write(s.t, filepath.Join(s.dir, "files", host, variable), 0o644, "1\n")
	return file, fmt.Sprintf("  %s:\n    exec: [%s, %s]\n    observe: [cat, %s]\n    retry: {first: 500ms, max: 1s}\n", variable, enact, file, file)
}

// TestAbortFencesASleepingScheduler stops a scheduler in the middle of a
// rollout, aborts the rollout with the plain nats command while it sleeps, and
// wakes it when more hosts were due: it tells none of them anything. Broker and
// scheduler are processes of their own.
func TestAbortFencesASleepingScheduler(t *testing.T) {
	t.Parallel()
	brokers := map[string]func(s *site) *process{
		"tsunamid": func(s *site) *process {
			return start(s.t, s.dir, "broker", "tsunamid", "--run", "broker", "--data", filepath.Join(s.dir, "data"), "--listen", s.address())
		},
		// With the configuration that deploy/ ships.
		"nats-server": func(s *site) *process {
			b, err := os.ReadFile("../deploy/nats-server.conf")
			if err != nil {
				s.t.Fatal(err)
			}
			conf := string(b)
			for shipped, ours := range map[string]string{
				"listen: 127.0.0.1:4222\n":   "listen: " + s.address() + "\n",
				"http: 127.0.0.1:8222\n":     "http: " + freeAddress(s.t) + "\n",
				"store_dir: /var/lib/nats\n": "store_dir: \"" + filepath.Join(s.dir, "data") + "\"\n",
			} {
				if !strings.Contains(conf, shipped) {
					s.t.Fatalf("nats-server.conf has no line %q", shipped)
				}
				conf = strings.Replace(conf, shipped, ours, 1)
			}
			return start(s.t, s.dir, "broker", "nats-server", "--config", write(s.t, filepath.Join(s.dir, "nats-server.conf"), 0o644, conf))
		},
	}
	for name, broker := range brokers {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			testFence(s, broker(s))
		})
	}
}

func testFence(s *site, broker *process) {
	const (
		id    = "flag-2"
		hosts = 8
		over  = 12 * time.Second // a host every 1.5 s
	)
	t := s.t
	s.reachable(broker)
	scheduler := start(t, s.dir, "scheduler", "tsunamid", "--run", "scheduler", "--nats", s.url)
	s.serves()
	s.apply("flag.yaml", "kind: Variable\nname: flag\ntype: integer\ninitial: 1\n")
	var names []string
	for i := range hosts {
		name := fmt.Sprintf("h%d.example.net", i+1)
		_, config := s.fileEnactor(name, "flag")
		s.agent(name, "web", "enact:\n"+config)
		names = append(names, name)
	}
	s.welcomed(names...)
	s.apply("rollout.yaml", fmt.Sprintf("kind: Rollout\nname: %s\nvariable: flag\nto: 2\nramp: {over: %s}\ninFlight: {max: 100%%, perRole: 100%%}\n", id, over))
	s.until(time.Minute, id, "has told two hosts", func(v control.RolloutView) bool { return v.Told >= 2 })

	scheduler.signal(syscall.SIGSTOP)
	s.nats("kv", "put", "tsunami", "abort."+id, "users see errors")
	js := s.stream()
	aborts := s.revisions(js, subjects.KindAbort, id)
	if len(aborts) != 1 {
		t.Fatalf("%d revisions of the abort", len(aborts))
	}
	abort := aborts[0].Sequence
	before := s.told(js, names)
	// Meanwhile three more hosts come due.
	time.Sleep(over * 3 / hosts)
	scheduler.signal(syscall.SIGCONT)

	frozen := s.until(time.Minute, id, "is frozen", func(v control.RolloutView) bool { return v.State == rollout.StateFrozen })
	if frozen.Abort == nil || frozen.Abort.Sequence != abort || frozen.Abort.Why != "users see errors" {
		t.Errorf("the abort is %+v, want sequence %d and its reason", frozen.Abort, abort)
	}
	// Long enough for what would still be due, or on its way.
	time.Sleep(over * 2 / hosts)
	after := s.told(js, names)
	for host, sequence := range after {
		if sequence > abort {
			t.Errorf("%s was told at %d, after the abort at %d", host, sequence, abort)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d hosts were told the new value before the abort and %d after it", len(before), len(after))
	}

	// An abort that nobody has read isn't acknowledged.
	s.refused(3, []string{strconv.FormatUint(abort, 10)}, "rollout", "resume", id, "--acknowledge", strconv.FormatUint(abort-1, 10), "--why", "a guess")
	if v := s.rollout(id); v.State != rollout.StateFrozen {
		t.Errorf("it is %s after a refused resume", v.State)
	}
	s.must("rollout", "resume", id, "--acknowledge", strconv.FormatUint(abort, 10), "--why", "a false alarm")
	done := s.until(time.Minute, id, "has completed", func(v control.RolloutView) bool { return v.State == rollout.StateCompleted })
	if done.Told != hosts || done.Confirmed != hosts {
		t.Errorf("it says of itself %+v", done)
	}
	var trail []string
	for _, r := range ask[[]control.AuditRecord](s, "audit", "--rollout", id) {
		if r.Kind != string(subjects.KindDesired) {
			trail = append(trail, fmt.Sprintf("%s by %q: %s", r.Kind, r.Actor, r.Reason))
		}
	}
	if all := strings.Join(trail, "\n"); !strings.Contains(all, "users see errors") || !strings.Contains(all, "a false alarm") || !strings.Contains(all, operator) {
		t.Errorf("the audit log doesn't say why it was frozen, and why and by whom it was resumed:\n%s", all)
	}
	// What was held back came at the ramp's pace, not at once.
	var last time.Time
	for _, name := range names {
		changes, _ := s.changes(js, name)
		if len(changes) != 2 || changes[1] == nil || changes[1].Desired.Values["flag"].Text() != "2" {
			t.Fatalf("%s: %d records", name, len(changes))
		}
		if changes[1].Time.After(last) {
			last = changes[1].Time
		}
	}
	left := hosts - len(before)
	if took := last.Sub(frozen.Changed); took < over*time.Duration(left-2)/hosts {
		t.Errorf("the %d hosts left were told within %s of the freeze, with a ramp of %s for %d", left, took, over, hosts)
	}
}

// told are the hosts that were told flag 2, with the sequence of that.
func (s *site) told(js jetstream.JetStream, names []string) map[string]uint64 {
	s.t.Helper()
	told := map[string]uint64{}
	for _, name := range names {
		changes, sequences := s.changes(js, name)
		for i, c := range changes {
			if c != nil && c.Desired.Values["flag"].Text() == "2" {
				told[name] = sequences[i]
			}
		}
	}
	return told
}
