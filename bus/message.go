package bus

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Message is a record to be written.
type Message struct {
	Subject string
	Header  subjects.Header
	Data    []byte
	// Expect is checked by the broker as it commits; nil expects nothing. A
	// message carries one expectation.
	Expect *Expect
}

// Expect says that the last message on a subject is the one with this
// sequence; 0 that there is none. The subject may be another than the
// message's own.
type Expect struct {
	Subject  string
	Sequence uint64
}

// Msg is a record as it was read.
type Msg struct {
	Subject  string
	Header   subjects.Header
	Data     []byte
	Sequence uint64 // in its stream
	// Time is when the broker stored it, by the broker's clock.
	Time time.Time
}

// defaultTimeout bounds a call whose context has no deadline.
const defaultTimeout = 5 * time.Second

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// wire makes the message that goes out. The header is a copy: the caller's is
// shared with nobody.
func (m *Message) wire() *nats.Msg {
	h := make(nats.Header, len(m.Header)+5)
	maps.Copy(h, m.Header)
	if m.Expect != nil {
		h[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(m.Expect.Sequence, 10)}
		h[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{m.Expect.Subject}
	}
	return &nats.Msg{Subject: m.Subject, Header: h, Data: m.Data}
}

// retryable says whether publishing the same message again may help.
func retryable(err error) bool {
	for _, e := range []error{
		nats.ErrConnectionClosed, nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrInvalidConnection,
		nats.ErrHeadersNotSupported, nats.ErrConnectionDraining,
	} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}
