package scheduler

import (
	"fmt"
	"maps"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// report takes in what a host says of itself.
func (s *scheduler) report(m bus.Msg) {
	if m.Subject == "" {
		return
	}
	host, err := subjects.HostOf(m.Subject)
	if err != nil {
		s.log.Warn("report under a name that isn't allowed", "subject", m.Subject)
		return
	}
	if m.Header.Deleted() {
		return // the host's agent never deletes; whoever did harms nothing
	}
	r, err := subjects.Decode[rollout.Report](m.Data)
	if err == nil && r.Role == "" {
		err = fmt.Errorf("it has no role")
	}
	key := "report " + string(host)
	if err != nil {
		s.problem(key, "the host's report can't be read: "+err.Error())
		return
	}
	delete(s.problems, key)
	if at, ok := s.ended[host]; ok && !m.Time.After(at) {
		return // what it reported before it was decommissioned
	}
	delete(s.ended, host)
	if s.loaded {
		s.heard[host] = time.Now() // a report is a sign of life too
	}
	s.touched[host], s.changed = m.Time, true
	s.snap.PutReport(host, r)
	s.place(host, time.Now())
}

// beat takes in a heartbeat. Names that never reported themselves are not
// remembered: there is no end of names.
func (s *scheduler) beat(b heartbeat) {
	h := b.host
	if _, ok := s.touched[h]; !ok {
		return
	}
	s.twins(b)
	s.heard[h] = time.Now()
	s.changed = s.snap.PutPresence(h, rollout.Online) || s.changed
}

// twins notices two agents that use one host's name: the starts that their
// heartbeats name take turns.
func (s *scheduler) twins(b heartbeat) {
	t := s.boots[b.host]
	if b.boot == t.now || b.boot == "" {
		return
	}
	if b.boot == t.before {
		s.notice("twins "+string(b.host), fmt.Sprintf("two agents call themselves %s, started as %s and %s: stop one, then restart the other", b.host, t.now, t.before))
	}
	s.boots[b.host] = boots{now: b.boot, before: t.now}
}

// boots are the last two starts of a host's agent.
type boots struct{ now, before string }

// sweep notes who has gone silent.
func (s *scheduler) sweep(now time.Time) {
	since := now.Sub(s.swept)
	if since < s.o.Heartbeat/2 {
		return
	}
	s.swept = now
	maps.DeleteFunc(s.notices, func(_ string, n notice) bool { return now.Sub(n.at) > noticed })
	if since > 2*s.o.Heartbeat || !s.o.Conn.IsConnected() {
		s.listening = now // nobody could be heard: that a host is silent says nothing
	}
	for h := range s.touched {
		s.place(h, now)
	}
}

// place says whether a host is online, offline or gone.
func (s *scheduler) place(h rollout.Host, now time.Time) {
	heard := s.heard[h]
	p := rollout.Offline
	switch {
	case !heard.IsZero() && now.Sub(heard) <= 3*s.o.Heartbeat:
		p = rollout.Online
	case now.Sub(s.listening) <= 3*s.o.Heartbeat:
		p = rollout.Unheard
	case now.Sub(heard) > gone && now.Sub(s.touched[h]) > gone:
		p = rollout.Gone
	}
	s.changed = s.snap.PutPresence(h, p) || s.changed
}
