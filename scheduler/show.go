package scheduler

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

const (
	// showEvery is how old what a scrape is shown may be. Where many scrape, or
	// looking takes long, one look serves several, so that looking takes one
	// showShare of the goroutine's time at the most.
	showEvery = time.Second
	showShare = 20
	// keepEnded is for how long a rollout that has ended is shown, so that its
	// end is scraped, and mostShown how many rollouts are at the most. The number
	// of series depends on rollouts and variables, never on hosts.
	keepEnded = time.Hour
	mostShown = 200
)

// gauge is one value, or one for each set of labels, as of a moment.
type gauge struct{ desc *prometheus.Desc }

func newGauge(name, help string, labels ...string) gauge {
	return gauge{prometheus.NewDesc(name, help, labels, nil)}
}

func (g gauge) is(v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v, labels...)
}

// What every scheduler shows of itself.
var (
	showLeading  = newGauge("tsunami_scheduler_leading", "Whether this scheduler holds the lease (1) or waits for it (0).")
	showRenewed  = newGauge("tsunami_scheduler_lease_renewed_timestamp_seconds", "When this scheduler last renewed the lease or, where it doesn't lead, last saw it renewed.")
	showEpoch    = newGauge("tsunami_scheduler_epoch_timestamp_seconds", "When this scheduler last wrote the epoch, without which hosts take nothing new. Only with identities.")
	showProblems = newGauge("tsunami_scheduler_problems", "Things that a person has to see to. tsunamictl status lists them.")
	showNotices  = newGauge("tsunami_scheduler_notices", "Things of the last day that a person should know of. tsunamictl status lists them.")
	showStopped  = newGauge("tsunami_stopped", "Whether the red button is pressed (1) or not (0).")
)

// What the leader shows of the fleet.
var (
	showAuditLag  = newGauge("tsunami_audit_lag_records", "Records of the bucket that the audit log has yet to take.")
	showAuditAge  = newGauge("tsunami_audit_lag_seconds", "Age of the oldest record that the audit log has yet to take.")
	showHosts     = newGauge("tsunami_hosts", "Hosts of the inventory, by presence: online, offline, gone (unseen for a week) or unheard (nobody has listened for long enough).", "presence")
	showPinned    = newGauge("tsunami_pinned_hosts", "Hosts of which a pin holds some variable.")
	showDrifted   = newGauge("tsunami_variable_drifted_hosts", "Hosts that run another value of the variable than they were told.", "variable")
	showUnenacted = newGauge("tsunami_variable_unenacted_hosts", "Hosts that were told a value of the variable and have no enactor for it.", "variable")
	showRollouts  = newGauge("tsunami_rollouts", "Rollouts that there are or were, by state.", "state")
)

// What the leader shows of each rollout that is live or covers hosts that join,
// and for an hour of each that has ended.
var (
	showInfo      = newGauge("tsunami_rollout_info", "Which variable a rollout moves. Its value is 1.", "rollout", "variable")
	showState     = newGauge("tsunami_rollout_state", "The state that a rollout is in. Its value is 1.", "rollout", "state")
	showHold      = newGauge("tsunami_rollout_hold", "Why a rollout isn't moving. Its value is 1.", "rollout", "reason")
	showHeld      = newGauge("tsunami_rollout_held_seconds", "For how long a rollout has stood still so far since its clock started, by reason.", "rollout", "reason")
	showPlannedAt = newGauge("tsunami_rollout_planned_ratio", "The part of its target that a rollout would have told by now if nothing had stood in the way of its ramp's clock, from 0 to 1.", "rollout")
	showActualAt  = newGauge("tsunami_rollout_actual_ratio", "The part of its target that a rollout has told, from 0 to 1.", "rollout")
	showTarget    = newGauge("tsunami_rollout_target_hosts", "Hosts that a rollout is to change.", "rollout")
	showTold      = newGauge("tsunami_rollout_told_hosts", "Hosts that a rollout has told its value, or that had it before.", "rollout")
	showConfirmed = newGauge("tsunami_rollout_confirmed_hosts", "Hosts that run a rollout's value and whose checks have passed since.", "rollout")
	showFailed    = newGauge("tsunami_rollout_failed_hosts", "Hosts that a rollout has told and that have failed to enact its value.", "rollout")
	showInFlight  = newGauge("tsunami_rollout_in_flight_hosts", "Hosts that a rollout has told and that haven't confirmed.", "rollout")
	showLimit     = newGauge("tsunami_rollout_in_flight_limit_hosts", "Hosts of a rollout that may be in flight at once.", "rollout")
	showPlanned   = newGauge("tsunami_rollout_planned_end_timestamp_seconds", "When a rollout was to end, as it was planned when its clock started.", "rollout")
	showEnds      = newGauge("tsunami_rollout_expected_end_timestamp_seconds", "When a rollout ends if nothing holds it from now on. Absent while something does and nobody knows until when.", "rollout")
)

// shown are all of these.
var shown = []gauge{
	showLeading, showRenewed, showEpoch, showProblems, showNotices, showStopped,
	showAuditLag, showAuditAge, showHosts, showPinned, showDrifted, showUnenacted, showRollouts,
	showInfo, showState, showHold, showHeld, showPlannedAt, showActualAt, showTarget, showTold, showConfirmed,
	showFailed, showInFlight, showLimit, showPlanned, showEnds,
}

