package hostagent

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// without is a document that a rollout took a variable out of.
func without(generation uint64, name rollout.Name, previous string, values rollout.Document, told map[rollout.Name]uint64) *subjects.Change {
	c := change(generation, "removal", values, told)
	c.Variable, c.Previous = name, str(previous)
	return c
}

// A variable that is taken out of the document leaves the files and the
// agent's memory; nothing is run for it.
func TestVariableIsRemoved(t *testing.T) {
	r := newRig(t)
	e := r.o.Config.Enact["docker_version"]
	e.Drift = DriftEnact
	r.o.Config.Enact["docker_version"] = e
	r.o.Config.Env = r.o.Config.State + "/desired.env"
	r.o.Config.Checks = map[rollout.ID]Check{"docker": {Exec: []string{"check", "docker"}}}
	stop := r.start()
	both := rollout.Document{"docker_version": str("1"), "flag": str("on")}
	r.tell(change(1, "a", both, nil))
	r.enacted(1, "docker_version", "1")
	r.enacted(1, "flag", "on")

	r.tell(without(2, "docker_version", "1", rollout.Document{"flag": str("on")}, map[rollout.Name]uint64{"flag": 1}))
	p := r.reported("removed", func(p *rollout.Report) bool {
		return p.Generation == 2 && p.Checks["docker"].Generation == 2 && p.Checks["docker"].Status == rollout.Passing
	})
	if _, ok := p.Enact["docker_version"]; ok || p.Actual["docker_version"] != str("1") || p.Enact["flag"].Status != rollout.Enacted {
		t.Errorf("%+v", p)
	}
	if b, err := os.ReadFile(r.o.Config.Env); err != nil || string(b) != "flag=\"on\"\n" || r.desired() != `{"flag":"on"}` {
		t.Errorf("the files say %s and %s, %v", b, r.desired(), err)
	}
	// What happens to it now is nobody's concern.
	r.m.drift("0.5")
	r.reported("observed on", func(p *rollout.Report) bool { return p.Actual["docker_version"] == str("0.5") })

	// The last one goes, which nothing observes.
	r.tell(without(3, "flag", "on", rollout.Document{}, nil))
	p = r.reported("all removed", func(p *rollout.Report) bool { return p.Generation == 3 })
	if _, ok := p.Actual["flag"]; ok || len(p.Enact) != 0 {
		t.Errorf("%+v", p)
	}
	if r.desired() != "{}" {
		t.Errorf("desired.json is %s", r.desired())
	}
	stop()
	s, err := loadState(r.o.Config.State, "h1")
	if err != nil || s.Generation != 3 || len(s.Values)+len(s.Orders)+len(s.Enacted) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	boot := p.Boot
	r.start()
	p = r.reported("after a restart", func(p *rollout.Report) bool { return p.Boot != boot })
	if p.Generation != 3 || len(p.Enact) != 0 {
		t.Errorf("%+v", p)
	}
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1", "flag=on"}) {
		t.Errorf("enacted %v", sets)
	}
	// Told again it is new: nothing says that the host still has it.
	r.tell(change(4, "b", both, nil))
	r.enacted(4, "flag", "on")
	r.enacted(4, "docker_version", "1")
	if sets := r.m.setTo(); len(sets) != 4 {
		t.Errorf("enacted %v", sets)
	}
}

// It is removed while its enactor fails, and while it runs.
func TestVariableIsRemovedWhileItIsEnacted(t *testing.T) {
	t.Run("between attempts", func(t *testing.T) {
		r := newRig(t)
		r.m.fault = failing("set")
		r.start()
		r.tell(change(1, "a", docker("1"), nil))
		r.reported("failed", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.EnactFail })
		r.tell(without(2, "docker_version", "1", rollout.Document{}, nil))
		r.reported("removed", func(p *rollout.Report) bool { return p.Generation == 2 && len(p.Enact) == 0 })
		r.m.with(func() { r.m.fault = nil })
		time.Sleep(200 * time.Millisecond)
		if sets := r.m.setTo(); len(sets) != 0 {
			t.Errorf("enacted %v", sets)
		}
	})
	t.Run("while it has drifted", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := repairing(t)
			r.start()
			r.tell(change(1, "a", docker("1"), nil))
			settled(30 * time.Minute)
			r.m.with(func() { r.m.fault = failing("set") })
			r.m.drift("0.5")
			settled(time.Hour)
			r.tell(without(2, "docker_version", "1", rollout.Document{}, nil))
			r.m.with(func() { r.m.fault = nil })
			settled(time.Hour)
			if p := r.report(); p.Generation != 2 || len(p.Enact) != 0 || len(r.m.setTo()) != 1 {
				t.Errorf("enacted %v: %+v", r.m.setTo(), p)
			}
		})
	})
	t.Run("in an attempt", func(t *testing.T) {
		r := newRig(t)
		hold := make(chan struct{})
		r.m.hold = hold
		r.start()
		r.tell(change(1, "a", docker("1"), nil))
		<-r.m.begun
		r.tell(without(2, "docker_version", "1", rollout.Document{"flag": str("on")}, nil))
		r.reported("removed", func(p *rollout.Report) bool {
			_, ok := p.Enact["docker_version"]
			return p.Generation == 2 && !ok
		})
		close(hold)
		p := r.enacted(2, "flag", "on")
		if _, ok := p.Enact["docker_version"]; ok {
			t.Errorf("%+v", p)
		}
		await(t, "the state", func() bool {
			s, err := loadState(r.o.Config.State, "h1")
			return err == nil && s.fulfilled("flag") && len(s.Enacted) == 1
		})
	})
}
