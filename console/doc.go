// Package console serves Tsunami over HTTP.
//
//	GET /v1/hosts/<host>/desired   the host's desired state, flat JSON
//	GET /metrics                   for Prometheus
//	GET /healthz                   the process lives
//	GET /readyz                    it can serve: the broker answers, the streams are there
//	POST /v1/join                  a join token for a host's identity, where that is enabled
//
// The desired state is the body of the host's record in the bucket, byte for
// byte, with the record's generation as a strong ETag; a client that sends it
// back in If-None-Match gets 304 until there is a newer one. Only what the
// scheduler wrote is ever served: where somebody has put or deleted the key by
// hand, the last good record is, until the scheduler has restored it. A
// client that polls never gets an older document than it, or anybody else,
// was given before.
//
// # Who sees what
//
// With identities a caller is whom a bearer token names, or else a verified client
// certificate: a viewer where its subject has the organization
// ViewersOrganization, otherwise the host of its first DNS name, or of its common
// name where it has none. A viewer, and whoever may do more, sees everything; a
// host sees its own desired state; a stranger sees /healthz, and of /readyz
// whether, not why. Strangers are answered before anything is looked up, the same
// for a host that there is and one that there isn't.
//
// Without identities everybody sees everything. Beyond loopback the server listens
// with identities and TLS only.
//
// # Joining
//
// Each use of a join token is a record in the bucket that is written only where
// there is none, together with the host's: two hosts can't have the same use, and
// a host that has an identity gets no other until that is revoked. Which hosts
// have one is known of those alone that have joined; what 'tsunamictl access
// enroll' issued isn't on the server. A host that has lost the answer asks again
// with the same key.
//
// Errors of the API are JSON objects with code and message.
package console
