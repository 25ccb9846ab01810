// Package subjects holds every name on the wire: streams, subjects, keys and
// headers, and the messages on them. It makes no connection.
//
// The bucket "tsunami" is the truth and the subject is its echo: the stream
// behind it republishes $KV.tsunami.<key> to tsunami.<key>. An echo may be
// lost, doubled, late or out of order, but is never of an uncommitted batch.
// Readers therefore go by generation alone, and re-read.
package subjects
