// Package evidence is the fold over the evidence stream by which the guard
// judges rollouts: it reads the stream's messages, keeps what they say of hosts,
// objectives and rollouts, and lets package slo weigh it.
//
// # A fold
//
// [Fold.Take] takes the stream's messages in their order. Time is theirs, as the
// broker stamped them; no clock is asked. So the same messages give the same
// verdicts at the same sequences, whoever folds them and when: the guard as it
// goes, a guard that was killed and begins anew, and an operator who replays a
// rollout against another objective.
//
// A fold may begin anywhere, as long as that is [Lookback] before the first
// rollout in question was created: what it knows of a host from longer ago than
// that counts as nothing when a rollout begins to be watched, so that it makes no
// difference whether it was read. An agent reports itself every 12 hours.
//
// # What is taken of a message
//
// A health event is about the host of its own subject, whatever it says. Of one
// start of an agent, and one sequence, it counts once; one of an earlier start, or
// an earlier sequence, counts no more. Hosts that aren't in the inventory count
// for nothing. A message that can't be read changes nothing, and is counted.
// The clock of a host is never looked at.
//
// A host is treated from its desired state on, or from its own word that it has
// it, whichever comes first: sourcing may be behind.
package evidence
