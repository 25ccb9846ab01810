// Package sloguard is the part that watches rollouts: it folds the evidence
// stream (package evidence), and puts the abort that freezes a rollout when the
// evidence against it suffices. It writes aborts, its lease, and what it knows of
// hosts' silence, and nothing else.
//
// # One goroutine
//
// One goroutine owns the fold and the lease. Heartbeats come to it from a NATS
// callback over a channel. It begins by reading which rollouts are there, and
// folds the evidence from before the oldest of them; until it has caught up with
// what was stored it writes nothing.
//
// # What makes it go on where it was
//
// Nothing is kept but the stream. A guard that is started anew folds the same
// messages to the same verdict at the same sequence; one that an abort carries
// already isn't put again. An abort is put until the broker has acknowledged it.
//
// # Silence
//
// Nobody keeps heartbeats, so what the guard heard is in the stream by its own
// word: that a host has missed three of them, that it is heard again, and, while
// somebody it watches is silent, that it has been listening until now. It says so
// for a session, which ends whenever it may have missed something: a lost
// connection, a message dropped, a process that was held up. A silence counts only
// within the session that noticed it.
//
// # The lease
//
// Several guards may run; all fold, and the one that holds the key guard writes.
// Its record is renewed every few seconds and says for how long each rollout may
// go on. A rollout may while the guard listens, has caught up with the stream and
// the stream with its sources, and has seen its hosts pass their checks.
package sloguard
