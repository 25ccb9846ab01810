// Package broker runs a nats-server with JetStream inside this process: the
// embedded broker of tsunamid and of tests.
//
// It keeps everything under one directory and syncs every write to disk before
// it acknowledges it. The directory is held by a lock that the operating
// system drops when the process ends, however it ends: whoever holds it knows
// that the last holder is dead.
//
// Until there are identities it listens on loopback only. Clients in the same
// process connect without a socket, through InProcess.
package broker
