package notify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

var day = time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)

// story feeds a fold and keeps what it says.
type story struct {
	t        *testing.T
	fold     *fold
	sequence uint64
	now      time.Time
	events   []Event
}

func newStory(t *testing.T) *story {
	return &story{t: t, fold: newFold(5*time.Minute, nil), now: day}
}

// after lets time pass, and asks what that makes.
func (s *story) after(d time.Duration) *story {
	s.now = s.now.Add(d)
	events, _ := s.fold.tick(s.now)
	s.events = append(s.events, events...)
	return s
}

func (s *story) put(kind subjects.Kind, name string, h subjects.Header, body any) *story {
	s.t.Helper()
	s.sequence++
	data, ok := body.([]byte)
	if !ok {
		var err error
		if data, err = subjects.Encode(body); err != nil {
			s.t.Fatal(err)
		}
	}
	if e, ok := s.fold.take(bus.Msg{Subject: kind.Subject(name), Header: h, Data: data, Sequence: s.sequence, Time: s.now}); ok {
		s.events = append(s.events, e)
	}
	return s.after(0)
}

func (s *story) scheduler() subjects.Header {
	return subjects.Header{subjects.HeaderTime: {s.now.Format(time.RFC3339Nano)}, subjects.HeaderActor: {"scheduler"}}
}

func (s *story) record(r rollout.Record) *story {
	return s.put(subjects.KindRollout, string(r.Spec.Name), s.scheduler(), r)
}

func (s *story) progress(p rollout.Progress) *story {
	return s.put(subjects.KindProgress, "docker", s.scheduler(), p)
}

// press writes what an operator writes with nats alone.
func (s *story) press(kind subjects.Kind, name, why string) *story {
	return s.put(kind, name, nil, []byte(why))
}

func (s *story) says(want ...string) {
	s.t.Helper()
	got := make([]string, len(s.events))
	for i, e := range s.events {
		got[i] = strings.TrimSpace(fmt.Sprintf("%s %s", e.Kind, e.Rollout))
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("got %q\nwant %q", got, want)
	}
	ids := make(map[string]bool)
	for _, e := range s.events {
		if ids[e.ID] {
			s.t.Errorf("the id %s stands twice", e.ID)
		}
		ids[e.ID] = true
		if e.What == "" || e.Next == "" || e.Time.IsZero() {
			s.t.Errorf("an event lacks something: %+v", e)
		}
	}
}

func (s *story) last() Event { return s.events[len(s.events)-1] }

func docker(state rollout.State, change ...func(*rollout.Record)) rollout.Record {
	to, _ := rollout.StringValue("1.12.3") // which is one
	r := rollout.Record{
		Spec:  rollout.Spec{Name: "docker", Variable: "docker_version", To: to, Ramp: rollout.Ramp{Over: rollout.Duration(time.Hour)}},
		State: state, By: "ada", Author: "ada", Changed: day, Why: "because",
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func acknowledged(n uint64) func(*rollout.Record) {
	return func(r *rollout.Record) { r.Acknowledged = n }
}

func of(id, back rollout.ID) func(*rollout.Record) {
	return func(r *rollout.Record) { r.Spec.Name, r.Spec.Rollback = id, back }
}

func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		name  string
		after []rollout.Record
		want  []string
	}{
		{"a life", []rollout.Record{docker(rollout.StatePending), docker(rollout.StateRunning), docker(rollout.StateCompleted)},
			[]string{"started docker", "completed docker"}},
		{"an approval is no news", []rollout.Record{docker(rollout.StatePending), docker(rollout.StatePending)}, nil},
		{"a pause", []rollout.Record{docker(rollout.StatePending), docker(rollout.StateRunning), docker(rollout.StatePaused), docker(rollout.StateRunning)},
			[]string{"started docker", "paused docker", "resumed docker"}},
		{"a pause before the start", []rollout.Record{docker(rollout.StatePending), docker(rollout.StatePaused), docker(rollout.StatePending)},
			[]string{"paused docker", "resumed docker"}},
		{"the ends", []rollout.Record{docker(rollout.StateRunning), docker(rollout.StateCancelled)}, []string{"cancelled docker"}},
		{"superseded", []rollout.Record{docker(rollout.StateRunning), docker(rollout.StateSuperseded)}, []string{"superseded docker"}},
		{"a rollback", []rollout.Record{docker(rollout.StatePending, of("docker-rollback", "docker")), docker(rollout.StateRunning, of("docker-rollback", "docker")), docker(rollout.StateCompleted, of("docker-rollback", "docker"))},
			[]string{"rollback_started docker-rollback", "rolled_back docker-rollback"}},
		{"a beginning that isn't known", []rollout.Record{docker(rollout.StateRunning)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(t)
			for _, r := range c.after {
				s.record(r)
			}
			s.says(c.want...)
		})
	}
}

