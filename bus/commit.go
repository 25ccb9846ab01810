package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/synadia-io/orbit.go/jetstreamext"
)

// MaxHeader is the largest header of a record, in bytes. The broker takes 64 KiB,
// but a sourced copy carries a longer one: a record that fits into the bucket
// and not into the audit log would end the sourcing for good.
const MaxHeader = 56 << 10

// MaxBatch is the most messages that the broker takes in one atomic batch.
const MaxBatch = 1000

// What Commit's errors wrap. ErrRefused and ErrInFlight wrap ErrNotWritten.
var (
	// ErrNotWritten says that it is certain that nothing was written.
	ErrNotWritten = errors.New("nothing was written")
	// ErrRefused says that an expectation failed.
	ErrRefused = fmt.Errorf("refused, an expectation failed: %w", ErrNotWritten)
	// ErrInFlight says that another message that writes or expects one of the
	// same subjects was still on its way through a replicated stream: re-read
	// and try again. It deposes nobody.
	ErrInFlight = fmt.Errorf("refused, another write was in flight: %w", ErrNotWritten)
	// ErrUnknown says that the answer was lost: the batch may have committed,
	// or may yet. Only a later write that expects the same revisions settles
	// it.
	ErrUnknown = errors.New("the broker's answer was lost, the batch may have been written")
)

// The broker's codes for a failed expectation.
const (
	codeWrongLast         jetstream.ErrorCode = 10071
	codeWrongLastConstant jetstream.ErrorCode = 10164
	codeStoreFailed       jetstream.ErrorCode = 10077
	codeNoResources       jetstream.ErrorCode = 10023
)

