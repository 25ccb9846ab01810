package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// ErrNotFound says that there is no such record. A delete marker is a record.
var ErrNotFound = errors.New("no such record")

const codeNoMessage jetstream.ErrorCode = 10037

func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// getRequest is the payload of a STREAM.MSG.GET request.
type getRequest struct {
	Sequence      uint64 `json:"seq,omitempty"`
	LastBySubject string `json:"last_by_subj,omitempty"`
	NextBySubject string `json:"next_by_subj,omitempty"`
}

type getResponse struct {
	Error   *jetstream.APIError `json:"error"`
	Message *struct {
		Subject  string    `json:"subject"`
		Sequence uint64    `json:"seq"`
		Header   []byte    `json:"hdrs"`
		Data     []byte    `json:"data"`
		Time     time.Time `json:"time"`
	} `json:"message"`
}

// get asks the stream's leader for a message. The client library's own way
// isn't used because it turns to a follower where the stream allows it.
func get(ctx context.Context, js jetstream.JetStream, stream string, r getRequest) (*Msg, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	resp, err := js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, body)
	if err != nil {
		return nil, err
	}
	var got getResponse
	if err := json.Unmarshal(resp.Data, &got); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	switch {
	case got.Error != nil && got.Error.ErrorCode == codeNoMessage:
		return nil, ErrNotFound
	case got.Error != nil:
		return nil, got.Error
	case got.Message == nil:
		return nil, errors.New("the answer holds no message")
	}
	m := &Msg{Subject: got.Message.Subject, Data: got.Message.Data, Sequence: got.Message.Sequence, Time: got.Message.Time}
	if len(got.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(got.Message.Header)
		if err != nil {
			return nil, fmt.Errorf("reading the header of %s: %w", m.Subject, err)
		}
		m.Header = subjects.Header(h)
	}
	return m, nil
}

// Last reads the last record on a subject from the stream's leader, so it is
// never stale. It returns an error that wraps ErrNotFound where there is none.
// A context without a deadline is given 5 s.
func Last(ctx context.Context, js jetstream.JetStream, stream, subject string) (*Msg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := get(ctx, js, stream, getRequest{LastBySubject: subject})
	if err != nil {
		return nil, fmt.Errorf("last record of %s: %w", subject, err)
	}
	return m, nil
}

// LastSequence is the sequence of the stream's last message, 0 in an empty
// stream, as its leader says.
func LastSequence(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("last sequence of %s: %w", stream, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// Reach is how far a stream has come: the sequence of its last message, and by how
// many messages it is behind the sources that it takes from, the worst of them, as
// its leader last knew.
func Reach(ctx context.Context, js jetstream.JetStream, stream string) (last, lag uint64, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, 0, fmt.Errorf("how far %s has come: %w", stream, err)
	}
	info := s.CachedInfo()
	for _, source := range info.Sources {
		lag = max(lag, source.Lag)
	}
	return info.State.LastSeq, lag, nil
}

// SequenceSince finds the sequence at which to start reading: of the first record
// that came into the stream at t or later; with the zero time 0, which is the
// first. Streams that deny deletion have no holes, and their times don't go back,
// so halving finds it.
func SequenceSince(ctx context.Context, js jetstream.JetStream, stream string, t time.Time) (uint64, error) {
	if t.IsZero() {
		return 0, nil
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 || !state.FirstTime.Before(t) {
		return state.FirstSeq, nil
	}
	n := int(state.LastSeq - state.FirstSeq + 1)
	i := sort.Search(n, func(i int) bool {
		if err != nil {
			return true
		}
		m, e := s.GetMsg(ctx, state.FirstSeq+uint64(i))
		switch {
		case errors.Is(e, jetstream.ErrMsgNotFound): // it has just become too old to be kept
			return false
		case e != nil:
			err = fmt.Errorf("find the first record since %s: %w", t.Format(time.RFC3339), e)
			return true
		}
		return !m.Time.Before(t)
	})
	return state.FirstSeq + uint64(i), err
}

// History reads every stored record on a subject, oldest first: at most 64
// from the bucket. It is empty where there is none. The subject may hold
// wildcards. The stream's leader answers.
func History(ctx context.Context, js jetstream.JetStream, stream, subject string) ([]Msg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var all []Msg
	for next := uint64(1); ; {
		m, err := get(ctx, js, stream, getRequest{Sequence: next, NextBySubject: subject})
		if errors.Is(err, ErrNotFound) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("history of %s: %w", subject, err)
		}
		all = append(all, *m)
		next = m.Sequence + 1
	}
}

// DirectGet sends a Direct Get request (see subjects.DirectGetDesired) with an
// empty payload and returns the record, or an error that wraps ErrNotFound
// where there is none. On a replicated stream the answer may be a revision
// old. A context without a deadline is given 5 s.
func DirectGet(ctx context.Context, nc *nats.Conn, requestSubject string) (*Msg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	fail := func(err error) (*Msg, error) {
		return nil, fmt.Errorf("direct get %s: %w", requestSubject, err)
	}
	resp, err := nc.RequestWithContext(ctx, requestSubject, nil)
	if err != nil {
		return fail(err)
	}
	h := subjects.Header(resp.Header)
	switch status := h.Get("Status"); {
	case status == "404":
		return fail(ErrNotFound)
	case status != "" && h.Get(jetstream.SequenceHeader) == "":
		return fail(fmt.Errorf("the broker answered %s %s", status, h.Get("Description")))
	}
	m := &Msg{Header: h, Data: resp.Data, Subject: broker(h, jetstream.SubjectHeader)}
	if m.Sequence, err = strconv.ParseUint(broker(h, jetstream.SequenceHeader), 10, 64); err != nil {
		return fail(fmt.Errorf("reading %s: %w", jetstream.SequenceHeader, err))
	}
	if m.Time, err = time.Parse(time.RFC3339Nano, broker(h, jetstream.TimeStampHeaer)); err != nil {
		return fail(fmt.Errorf("reading %s: %w", jetstream.TimeStampHeaer, err))
	}
	return m, nil
}

// broker takes a header that the broker adds. A writer can put one of the same
// name into its message, and then both are there: the broker's is the last.
func broker(h subjects.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}
