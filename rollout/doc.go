// Package rollout is the core of Tsunami: variables, ramps, cohorts, limits,
// and the decision what to tell whom next.
//
// Everything here is a function of values and a time that the caller passes
// in. The package knows no clock, network, disk or source of randomness; the
// scheduler reads, calls [Decide], and writes what comes back. The same
// sequence of facts and times therefore always gives the same decisions.
//
// # Facts and decisions
//
// A [Snapshot] holds the facts: hosts as they reported themselves, what each
// of them was last told, variables, rollouts and their progress. Its Put
// methods take one fact at a time and keep the indexes that make a decision
// cost what is due, not what the fleet is. One goroutine owns a Snapshot.
//
// [Decide] looks at a Snapshot and a time and returns a [Decision]: the steps
// to commit now, in order, and when to ask again if nothing happens until
// then. A [Step] is applied whole or not at all. Deciding changes no fact;
// what was committed comes back through the Put methods, so a decision whose
// step was refused, or whose answer was lost, needs no undoing.
//
// # The ramp in closed form
//
// A role with n matching hosts has the target T (see [Limit]). T·S(e)+θ,
// rounded down, is how many of them are to be told when the ramp's clock
// shows e, so the i-th host's place is (i−θ)/T of the way. The plan, the due
// times and the answer to "why not yet" are that one formula read in
// different directions.
package rollout