func TestAborts(t *testing.T) {
	s := newStory(t).record(docker(rollout.StatePending)).record(docker(rollout.StateRunning))
	s.progress(rollout.Progress{Target: 200, Told: 20, Confirmed: 17, Failed: 3, Running: true})
	s.press(subjects.KindAbort, "docker", "users\x00see\nerrors")
	e := s.last()
	if e.Why != "users see errors" || e.Sequence != 4 || e.State != rollout.StateFrozen || e.Hosts == nil || *e.Hosts != (Hosts{200, 20, 17, 3}) ||
		e.Next != "tsunamictl rollout show docker" || !slices.Equal(e.Then, []string{"tsunamictl rollout resume docker --acknowledge 4 --why …", "tsunamictl rollout rollback docker --why …"}) {
		t.Errorf("got %+v", e)
	}
	// The guard's put is retried when its answer is lost; what is new is told.
	s.press(subjects.KindAbort, "docker", "users\x00see\nerrors")
	s.record(docker(rollout.StateFrozen))
	s.press(subjects.KindAbort, "docker", "and the disks are full")
	s.record(docker(rollout.StateRunning, acknowledged(7)))
	if e := s.last(); e.Sequence != 7 || !strings.Contains(e.What, "abort 7 is acknowledged") || e.Actor != "ada" || e.Why != "because" {
		t.Errorf("got %+v", e)
	}
	s.press(subjects.KindAbort, "docker", "and the disks are full") // again, after it was acknowledged
	s.record(docker(rollout.StateFrozen, acknowledged(7)))
	s.record(docker(rollout.StateCancelled, acknowledged(7)))
	s.press(subjects.KindAbort, "docker", "to be sure") // of what has ended
	s.press(subjects.KindAbort, "dokcer", "users see errors")
	if e := s.last(); !strings.Contains(e.What, "there is no rollout dokcer") || e.Next != "tsunamictl rollout list" {
		t.Errorf("got %+v", e)
	}
	s.says("started docker", "aborted docker", "aborted docker", "resumed docker", "aborted docker", "cancelled docker", "aborted dokcer")
}

func TestLayerIsAborted(t *testing.T) {
	s := newStory(t).record(docker(rollout.StateRunning)).record(docker(rollout.StateCompleted))
	s.press(subjects.KindAbort, "docker", "joins break").record(docker(rollout.StateCompleted, acknowledged(3)))
	s.says("completed docker", "aborted docker", "resumed docker")
	if e := s.events[1]; !strings.Contains(e.What, "hosts that join") || e.State != rollout.StateCompleted {
		t.Errorf("got %+v", e)
	}
}

func TestGuardsEvidence(t *testing.T) {
	s := newStory(t).record(docker(rollout.StateRunning))
	s.put(subjects.KindAbort, "docker", nil, subjects.Abort{Why: "it does harm", Actor: "sloguard", Evidence: json.RawMessage(`{"e":106.2}`)})
	if e := s.last(); e.Actor != "sloguard" || string(e.Evidence) != `{"e":106.2}` {
		t.Errorf("got %+v", e)
	}
	big := json.RawMessage(`"` + strings.Repeat("x", maxEvidence) + `"`)
	s.put(subjects.KindAbort, "docker", nil, subjects.Abort{Why: "it does more harm", Evidence: big})
	if e := s.last(); e.Why != "it does more harm" || e.Evidence != nil {
		t.Errorf("got %d bytes of evidence", len(e.Evidence))
	}
}

