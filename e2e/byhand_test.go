package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// TestWrittenByHand overwrites and deletes what is the scheduler's own, with
// the plain nats command: no host is harmed, a person sees it, and what hosts
// were told is put back.
func TestWrittenByHand(t *testing.T) {
	const id = "flag-2"
	s := newSite(t)
	server := s.tsunamid()
	names := []string{"h1.example.net", "h2.example.net", "h3.example.net"}
	files := map[string]string{}
	agents := map[string]*process{}
	const variable = "kind: Variable\nname: flag\ntype: integer\nmin: 1\nmax: 2\ninitial: 1\n"
	s.apply("flag.yaml", variable)
	for _, name := range names {
		file, config := s.fileEnactor(name, "flag")
		files[name], agents[name] = file, s.agent(name, "web", "enact:\n"+config)
	}
	s.welcomed(names...)
	s.apply("rollout.yaml", fmt.Sprintf("kind: Rollout\nname: %s\nvariable: flag\nto: 2\nramp: {over: 3s}\ninFlight: {max: 100%%, perRole: 100%%}\n", id))
	s.must("rollout", "pause", id, "--why", "to try what hands can do")
	js := s.stream()

	damaged := func(name string, damage ...string) {
		t.Helper()
		told := s.value(js, name)
		at := s.last(js, subjects.KindDesired, name)
		s.nats(damage...)
		eventually(t, 30*time.Second, name+"'s document is put back", func() (bool, string) {
			changes, sequences := s.changes(js, name)
			c := changes[len(changes)-1]
			return c != nil && sequences[len(changes)-1] > at && c.Reason.Code == rollout.ByRestore, fmt.Sprintf("%d records, the last %+v", len(changes), c)
		})
		changes, _ := s.changes(js, name)
		c := changes[len(changes)-1]
		if got := c.Desired.Values["flag"].Text(); got != told || c.Desired.Values["other"].Text() != "" || len(c.Desired.Values) != 1 {
			t.Errorf("%s: put back as %v, want flag %s", name, c.Desired.Values, told)
		}
		if !strings.Contains(server.output(), "desired."+name) {
			t.Errorf("tsunamid's log doesn't name desired.%s", name)
		}
		eventually(t, 30*time.Second, name+" has taken it", func() (bool, string) {
			h := s.host(name)
			return h.Applied == h.Generation && h.Generation == c.Desired.Generation, fmt.Sprintf("%+v", h)
		})
		if b, err := os.ReadFile(files[name]); err != nil || strings.TrimSpace(string(b)) != told {
			t.Errorf("%s runs %q, want %s: %v", name, b, told, err)
		}
		if log := agents[name].output(); strings.Contains(log, "666") && !strings.Contains(log, "refus") {
			t.Errorf("%s's log doesn't say that it refused the document:\n%s", name, log)
		}
		found := false
		for _, r := range ask[[]control.AuditRecord](s, "audit", "--host", name) {
			found = found || r.Origin > at && r.Value.Text() == told && strings.Contains(r.Reason, "by hand")
		}
		if !found {
			t.Errorf("the audit log of %s doesn't say that its document was put back", name)
		}
	}
	damaged(names[0], "kv", "put", "tsunami", "desired."+names[0], `{"flag":666,"other":1}`)
	damaged(names[1], "kv", "del", "tsunami", "desired."+names[1], "--force")

	whole := func(how string) {
		t.Helper()
		eventually(t, 30*time.Second, "the rollout's record is put back after "+how, func() (bool, string) {
			all := s.revisions(js, subjects.KindRollout, id)
			m := all[len(all)-1]
			r, err := subjects.Decode[rollout.Record](m.Data)
			return err == nil && r.State == rollout.StatePaused && r.Spec.Name == id && !m.Header.Deleted(), fmt.Sprintf("%s %v", m.Data, err)
		})
		if v := s.rollout(id); v.State != rollout.StatePaused {
			t.Errorf("after %s it is %s", how, v.State)
		}
	}
	s.nats("kv", "put", "tsunami", "rollout."+id, "nonsense")
	whole("an overwrite")
	s.nats("kv", "del", "tsunami", "rollout."+id, "--force")
	whole("a delete")
	// One that looks right but wasn't written by the scheduler.
	forged := s.revisions(js, subjects.KindRollout, id)
	s.nats("kv", "put", "tsunami", "rollout."+id, strings.Replace(string(forged[len(forged)-1].Data), `"to":2`, `"to":1`, 1))
	whole("a forgery")
	if !strings.Contains(server.output(), "rollout."+id) {
		t.Errorf("tsunamid's log doesn't name rollout.%s", id)
	}

	s.nats("kv", "put", "tsunami", "variable.flag", "nonsense")
	s.warned("variable.flag")
	s.apply("flag.yaml", variable)
	eventually(t, 30*time.Second, "applying the variable's document again mends it", func() (bool, string) {
		all := s.revisions(js, subjects.KindVariable, "flag")
		_, err := subjects.Decode[rollout.Variable](all[len(all)-1].Data)
		return err == nil, fmt.Sprint(err)
	})
	s.nats("kv", "put", "tsunami_hosts", names[2], "nonsense")
	s.warned(names[2])
	for _, key := range []string{"progress." + id, "leader", "guard", "desired.UPPER", "desired.nobody.example.net", "rollout.-", "no-such-kind.x"} {
		s.nats("kv", "put", "tsunami", key, "nonsense")
	}
	s.nats("kv", "del", "tsunami", "leader", "--force")
	s.serves()

	// After all that the rollout goes its way.
	s.must("rollout", "resume", id, "--why", "hands off")
	done := s.until(time.Minute, id, "has completed", func(v control.RolloutView) bool { return v.State == rollout.StateCompleted })
	if done.Target != len(names) || done.Told != len(names) || done.Confirmed != len(names) {
		t.Errorf("it says of itself %+v", done)
	}
	for _, name := range names {
		if b, err := os.ReadFile(files[name]); err != nil || strings.TrimSpace(string(b)) != "2" {
			t.Errorf("%s runs %q, want 2: %v", name, b, err)
		}
		changes, _ := s.changes(js, name)
		n, generation := 0, uint64(0)
		for _, c := range changes {
			if c == nil {
				continue
			}
			if c.Rollout == id && c.Reason.Code != rollout.ByRestore {
				n++
			}
			if c.Desired.Generation != generation+1 {
				t.Errorf("%s: generation %d after %d", name, c.Desired.Generation, generation)
			}
			generation = c.Desired.Generation
		}
		if n != 1 {
			t.Errorf("%s was told %d times by the rollout", name, n)
		}
	}
	if !server.running() {
		t.Error("tsunamid has ended")
	}
}

// warned waits until the status names a thing among its warnings.
func (s *site) warned(what string) {
	s.t.Helper()
	eventually(s.t, time.Minute, "status warns of "+what, func() (bool, string) {
		var v control.StatusView
		if r := s.ctl("status", "-o", "json"); r.code != 0 || json.Unmarshal([]byte(r.stdout), &v) != nil {
			return false, r.String()
		}
		return strings.Contains(strings.Join(v.Warnings, "\n"), what), strings.Join(v.Warnings, "\n")
	})
}

// last is the sequence of a key's newest revision.
func (s *site) last(js jetstream.JetStream, kind subjects.Kind, name string) uint64 {
	s.t.Helper()
	all := s.revisions(js, kind, name)
	return all[len(all)-1].Sequence
}

// value is the flag that a host was last told by the scheduler.
func (s *site) value(js jetstream.JetStream, name string) string {
	s.t.Helper()
	changes, _ := s.changes(js, name)
	for i := len(changes) - 1; i >= 0; i-- {
		if changes[i] != nil && changes[i].Reason.Code != rollout.ByRestore {
			return changes[i].Desired.Values["flag"].Text()
		}
	}
	s.t.Fatalf("%s was never told anything", name)
	return ""
}
