package control

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// VerifyOptions say how to verify the audit log.
type VerifyOptions struct {
	// Trust are the keys whose seals are good; nil: seals aren't checked.
	Trust *access.Keyring
	// From is the sequence in the log to begin at; 0 is its beginning.
	From uint64
}

// Verification is what verifying the audit log came to.
type Verification struct {
	Records       uint64    `json:"records"` // that were read
	First         uint64    `json:"first,omitempty"`
	Last          uint64    `json:"last,omitempty"`
	Hosts         int       `json:"hosts"`    // whose generations were followed
	Compared      uint64    `json:"compared"` // records that the bucket still keeps
	Chained       uint64    `json:"chained"`  // records that say which one of their key is before them
	SealsChecked  bool      `json:"sealsChecked"`
	Seals         uint64    `json:"seals"`         // that are good
	NeedNone      uint64    `json:"needNone"`      // records that are plain by design: aborts, stops and joins
	Findings      []Finding `json:"findings"`      // the first of them
	FindingsTotal uint64    `json:"findingsTotal"` // all of them
}

// Finding is one thing that is wrong with the audit log.
type Finding struct {
	Sequence uint64        `json:"sequence,omitempty"` // in the log; 0: it isn't there
	Origin   uint64        `json:"origin,omitempty"`   // the sequence in the bucket
	Kind     subjects.Kind `json:"kind,omitempty"`
	Name     string        `json:"name,omitempty"` // of the host, the rollout, …
	Problem  string        `json:"problem"`
}

// maxFindings bounds how many findings are kept. A log with more is beyond
// being read one by one.
const maxFindings = 1000

// catchUp bounds how long the log is waited for: it is a copy, a moment behind.
const catchUp = 10 * time.Second

// Verify reads the whole audit log beside the bucket and says what is wrong:
// every seal, that every record which the bucket still keeps is in the log as it
// is there, that the log's order is the bucket's, that no host's generation and
// no revision that a sealed record names is missing. It keeps a few words for
// each host and key and so needs little memory however long the log is, and no
// scheduler. What is wrong with the log is in the Verification; the error says
// that it couldn't be read.
func (c *Client) Verify(ctx context.Context, o VerifyOptions) (*Verification, error) {
	fail := func(err error) (*Verification, error) { return nil, fmt.Errorf("audit verify: %w", c.noLog(err)) }
	// The bucket first: whatever it holds now is in the log soon. Without a
	// filter: with several the broker takes many times as long.
	next, stop := iter.Pull2(c.storedFrom(ctx, subjects.Stream, nil, 1))
	defer stop()
	kept := &cursor{next: next}
	kept.advance()
	v := newVerifier(o, kept)
	for began := time.Now(); ; {
		for m, err := range c.storedFrom(ctx, subjects.AuditStream, nil, max(v.out.Last+1, o.From, 1)) {
			if err != nil {
				return fail(err)
			}
			v.take(m)
		}
		v.flush()
		if kept.err != nil {
			return fail(kept.err)
		}
		nothing := !v.begins && v.origin == 0 // it was asked for from after the end
		if kept.ended || nothing || time.Since(began) > catchUp {
			break
		}
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-time.After(catchUp / 50):
		}
	}
	return v.end(), nil
}

// cursor goes through those of the bucket's records that the log keeps, in
// their order.
type cursor struct {
	next  func() (bus.Msg, error, bool)
	at    bus.Msg // void where ended
	ended bool
	err   error
}

func (c *cursor) advance() {
	for {
		m, err, ok := c.next()
		c.at, c.err, c.ended = m, err, !ok || err != nil
		if kind, _, _ := subjects.ParseKey(m.Subject); c.ended || slices.Contains(subjects.Audited, kind) {
			return
		}
	}
}