func TestRedButton(t *testing.T) {
	s := newStory(t).press(subjects.KindStop, "", "incident 4711").press(subjects.KindStop, "", "incident 4711")
	if e := s.last(); e.Sequence != 1 || !slices.Equal(e.Then, []string{"tsunamictl start --acknowledge 1 --why …"}) {
		t.Errorf("got %+v", e)
	}
	h := s.scheduler()
	h[subjects.HeaderAcknowledges], h[subjects.HeaderActor] = []string{"2"}, []string{"ada"}
	s.put(subjects.KindStop, "", h, subjects.Abort{Why: "over", Actor: "ada"})
	s.press(subjects.KindStop, "", "incident 4711")
	s.says("stopped", "released", "stopped")
	if e := s.events[1]; e.Actor != "ada" || e.Why != "over" {
		t.Errorf("got %+v", e)
	}
}

func TestForeignRecords(t *testing.T) {
	s := newStory(t).record(docker(rollout.StateRunning))
	s.put(subjects.KindRollout, "docker", nil, docker(rollout.StateCancelled)) // by hand
	s.put(subjects.KindRollout, "docker", subjects.Header{"KV-Operation": {"DEL"}}, []byte(nil))
	s.put(subjects.KindRollout, "docker", s.scheduler(), []byte("{"))
	s.put(subjects.KindProgress, "docker", s.scheduler(), []byte("{"))
	s.put(subjects.KindRollout, "Not.An.Id", s.scheduler(), docker(rollout.StateCancelled))
	s.says()
	// What puts it right is told, with its words.
	s.record(docker(rollout.StatePaused, func(r *rollout.Record) { r.Why = "its record was overwritten" }))
	s.says("paused docker")
}

func waves(r *rollout.Record) {
	hour := rollout.Duration(time.Hour)
	r.Spec.Ramp = rollout.Ramp{Shape: rollout.Waves, Waves: []rollout.Wave{{Percent: 10, Hold: hour}, {Percent: 50, Hold: hour}, {Percent: 100, Approval: true}}}
	r.Clock = day
}

func TestWaves(t *testing.T) {
	s := newStory(t).record(docker(rollout.StateRunning, waves))
	s.progress(rollout.Progress{Elapsed: 1, Running: true}).progress(rollout.Progress{Elapsed: time.Hour - time.Minute, Running: true})
	s.says()
	// The next wave waits for room in flight, one nanosecond before its place.
	s.progress(rollout.Progress{Elapsed: time.Hour - 1, Hold: rollout.Reason{Code: rollout.InFlightLimit}})
	s.progress(rollout.Progress{Elapsed: time.Hour + 1, Running: true})
	if e := s.last(); e.Wave != 1 || e.Waves != 3 || e.What != "wave 1 of 3 (10%) of docker is done; wave 2 (50%) follows" {
		t.Errorf("got %+v", e)
	}
	s.progress(rollout.Progress{Elapsed: 2*time.Hour - 1, Hold: rollout.Reason{Code: rollout.AwaitingApproval, Wave: 3}})
	s.says("wave_done docker", "wave_done docker", "held docker")
	if e := s.events[1]; !strings.Contains(e.What, "waits for an approval") || e.Next != "tsunamictl rollout approve docker --why …" {
		t.Errorf("got %+v", e)
	}
	s.record(docker(rollout.StateCompleted, waves)).progress(rollout.Progress{Elapsed: 2 * time.Hour, Running: true})
	s.says("wave_done docker", "wave_done docker", "held docker", "completed docker")

	// An operator's jump passes several at once; a restart knows what was said.
	other := newStory(t).record(docker(rollout.StateRunning, waves))
	other.fold.marks["docker"] = &marks{Waves: 1}
	other.progress(rollout.Progress{Elapsed: 3 * time.Hour, Running: true})
	other.says("wave_done docker")
}

