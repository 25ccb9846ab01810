package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Failures are the hosts that have failed a check within a time, each with how
// it first did.
type Failures struct {
	// From is when the evidence begins, which may be later than what was asked
	// for; zero where there is none.
	From, Until time.Time
	Hosts       map[rollout.Host]slo.How
}

// spell is for how long a host has been failing, or silent.
type spell struct {
	since   time.Time
	session string // of the guard that noticed, for silence
}

// tally counts failures as the guard does: a check that fails without a break for
// as long as counts, and silence for as long, of one session of the guard.
type tally struct {
	check           rollout.ID
	failing, silent map[rollout.Host]spell
	hold, grace     time.Duration
	failed          map[rollout.Host]slo.How
}

// Failures reads from the evidence which hosts have failed the check at least
// once since a time: for at least hold, or silent for at least grace. It needs
// neither scheduler nor guard, but silence is recorded only where there is one.
func (c *Client) Failures(ctx context.Context, check rollout.ID, hold, grace time.Duration, since time.Time) (*Failures, error) {
	begins, err := c.begins(ctx, subjects.EvidenceStream)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", c.noEvidence(err))
	}
	t := tally{
		check: check, hold: hold, grace: grace,
		failing: make(map[rollout.Host]spell), silent: make(map[rollout.Host]spell), failed: make(map[rollout.Host]slo.How),
	}
	f := &Failures{From: begins, Until: time.Now(), Hosts: t.failed}
	if since.After(begins) && !begins.IsZero() {
		f.From = since
	}
	for m, err := range c.stored(ctx, subjects.EvidenceStream, []string{subjects.AllHealth, subjects.AllSilence}, since) {
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		kind, name, err := subjects.ParseEvidence(m.Subject)
		host, wrong := rollout.ParseHost(name)
		if err != nil || wrong != nil {
			continue // the guard's own
		}
		if kind == subjects.KindHealth {
			t.health(host, m.Data, m.Time)
		} else {
			t.silence(host, m.Data, m.Time)
		}
	}
	for host := range t.failing {
		t.end(t.failing, host, hold, slo.FailedCheck, f.Until)
	}
	for host := range t.silent {
		t.end(t.silent, host, grace, slo.FailedSilence, f.Until)
	}
	return f, nil
}

func (t *tally) health(host rollout.Host, data []byte, at time.Time) {
	var e subjects.HealthEvent
	if json.Unmarshal(data, &e) != nil || e.Kind != subjects.HealthCheck || e.Check != t.check {
		return
	}
	t.end(t.silent, host, t.grace, slo.FailedSilence, at) // it is heard
	if rollout.CheckStatus(e.Status) != rollout.Failing {
		t.end(t.failing, host, t.hold, slo.FailedCheck, at)
	} else if _, already := t.failing[host]; !already {
		t.failing[host] = spell{since: at}
	}
}

func (t *tally) silence(host rollout.Host, data []byte, at time.Time) {
	var s subjects.Silence
	if json.Unmarshal(data, &s) != nil {
		return
	}
	switch was, already := t.silent[host]; {
	case s.Kind == subjects.HostHeard:
		t.end(t.silent, host, t.grace, slo.FailedSilence, at)
	case s.Kind == subjects.HostSilent && (!already || was.session != s.Session):
		t.silent[host] = spell{at, s.Session}
	}
}

// end ends a spell, which counts if it has lasted.
func (t *tally) end(of map[rollout.Host]spell, host rollout.Host, least time.Duration, how slo.How, at time.Time) {
	was, ok := of[host]
	if !ok {
		return
	}
	delete(of, host)
	if _, already := t.failed[host]; !already && at.Sub(was.since) >= least {
		t.failed[host] = how
	}
}
