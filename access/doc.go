// Package access is who may do what: the keys, JWTs and credentials of the
// parts, the hosts and the operators; the seals on the scheduler's records and
// on operators' requests; and the directory in which all of that is kept.
//
// What each role may do is in package subjects, beside the subjects themselves.
//
// # Two kinds of trust
//
// The broker lets in whoever bears a JWT of the account and proves to hold its
// key, and lets each do what the role's permissions say. That protects the
// broker from its clients. The seals protect hosts from the broker: a host
// takes what a pinned key has signed, whoever carries it, and the scheduler
// changes what an operator's key has asked for.
//
// Nothing here makes a connection. Private keys are read from files that only
// their owner may read, and are never logged.
package access
