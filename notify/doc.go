// Package notify tells people and programs what happens to rollouts: by webhook,
// or by running a program. [Run] is the part; [Load] reads its file; [Try] sends an
// example. docs/notifications.md is the user's manual, docs/adr/0027 says why.
//
// # What is told
//
// Events are derived from the bucket's own records, which needs no scheduler:
// transitions from rollout.<id>, aborts from abort.<id> at the moment that the
// broker has them, the red button from stop, and waves and holds from
// progress.<id>. Deriving is pure: the type fold is a function of records and a
// time, and touches no clock, network or disk.
//
// # Ownership
//
// One goroutine owns the fold, the queues and the state file. Each receiver has a
// goroutine of its own that is given one event at a time and answers with what came
// of it, so that a slow or dead one delays no other; its queue is bounded, and the
// oldest event goes. The part never ends because of a receiver, the broker or the
// disk, and writes nothing to the broker.
//
// # Delivery
//
// At least once, in order for each receiver, within bounds. The state file holds the
// sequence up to which records have been turned into events, and the events that
// aren't delivered yet; both change by one write, before an event is first sent. So
// a restart loses nothing, and sends nothing twice but what was under way; an event
// keeps its id then. Given up, and counted: what a receiver doesn't take within its
// retryFor, what no longer fits into its queue, and what is older than maxAge when
// it could first be sent. Where there is no state file it begins with what happens
// from then on.
package notify
