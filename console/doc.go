// Package console serves Tsunami over HTTP.
//
//	GET /v1/hosts/<host>/desired   the host's desired state, flat JSON
//	GET /metrics                   for Prometheus
//	GET /healthz                   the process lives
//	GET /readyz                    it can serve: the broker answers, the streams are there
//
// The desired state is the body of the host's record in the bucket, byte for
// byte, with the record's generation as a strong ETag; a client that sends it
// back in If-None-Match gets 304 until there is a newer one. Only what the
// scheduler wrote is ever served: where somebody has put or deleted the key by
// hand, the last good record is, until the scheduler has restored it. A
// client that polls never gets an older document than it, or anybody else,
// was given before.
//
// Errors of the API are JSON objects with code and message. Identities aren't
// known here, so the server listens on loopback only.
package console
