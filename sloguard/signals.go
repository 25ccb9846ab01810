package sloguard

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/promql"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Asker says what Prometheus answers for an objective; promql.Client is one.
type Asker interface {
	Ask(ctx context.Context, o *slo.Objective, now time.Time) promql.Answer
}

const (
	// fullEvery is how often a look says all that it knows of hosts, for whoever
	// begins to fold the evidence.
	fullEvery = 10 * time.Minute
	// sameEvery is how often at least a look is recorded that says nothing new.
	sameEvery = 30 * time.Second
	// asksAtOnce bounds how many questions are open.
	asksAtOnce = 16
	// recordHosts is how many hosts one record names at most: well within what
	// the broker takes.
	recordHosts = 3000
	// recordTime bounds the recording of a look.
	recordTime = 5 * time.Second
)

// asking are the goroutines that ask Prometheus, one for each objective. Only the
// guard that leads asks.
type asking struct {
	running map[rollout.ID]*question
	turns   chan struct{}
}

// question is one objective that Prometheus is asked about.
type question struct {
	o    *slo.Objective
	stop context.CancelFunc
}

func newAsking() asking {
	return asking{running: make(map[rollout.ID]*question), turns: make(chan struct{}, asksAtOnce)}
}

// ask begins and ends to ask, so that what rollouts are judged by now is asked
// about.
func (g *guard) ask(ctx context.Context) {
	wanted := map[rollout.ID]*slo.Objective{}
	if g.leading && g.o.Prometheus != nil {
		for _, o := range g.fold.Queries() {
			wanted[o.Name] = o
		}
	}
	for name, q := range g.running {
		if wanted[name] != q.o {
			q.stop()
			delete(g.running, name)
		}
	}
	for name, o := range wanted {
		if g.running[name] == nil {
			asking, stop := context.WithCancel(ctx)
			g.running[name] = &question{o, stop}
			go g.asks(asking, o)
		}
	}
	g.m.queries.Set(float64(len(g.running)))
}

// watcher looks at one objective, time and again. Only its goroutine touches it.
type watcher struct {
	o        *slo.Objective
	known    map[rollout.Host]promql.Said // what was recorded of hosts
	full     time.Time                    // when all of it was
	recorded time.Time                    // the last look that was
	said     promql.Said                  // what that came to
}

// asks asks until ctx ends. What it finds it records in the evidence, by which the
// guard judges: so does a replay.
func (g *guard) asks(ctx context.Context, o *slo.Objective) {
	w := &watcher{o: o}
	tick := time.NewTicker(o.Asked().Interval())
	defer tick.Stop()
	for {
		select {
		case g.turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		answer := g.o.Prometheus.Ask(ctx, o, begun)
		<-g.turns
		if ctx.Err() != nil {
			return
		}
		g.m.asked.WithLabelValues(string(answer.Outcome)).Inc()
		g.m.askTime.Observe(time.Since(begun).Seconds())
		if err := g.recordLook(ctx, w, answer); err != nil && ctx.Err() == nil {
			w.full = time.Time{} // what is recorded isn't known: all of it, next time
			g.log.Warn("what Prometheus says isn't recorded", "objective", o.Name, "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// recordLook writes a look, if it says anything new or is due.
func (g *guard) recordLook(ctx context.Context, w *watcher, a promql.Answer) error {
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	records := w.records(a)
	for i := range records {
		body, err := subjects.Encode(&records[i])
		if err != nil {
			return err
		}
		if _, err := bus.Put(ctx, g.js, bus.Message{Subject: subjects.SignalOf(w.o.Name), Data: body}); err != nil {
			return err
		}
	}
	return nil
}

// records are what a look adds to the evidence: what has changed of hosts, or all
// of it now and then.
func (w *watcher) records(a promql.Answer) []subjects.Signal {
	s := subjects.Signal{Time: a.Time.UTC(), Outcome: a.Outcome, Why: a.Why}
	failing := false
	if len(a.Roles) > 0 {
		s.Roles = make(map[rollout.Word]subjects.RoleSignal, len(a.Roles))
		for role, said := range a.Roles {
			s.Roles[role] = subjects.RoleSignal{Outcome: said.Outcome, Why: said.Why}
			failing = failing || said.Outcome != slo.Success
		}
	}
	conclusive := w.o.Asked().Of() == slo.PerHost && a.Outcome == slo.Success
	if s.Full = a.Time.Sub(w.full) >= fullEvery && (conclusive || w.full.IsZero()); s.Full {
		w.full, w.known, s.Query = a.Time, nil, w.o.Asked().Query
	}
	var failed, passing, unsaid []rollout.Host
	if conclusive {
		for host, said := range a.Hosts {
			failing = failing || said.Outcome == slo.Failing
			switch was, known := w.known[host]; {
			case known && was.Outcome == said.Outcome:
			case said.Outcome == slo.Failing:
				failed = append(failed, host)
			default:
				passing = append(passing, host)
			}
		}
		for host := range w.known {
			if _, still := a.Hosts[host]; !still {
				unsaid = append(unsaid, host)
			}
		}
		w.known = a.Hosts
	}
	news := s.Full || failing || a.Outcome != slo.Success || a.Said != w.said || len(failed)+len(passing)+len(unsaid) > 0
	if !news && a.Time.Sub(w.recorded) < min(sameEvery, w.o.Fresh()/3) {
		return nil
	}
	w.recorded, w.said = a.Time, a.Said
	for _, list := range [][]rollout.Host{failed, passing, unsaid} {
		slices.Sort(list)
	}
	var out []subjects.Signal
	for {
		room := recordHosts
		part := s
		take := func(from *[]rollout.Host) []rollout.Host {
			n := min(room, len(*from))
			taken := (*from)[:n]
			*from, room = (*from)[n:], room-n
			return taken
		}
		for _, host := range take(&failed) {
			if part.Failing == nil {
				part.Failing = map[rollout.Host]string{}
			}
			part.Failing[host] = a.Hosts[host].Why
		}
		part.Passing, part.Unsaid = take(&passing), take(&unsaid)
		part.More = len(failed)+len(passing)+len(unsaid) > 0
		out = append(out, part)
		if !part.More {
			return out
		}
		s.Full, s.Query, s.Roles = false, "", maps.Clone(s.Roles)
	}
}