// view is what a scrape is shown, and until when another is shown the same.
type view struct {
	all   []prometheus.Metric
	until time.Time
}

// show answers a scrape.
func (s *scheduler) show(ctx context.Context, to chan<- []prometheus.Metric) {
	now := time.Now()
	if now.After(s.view.until) {
		if s.leading {
			s.askAudit(ctx)
		}
		all := s.standing(now)
		if s.leading { // else there is another who shows the fleet
			all = append(all, s.fleet()...)
			all = append(all, s.rollouts(now)...)
		}
		took := time.Since(now)
		s.view = view{all, now.Add(max(showEvery, showShare*took))}
	}
	to <- s.view.all
}

// standing is how the scheduler itself stands.
func (s *scheduler) standing(now time.Time) []prometheus.Metric {
	all := []prometheus.Metric{
		showLeading.is(number(s.leading)), showStopped.is(number(s.snap.Stopped())),
		showProblems.is(float64(len(s.problems))), showNotices.is(float64(len(s.notices))),
	}
	renewed := s.leaderAt
	if s.leading {
		renewed = s.renewed
	}
	all = append(all, timestamp(showRenewed, renewed)...)
	if s.leading {
		records, oldest := s.audit.lag()
		age := 0.0
		if records > 0 {
			age = max(0, now.Sub(oldest).Seconds())
		}
		all = append(all, showAuditLag.is(float64(records)), showAuditAge.is(age))
		all = append(all, timestamp(showEpoch, s.epoch)...)
	}
	return all
}

// fleet is how the hosts stand.
func (s *scheduler) fleet() []prometheus.Metric {
	var all []prometheus.Metric
	for p, n := range s.snap.Presences() {
		all = append(all, showHosts.is(float64(n), p.String()))
	}
	all = append(all, showPinned.is(float64(len(s.snap.Pins()))))
	variables := s.snap.Variables()
	drifted, unenacted := make([]int, len(variables)), make([]int, len(variables))
	for _, name := range s.snap.Hosts() {
		h, err := s.snap.Host(name)
		if err != nil {
			continue
		}
		for i, v := range variables {
			if h.Drifted(v) {
				drifted[i]++
			}
			if unenactedOn(h, v) {
				unenacted[i]++
			}
		}
	}
	for i, v := range variables {
		all = append(all, showDrifted.is(float64(drifted[i]), string(v.Name)), showUnenacted.is(float64(unenacted[i]), string(v.Name)))
	}
	return all
}

// rollouts is how they stand: those that are live or layers, then those that
// have ended, the newest first.
func (s *scheduler) rollouts(now time.Time) []prometheus.Metric {
	var lasting, ended []rollout.Status
	states := map[rollout.State]int{
		rollout.StatePending: 0, rollout.StateRunning: 0, rollout.StatePaused: 0, rollout.StateFrozen: 0,
		rollout.StateCompleted: 0, rollout.StateCancelled: 0, rollout.StateSuperseded: 0,
	}
	for _, id := range slices.Backward(s.snap.Rollouts()) {
		st, err := s.snap.Status(id, now)
		if err != nil {
			continue
		}
		states[st.Record.State]++
		switch {
		case st.Layer || st.Record.State.Live():
			lasting = append(lasting, st)
		case now.Sub(st.Record.Changed) < keepEnded:
			ended = append(ended, st)
		}
	}
	var all []prometheus.Metric
	for state, n := range states {
		all = append(all, showRollouts.is(float64(n), string(state)))
	}
	statuses := append(lasting, ended...)
	for _, st := range statuses[:min(len(statuses), mostShown)] {
		all = append(all, showRollout(st)...)
	}
	return all
}

func showRollout(st rollout.Status) []prometheus.Metric {
	id, state := string(st.ID), st.Record.State
	all := []prometheus.Metric{
		showInfo.is(1, id, string(st.Record.Spec.Variable)), showState.is(1, id, string(state)),
		showTarget.is(float64(st.Target), id), showTold.is(float64(st.Told), id), showConfirmed.is(float64(st.Confirmed), id),
		showFailed.is(float64(st.Failed), id), showInFlight.is(float64(st.InFlight), id),
	}
	if st.Target > 0 {
		of := float64(st.Target)
		all = append(all, showPlannedAt.is(min(1, float64(st.Planned)/of), id), showActualAt.is(min(1, float64(st.Told)/of), id))
	}
	for reason, d := range st.Held {
		all = append(all, showHeld.is(d.Seconds(), id, string(reason)))
	}
	all = append(all, timestamp(showPlanned, st.PlannedEnd, id)...)
	if !st.Layer && !state.Live() {
		return all
	}
	if st.Reason.Code != "" {
		all = append(all, showHold.is(1, id, string(st.Reason.Code)))
	}
	all = append(all, showLimit.is(float64(st.Limit), id))
	return append(all, timestamp(showEnds, st.Ends, id)...)
}

// timestamp is a time, or nothing where it isn't known.
func timestamp(g gauge, t time.Time, labels ...string) []prometheus.Metric {
	if t.IsZero() {
		return nil
	}
	return []prometheus.Metric{g.is(float64(t.UnixNano())/1e9, labels...)}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
