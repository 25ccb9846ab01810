package sloguard

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// ears are how the guard hears hosts.
type ears struct {
	alive        chan rollout.Host
	subscription *nats.Subscription
	session      string
	listening    time.Time // since when nothing was missed
	heard        map[rollout.Host]time.Time
	said         map[rollout.Host]saying
	attended     time.Time // when it was last looked whether anything was missed
	reconnects   uint64
	dropped      int
	caught       time.Time // as of which no heartbeat waits to be taken in
	spoken       time.Time // when it was last looked who is silent
	quiet        int       // hosts that are watched and silent
	ticked       time.Time
}

// saying is what was last written of a host, which the stream has yet to echo.
type saying struct {
	kind subjects.SilenceKind
	at   time.Time
}

// listen hears heartbeats until ctx ends.
func listen(ctx context.Context, nc *nats.Conn) (ears, error) {
	e := ears{
		alive: make(chan rollout.Host, 1<<15), session: random(), listening: time.Now(),
		heard: make(map[rollout.Host]time.Time), said: make(map[rollout.Host]saying),
	}
	// The callback only sends. Where there is no room it waits, and the client
	// counts what it then drops.
	sub, err := nc.Subscribe(subjects.AllAlive, func(m *nats.Msg) {
		if h, err := subjects.HostOf(m.Subject); err == nil {
			select {
			case e.alive <- h:
			case <-ctx.Done():
			}
		}
	})
	if err != nil {
		return e, err
	}
	e.subscription = sub
	context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() }) // a closed connection has no subscriptions
	return e, nil
}

// missed is how many heartbeats a host may miss.
const missed = 3

// attend looks whether anything may have been missed since the last time. A new
// session begins then.
func (g *guard) attend(now time.Time) {
	dropped, _ := g.subscription.Dropped() // an error is of a closed subscription
	reconnects := g.o.Conn.Stats().Reconnects
	held := !g.attended.IsZero() && now.Sub(g.attended) > 2*g.o.Heartbeat
	if !g.o.Conn.IsConnected() || held || dropped != g.dropped || reconnects != g.reconnects {
		g.session, g.listening = random(), now
		clear(g.said)
	}
	g.attended, g.dropped, g.reconnects = now, dropped, reconnects
}

// beat takes a heartbeat. Those of names that never reported themselves aren't
// remembered: there is no end of names.
func (g *guard) beat(h rollout.Host) {
	if !g.fold.Knows(h) {
		return
	}
	g.heard[h] = time.Now()
	// What was said of it a moment ago, the fold doesn't know yet.
	if silent, _ := g.fold.Silent(h, g.session); silent || g.said[h].kind == subjects.HostSilent {
		g.say(h, subjects.HostHeard, time.Now())
	}
}

// catchUp notes as of when every heartbeat that came has been taken in: one that
// waits, while evidence goes first, isn't missing.
func (g *guard) catchUp(now time.Time) {
	waiting, _, err := g.subscription.Pending()
	if err == nil && waiting == 0 && len(g.alive) == 0 {
		g.caught = now
	}
}

// speak writes who has fallen silent.
func (g *guard) speak(now time.Time) {
	g.catchUp(now)
	if now.Before(g.spoken.Add(g.o.Heartbeat/2)) || g.caught.Sub(g.listening) <= missed*g.o.Heartbeat {
		return
	}
	g.spoken = now
	g.quiet = 0
	g.fold.Hosts(func(h rollout.Host, watched bool) bool {
		last := g.heard[h]
		if last.Before(g.listening) {
			last = g.listening
		}
		silent, bySession := g.fold.Silent(h, g.session)
		if g.caught.Sub(last) > missed*g.o.Heartbeat {
			if watched {
				g.quiet++
			}
			if !silent || watched && !bySession {
				g.say(h, subjects.HostSilent, now)
			}
		}
		return true
	})
	g.m.silent.Set(float64(g.quiet))
}

// say writes that a host has fallen silent or is heard again, unless that was
// written a moment ago. Nobody waits for an answer: what got lost is written
// again, since the stream hasn't echoed it.
func (g *guard) say(h rollout.Host, kind subjects.SilenceKind, now time.Time) {
	if !g.leading {
		return
	}
	if s := g.said[h]; s.kind == kind && now.Sub(s.at) < missed*g.o.Heartbeat {
		return
	}
	g.said[h] = saying{kind, now}
	g.write(subjects.SilenceOf(h), subjects.Silence{Kind: kind, Session: g.session, Heard: g.heard[h]})
}

// tick writes, while somebody who is watched is silent, or a check has failed
// for so long that it counts, that the guard has been listening until now. It
// returns when the next is due.
func (g *guard) tick(now time.Time) time.Time {
	next := now.Add(time.Hour)
	if g.quiet > 0 {
		next = g.ticked.Add(g.o.Heartbeat / 2)
	}
	if due := g.fold.Due(); !due.IsZero() {
		// The stream's clock stood at Now when its newest message came here.
		at := g.received.Add(due.Sub(g.fold.Now()) + tickLate)
		if at.Before(g.ticked.Add(tickGap)) {
			at = g.ticked.Add(tickGap)
		}
		next = earliest(next, at)
	}
	if now.Before(next) {
		return next
	}
	g.ticked = now
	g.write(subjects.Listening, subjects.Silence{Kind: subjects.Listens, Session: g.session})
	return now.Add(tickGap)
}

const (
	tickLate = 2 * time.Millisecond   // so that what is due is past when the tick is stored
	tickGap  = 100 * time.Millisecond // between two ticks at the least
)

func (g *guard) write(subject string, s subjects.Silence) {
	body, err := subjects.Encode(s)
	if err == nil {
		err = g.o.Conn.Publish(subject, body)
	}
	if err != nil {
		g.log.Debug("a silence wasn't written", "subject", subject, "err", err)
	}
}
