// Package bus is the NATS plumbing of every part: it connects, makes and
// checks the streams, commits atomic batches, reads records and consumes
// streams into channels. It knows names from package subjects and nothing of
// what they mean.
//
// # Ordering and delivery
//
// The bucket's stream is one total order. Commit writes a batch whole or not
// at all; its errors say which of the two is certain. Consume gives a stream's
// messages in that order, each once, over reconnects and restarts of the
// broker. Last, LastSequence and History ask the stream's leader and are never
// stale. DirectGet may be answered by a follower and be one revision old.
//
// # Ownership
//
// Nothing here keeps state between calls, but for the goroutine behind a
// channel of Consume, which ends with its context. Callbacks of
// ConnectOptions run on a goroutine of the NATS client and must not block:
// they should only send on a channel.
//
// One batch may be outstanding at a time, from one goroutine: on a replicated
// stream two batches in flight that share a fence refuse each other.
package bus
