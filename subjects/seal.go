package subjects

import (
	"slices"
	"strconv"
	"strings"
)

// The headers of a seal: a signature over a message, whoever carries it.
const (
	// HeaderSeal is the signer's public key and the signature in base64,
	// separated by a space.
	HeaderSeal = "Tsunami-Seal"
	// HeaderFollows is, on a sealed record, the revision of its key that it was
	// written over: an old record that is written again doesn't follow.
	HeaderFollows = "Tsunami-Follows"
	// HeaderIdentity is, on a request, the caller's JWT.
	HeaderIdentity = "Tsunami-Identity"
	// HeaderNonce is, on a request, drawn anew for each: a request that comes
	// twice is taken once.
	HeaderNonce = "Tsunami-Nonce"

	sealedPrefix = "Tsunami-"
)

// The kinds of what is sealed. A seal of one kind is none of another.
const (
	SealRecord  = "application/vnd.tsunami.record"  // a record of the bucket, by a scheduler
	SealRequest = "application/vnd.tsunami.request" // an operator's request
)

// Unmarked is the header without what marks a record as the scheduler's: what
// is left of one that the scheduler didn't seal.
func (h Header) Unmarked() Header {
	out := Header{}
	for name, values := range h {
		if !strings.HasPrefix(name, sealedPrefix) {
			out[name] = values
		}
	}
	return out
}

// Ours is the header as Tsunami wrote it, without what brokers add on the way.
func (h Header) Ours() Header {
	out := Header{}
	for name, values := range h {
		if ours(name) {
			out[name] = values
		}
	}
	return out
}

// ours says whether a header is one that Tsunami reads.
func ours(name string) bool { return strings.HasPrefix(name, sealedPrefix) || name == headerOperation }

// Sealed gives the bytes that a seal signs: the kind, the message's subject,
// every header that Tsunami reads, and the body, so that none of them can be
// changed, left out or added. What brokers add on the way isn't in it. The
// encoding is DSSE's pre-authentication encoding
// (github.com/secure-systems-lab/dsse, protocol.md) of a payload in which
// every part is preceded by its length.
func Sealed(kind, subject string, h Header, body []byte) []byte {
	var names []string
	for name := range h {
		if ours(name) && name != HeaderSeal {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	payload := make([]byte, 0, h.Size()+len(subject)+len(body)+16*len(names)+64)
	number := func(n int) {
		payload = append(strconv.AppendInt(payload, int64(n), 10), ':')
	}
	part := func(s string) {
		number(len(s))
		payload = append(payload, s...)
	}
	part(subject)
	number(len(names))
	for _, name := range names {
		part(name)
		number(len(h[name]))
		for _, v := range h[name] {
			part(v)
		}
	}
	number(len(body))
	payload = append(payload, body...)
	out := make([]byte, 0, len(payload)+len(kind)+32)
	out = append(out, "DSSEv1 "...)
	out = append(strconv.AppendInt(out, int64(len(kind)), 10), ' ')
	out = append(append(out, kind...), ' ')
	out = append(strconv.AppendInt(out, int64(len(payload)), 10), ' ')
	return append(out, payload...)
}
