// Package control is how operators reach Tsunami: the requests that they can
// make, the service that answers them, its client, and the documents that
// people write.
//
// # On the wire
//
// A request goes to tsunami.api.<actor>.<verb> with a JSON body, and is
// answered by the NATS micro service named tsunami, which the scheduler serves
// while it leads. The actor is a token of the subject, so that the broker's
// permissions decide who may speak as whom; [Serve] takes it from the
// message's own subject. A failed request is answered as a micro error whose
// body is an [Error] in JSON.
//
// An answer that is larger than one message goes to a client that says it can
// take it, as [Client] does, in numbered parts.
//
// # What needs no scheduler
//
// [Client.Abort] and [Client.Stop] write their keys into the bucket
// themselves, and [Client.Audit] reads the audit log itself, so that stopping
// and looking work when nothing else does.
//
// # Documents
//
// [ParseDocuments] reads YAML and JSON as people write them, strictly, and
// says of every fault in which line it is, those of all documents at once.
// What only the service can find is brought back to its line by [Located].
package control