func TestHolds(t *testing.T) {
	full := rollout.Progress{Hold: rollout.Reason{Code: rollout.InFlightLimit, InFlight: 3, Limit: 3}}
	free := rollout.Progress{Running: true}
	start := func(t *testing.T) *story { return newStory(t).record(docker(rollout.StateRunning)) }

	t.Run("long enough", func(t *testing.T) {
		s := start(t).progress(full).after(4 * time.Minute).progress(full).after(59 * time.Second)
		s.says()
		s.after(time.Second).after(time.Hour).progress(full).after(time.Hour)
		s.says("held docker")
		if e := s.last(); e.Reason != rollout.InFlightLimit || e.Why == "" || !strings.Contains(e.What, "since 2026-12-01T09:00:00Z") {
			t.Errorf("got %+v", e)
		}
		// One host confirms and the next is told: it is the same hold.
		s.progress(free).after(time.Second).progress(full).after(time.Hour)
		s.says("held docker")
		s.progress(free).after(4 * time.Minute).after(2 * time.Minute).after(time.Hour)
		s.says("held docker", "moving docker")
	})
	t.Run("flapping", func(t *testing.T) {
		s := start(t)
		for range 10 {
			s.progress(full).after(4 * time.Minute).progress(free).after(time.Second)
		}
		s.says()
	})
	t.Run("as planned", func(t *testing.T) {
		s := start(t).progress(rollout.Progress{Hold: rollout.Reason{Code: rollout.OutsideWindow, Until: day.Add(time.Hour)}}).after(time.Hour)
		s.says()
	})
	t.Run("into what is planned", func(t *testing.T) {
		s := start(t).progress(full).after(6 * time.Minute)
		s.progress(rollout.Progress{Hold: rollout.Reason{Code: rollout.OutsideWindow, Until: day.Add(time.Hour)}}).after(time.Hour)
		s.says("held docker")
	})
	t.Run("another reason", func(t *testing.T) {
		s := start(t).progress(full).after(6 * time.Minute)
		s.progress(rollout.Progress{Hold: rollout.Reason{Code: rollout.NoFreshEvidence}}).after(6 * time.Minute).progress(free).after(0).after(6 * time.Minute)
		s.says("held docker", "held docker", "moving docker")
	})
	t.Run("a transition ends it", func(t *testing.T) {
		s := start(t).progress(full).after(6 * time.Minute).record(docker(rollout.StatePaused)).after(time.Hour)
		s.says("held docker", "paused docker")
	})
	t.Run("an approval of a wave", func(t *testing.T) {
		s := start(t).progress(rollout.Progress{Hold: rollout.Reason{Code: rollout.AwaitingApproval, Wave: 2}}).progress(free)
		s.says("held docker", "moving docker")
	})
	t.Run("an approval of the start", func(t *testing.T) {
		s := newStory(t)
		needs := func(r *rollout.Record) { r.Spec.Approvals, r.Spec.Start = 1, day.Add(time.Hour) }
		s.record(docker(rollout.StatePending, needs))
		if _, next := s.fold.tick(s.now); !next.Equal(day.Add(time.Hour)) {
			t.Errorf("to be asked again at %s", next)
		}
		s.says()
		s.after(time.Hour).after(time.Hour)
		s.says("held docker")
		if e := s.last(); e.Reason != rollout.AwaitingApproval || e.Next != "tsunamictl rollout approve docker --why …" {
			t.Errorf("got %+v", e)
		}
		s.record(docker(rollout.StatePending, needs, func(r *rollout.Record) { r.Approvals = []rollout.Approval{{By: "bea"}} }))
		s.record(docker(rollout.StateRunning, needs)).after(time.Hour)
		s.says("held docker", "started docker")
	})
	t.Run("the rollout before it", func(t *testing.T) {
		s := newStory(t)
		needs := func(r *rollout.Record) { r.Spec.Approvals, r.Spec.After = 1, "kernel" }
		s.record(docker(rollout.StatePending, needs)).after(time.Hour)
		s.says()
		s.record(docker(rollout.StateCompleted, of("kernel", "")))
		s.says("held docker")
	})
}

func TestExamples(t *testing.T) {
	for _, k := range Kinds {
		e := Example(k, day)
		if e.What == "" || e.Next == "" || !e.Test || !strings.HasPrefix(e.ID, "test.") {
			t.Errorf("%s: %+v", k, e)
		}
		b, err := subjects.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		var back Event
		if err := json.Unmarshal(b, &back); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
}