// Commit writes the messages as one atomic batch, in their order, and returns
// the sequence of the last. It returns when the broker has answered or ctx
// ends; a context without a deadline is given 5 s. One message is published
// plainly, with its expectation.
//
// Every error but one that wraps ErrUnknown wraps ErrNotWritten. The broker's
// own words are in an error of type *jetstream.APIError where it said no.
func Commit(ctx context.Context, js jetstream.JetStream, msgs []Message) (last uint64, err error) {
	if err := check(js, msgs); err != nil {
		return 0, fmt.Errorf("batch of %d: %w: %w", len(msgs), ErrNotWritten, err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	last, err = commit(ctx, js.Conn(), msgs)
	if err != nil {
		return 0, fmt.Errorf("batch of %d, from %s: %w", len(msgs), msgs[0].Subject, err)
	}
	return last, nil
}

// check finds what the broker would refuse, or never answer, for good.
func check(js jetstream.JetStream, msgs []Message) error {
	if len(msgs) == 0 || len(msgs) > MaxBatch {
		return fmt.Errorf("want 1 to %d messages", MaxBatch)
	}
	written := make(map[string]bool, len(msgs))
	expected := make(map[string]uint64)
	for i := range msgs {
		m := &msgs[i]
		if m.Subject == "" || strings.ContainsAny(m.Subject, " \t\r\n*>") {
			return fmt.Errorf("message %d: bad subject %q", i+1, m.Subject)
		}
		if e := m.Expect; e != nil {
			// The broker answers these with "wrong last sequence" for ever, which
			// would look like a race.
			if written[e.Subject] {
				return fmt.Errorf("message %d expects %s, which an earlier message of the batch writes", i+1, e.Subject)
			}
			if s, ok := expected[e.Subject]; ok && s != e.Sequence {
				return fmt.Errorf("message %d expects %s at %d, an earlier message at %d", i+1, e.Subject, e.Sequence, s)
			}
			expected[e.Subject] = e.Sequence
		}
		written[m.Subject] = true
		header := m.Header.Size()
		if header > MaxHeader {
			return fmt.Errorf("message %d, on %s: a header of %d bytes: at most %d are allowed", i+1, m.Subject, header, MaxHeader)
		}
		size := header + len(m.Data)
		// What Commit adds to the header stays under 1 KiB beside the subject.
		if limit := js.Conn().MaxPayload(); limit > 0 && int64(size+len(m.Subject)+1024) > limit {
			return fmt.Errorf("message %d, on %s: %d bytes are too many for the broker, which takes %d: %w", i+1, m.Subject, size, limit, nats.ErrMaxPayload)
		}
	}
	return nil
}

func commit(ctx context.Context, nc *nats.Conn, msgs []Message) (uint64, error) {
	batch := ""
	if len(msgs) > 1 {
		batch = rand.Text()
	}
	for i := range msgs[:len(msgs)-1] {
		m := msgs[i].wire()
		m.Header.Set(jetstreamext.BatchIDHeader, batch)
		m.Header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(i+1))
		if i > 0 {
			if err := nc.PublishMsg(m); err != nil {
				return 0, fmt.Errorf("%w: publishing message %d: %w", ErrNotWritten, i+1, err)
			}
			continue
		}
		// The answer to the first message says that somebody is there to take
		// the batch. Until the last message is sent nothing can be written.
		resp, err := nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return 0, fmt.Errorf("%w: opening the batch: %w", ErrNotWritten, err)
		}
		if len(resp.Data) > 0 {
			var a answer
			if err := json.Unmarshal(resp.Data, &a); err != nil {
				return 0, fmt.Errorf("%w: opening the batch: reading the answer: %w", ErrNotWritten, err)
			}
			if a.Error != nil {
				return 0, classify(a.Error, false)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: before the commit: %w", ErrNotWritten, err)
	}
	m := msgs[len(msgs)-1].wire()
	if batch != "" {
		m.Header.Set(jetstreamext.BatchIDHeader, batch)
		m.Header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(len(msgs)))
		m.Header.Set(jetstreamext.BatchCommitHeader, "1")
	}
	resp, err := nc.RequestMsgWithContext(ctx, m)
	switch {
	case batch == "" && errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, nats.ErrReconnectBufExceeded):
		// Nobody was there to take it, or it never left.
		return 0, fmt.Errorf("%w: %w", ErrNotWritten, err)
	case err != nil:
		return 0, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	var a answer
	if err := json.Unmarshal(resp.Data, &a); err != nil {
		return 0, fmt.Errorf("%w: reading the answer: %w", ErrUnknown, err)
	}
	if a.Error != nil {
		return 0, classify(a.Error, batch != "")
	}
	if a.Stream == "" || a.Sequence == 0 || a.Batch != batch || batch != "" && a.Count != len(msgs) {
		return 0, fmt.Errorf("%w: the answer isn't one to this batch", ErrUnknown)
	}
	return a.Sequence, nil
}

// answer is the broker's to a published message or batch.
type answer struct {
	Error    *jetstream.APIError `json:"error"`
	Stream   string              `json:"stream"`
	Sequence uint64              `json:"seq"`
	Batch    string              `json:"batch"`
	Count    int                 `json:"count"`
}

// classify says what an error that the broker answered with means for what was
// written. Committing says that it answers the last message of a batch.
func classify(e *jetstream.APIError, committing bool) error {
	if committing && e.ErrorCode == codeNoResources {
		// Storage that is full already is said when the batch is opened. Here the
		// limit may have been reached between two messages of the batch.
		return fmt.Errorf("%w: %w", ErrUnknown, e)
	}
	switch e.ErrorCode {
	case codeWrongLast:
		return fmt.Errorf("%w: %w", ErrRefused, e)
	case codeWrongLastConstant:
		// A replicated stream answers with this code both when the expectation
		// is known to have failed, and then names the sequence, and when it
		// can't be judged because of what is in flight.
		if strings.ContainsAny(e.Description, "0123456789") {
			return fmt.Errorf("%w: %w", ErrRefused, e)
		}
		return fmt.Errorf("%w: %w", ErrInFlight, e)
	case codeStoreFailed:
		// The disk failed under the writing itself: how far it got is not said.
		return fmt.Errorf("%w: %w", ErrUnknown, e)
	default:
		return fmt.Errorf("%w: %w", ErrNotWritten, e)
	}
}

// Pauses between attempts of Put.
const (
	putAttempt  = 5 * time.Second
	putMaxPause = 2 * time.Second
)

// Put writes one record without an expectation and returns its sequence. It
// tries until the broker acknowledges or ctx ends, which is why ctx should
// have a deadline; then the error wraps ctx's and the last attempt's, and the
// record may or may not have been written. Attempts share a message id, so
// that a lost answer doesn't make two records of one. A message that can never
// be accepted (too large, a bad subject, a closed connection, an expectation)
// is an error at once.
func Put(ctx context.Context, js jetstream.JetStream, m Message) (uint64, error) {
	if m.Expect != nil {
		return 0, fmt.Errorf("putting %s: a plain put expects nothing", m.Subject)
	}
	if err := check(js, []Message{m}); err != nil {
		return 0, fmt.Errorf("putting %s: %w", m.Subject, err)
	}
	id := rand.Text()
	pause := minBackoff
	for {
		msg := m.wire()
		msg.Header.Set(jetstream.MsgIDHeader, id)
		attempt, cancel := context.WithTimeout(ctx, putAttempt)
		ack, err := js.PublishMsg(attempt, msg, jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			return ack.Sequence, nil
		}
		if !retryable(err) {
			return 0, fmt.Errorf("putting %s: %w", m.Subject, err)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("putting %s: %w, after: %w", m.Subject, context.Cause(ctx), err)
		case <-time.After(pause/2 + jitter(pause/2)):
			pause = min(2*pause, putMaxPause)
		}
	}
}
