package scheduler

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// refused starts a scheduler that must not, and returns why it doesn't.
func (r *rig) refused() error {
	r.t.Helper()
	err := Run(r.t.Context(), Options{Conn: r.connect(), Signer: r.signer, Keyring: r.keyring, Adopt: r.adopt, TakeAtOnce: true})
	if err == nil {
		r.t.Fatal("it starts")
	}
	return err
}

// A fleet that turns identities on in the middle of a rollout loses nothing, if
// it says so, and is refused otherwise.
func TestIdentitiesAreTurnedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	gone := r.host("gone.example.net", "web", "1.10.3")
	r.until("it is in the fleet", func() bool { return r.hostView("gone.example.net").Generation > 0 })
	gone()
	r.until("it is decommissioned", func() bool {
		return r.call(control.HostDecommission, control.HostRequest{Host: "gone.example.net", Why: "sold"}, nil) == nil
	})
	r.mustCall(control.HostPin, control.PinRequest{Host: "h00.example.net", Variable: "docker_version", ValueText: "1.10.3", Why: "x"}, nil)
	r.start("up", time.Hour)
	r.until("it runs", func() bool { return r.show("up").State == rollout.StateRunning })
	before := r.show("up")
	led := func() (l time.Duration) {
		m, err := bus.Last(t.Context(), r.js, subjects.Stream, subjects.KindLeader.Subject(""))
		if err != nil {
			t.Fatal(err)
		}
		lease, err := subjects.Decode[subjects.Leader](m.Data)
		if err != nil {
			t.Fatal(err)
		}
		return lease.Led
	}
	r.stop()
	was := led()

	r.signer = newSigner(t)
	r.keyring = keyring(t, r.signer)
	if err := r.refused(); !errors.Is(err, errBefore) || !strings.Contains(err.Error(), "--adopt") {
		t.Errorf("without being told to: %v", err)
	}
	r.adopt = true
	r.schedule()
	r.until("every host has a sealed document", func() bool {
		for _, kind := range []subjects.Kind{
			subjects.KindDesired, subjects.KindRollout, subjects.KindProgress, subjects.KindVariable, subjects.KindPin, subjects.KindEpoch,
		} {
			all, err := bus.History(t.Context(), r.js, subjects.Stream, kind.Pattern())
			if err != nil || len(all) == 0 {
				t.Fatalf("%s: %d records, %v", kind, len(all), err)
			}
			newest := map[string]bus.Msg{}
			for _, m := range all {
				newest[m.Subject] = m
			}
			for _, m := range newest {
				if r.keyring.Verify(m.Subject, m.Header, m.Data) != nil {
					return false
				}
			}
		}
		return true
	})
	if v := r.show("up"); v.State != rollout.StateRunning || v.Told < before.Told || v.Started != before.Started {
		t.Errorf("the rollout was %+v, and is %+v", before, v)
	}
	if now := led(); now < was {
		t.Errorf("the leaders' clock goes back from %s to %s", was, now)
	}
	r.stop()

	// That was once: from now on only what is sealed counts.
	if err := r.refused(); !strings.Contains(err.Error(), "without --adopt") {
		t.Errorf("a second time: %v", err)
	}
	r.adopt = false
	r.schedule()
	if v := r.show("up"); v.State != rollout.StateRunning {
		t.Errorf("after a restart it is %s", v.State)
	}
	var status control.StatusView
	r.mustCall(control.Status, control.Empty{}, &status)
	if len(status.Warnings) > 0 {
		t.Errorf("warnings: %q", status.Warnings)
	}
	if r.hostView("h00.example.net").Pin == nil {
		t.Error("the pin is gone")
	}
}
