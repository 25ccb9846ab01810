package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	maxJoinBody = 8 << 10
	// joinsAtOnce is one: each is a signature, a few reads and a write, and two
	// with the same token would only get into each other's way.
	joinsAtOnce = 1
	// joinAttempts is how often one is tried anew because another console let
	// somebody in with the same token at the same moment.
	joinAttempts = 32
)

// Enrolment is what it takes to let hosts join by token.
type Enrolment struct {
	// JetStream is that of the part joiner.
	JetStream jetstream.JetStream
	// Server is the access directory as it is now. Where it has no key for
	// joining, nobody can join.
	Server func() *access.Server
}

// joining serves subjects.JoinPath.
type joining struct {
	Enrolment
	authority func() *access.Authority
	logger    *slog.Logger
	busy      chan struct{}
	guesses
}

func newJoining(o Options) *joining {
	return &joining{Enrolment: *o.Enrolment, authority: o.Authority, logger: o.Logger, busy: make(chan struct{}, joinsAtOnce)}
}

// refusal is an answer other than an identity.
type refusal struct {
	status  int
	code    string
	message string
	guess   bool // it counts against the address
}

func (r *refusal) Error() string { return r.message }

// refusals that are the same for everyone, so that nobody learns from them what a
// good token would look like.
var (
	errNoRequest = &refusal{http.StatusBadRequest, "usage", "this isn't a request to join: want JSON with token, host, role, key and proof", true}
	errNoToken   = &refusal{http.StatusForbidden, "forbidden", "the join token isn't good here: wrong, expired, or for another host or role; 'tsunamictl access enroll --token' makes one", true}
	errClosed    = &refusal{http.StatusNotFound, "not_found", "hosts don't join by token here: 'tsunamictl access enroll --token' makes it possible", false}
	errGuesses   = &refusal{http.StatusTooManyRequests, "unavailable", "too many attempts failed from this address: wait a minute", false}
	errKeyGone   = &refusal{http.StatusForbidden, "forbidden", "this key was revoked: join with a new one", false}
)

func (j *joining) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "usage", fmt.Sprintf("%s isn't allowed here: want POST", clip(r.Method)))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	answer, err := j.join(ctx, r)
	if refused, ok := errors.AsType[*refusal](err); ok {
		if refused.guess {
			j.failed(origin(r), time.Now())
		}
		if refused.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "60")
		}
		fail(w, refused.status, refused.code, refused.message)
		return
	}
	if err != nil {
		j.logger.Warn("a host couldn't join", "address", r.RemoteAddr, "err", err)
		unavailable(w, "joining isn't possible at the moment: try again, with the same key")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone asks again
}

// join gives a host its identity. Errors that aren't a *refusal pass by
// themselves.
func (j *joining) join(ctx context.Context, r *http.Request) (*subjects.JoinAnswer, error) {
	if !j.allows(origin(r), time.Now()) {
		return nil, errGuesses
	}
	desk, err := j.Server().JoinDesk()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errClosed
	}
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxJoinBody))
	if err != nil {
		return nil, errNoRequest
	}
	request, err := decodeJoin(body)
	if err != nil {
		return nil, errNoRequest
	}
	select {
	case j.busy <- struct{}{}:
		defer func() { <-j.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := time.Now()
	token, err := admit(desk, request, now)
	if err != nil {
		j.logger.Warn("a bad join token", "host", request.Host, "address", r.RemoteAddr, "err", err)
		return nil, errNoToken
	}
	use := subjects.JoinUse{
		Token: token.ID, Host: request.Host, Role: request.Role, Key: request.Key, Address: r.RemoteAddr, Time: now.UTC(),
	}
	if err := j.record(ctx, use, token); err != nil {
		if refused, ok := errors.AsType[*refusal](err); ok {
			j.logger.Warn("a good join token was refused", "token", use.Token, "host", use.Host, "address", use.Address, "why", refused.message)
		}
		return nil, err
	}
	issued, err := desk.Issue(use.Host, use.Key, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("issuing the identity of %s: %w", use.Host, err)
	}
	trusted, err := j.Server().Keyring()
	if err != nil {
		return nil, fmt.Errorf("the keys that hosts pin: %w", err)
	}
	j.logger.Info("a host joined", "host", use.Host, "role", use.Role, "token", use.Token, "key", use.Key, "address", use.Address)
	return &subjects.JoinAnswer{JWT: issued.JWT, Trust: strings.Join(trusted.Keys(), "\n") + "\n"}, nil
}

// admit judges a request by its token and its proof.
func admit(desk *access.JoinDesk, r *subjects.JoinRequest, now time.Time) (*access.JoinToken, error) {
	token, err := desk.Read(r.Token)
	if err != nil {
		return nil, err
	}
	if err := token.Admits(r.Host, r.Role, now); err != nil {
		return nil, err
	}
	key, err := access.VerifyJoin(r.Proof, r.Token, r.Host, r.Role)
	if err != nil {
		return nil, err
	}
	if key != r.Key {
		return nil, errors.New("the proof is another key's")
	}
	return token, nil
}

// decodeJoin reads a request strictly.
func decodeJoin(body []byte) (*subjects.JoinRequest, error) {
	r, err := subjects.Decode[subjects.JoinRequest](body)
	if err != nil {
		return nil, err
	}
	if r.Host, err = rollout.ParseHost(string(r.Host)); err != nil {
		return nil, err
	}
	if r.Role, err = rollout.ParseWord("role", string(r.Role)); err != nil {
		return nil, err
	}
	if r.Token == "" || r.Key == "" || r.Proof == "" {
		return nil, errors.New("a field is empty")
	}
	return r, nil
}

// record writes down a use of a token, which is what makes it one: together
// with the host's own record, and only where nobody else has written the same
// use. It returns a *refusal where the token is used up or the host has an
// identity, and bus's errors. A host that asks twice with one key uses the
// token once.
func (j *joining) record(ctx context.Context, use subjects.JoinUse, token *access.JoinToken) error {
	if j.authority().Revoked(use.Key, time.Time{}) {
		return errKeyGone
	}
	body, err := subjects.Encode(use)
	if err != nil {
		return err
	}
	header := subjects.Header{
		subjects.HeaderActor: {access.PartJoiner},
		subjects.HeaderTime:  {use.Time.Format(time.RFC3339Nano)},
	}
	for range joinAttempts {
		before, sequence, err := j.read(ctx, subjects.JoinHostSubject(use.Host))
		switch {
		case err != nil:
			return err
		case sequence == 0 && token.Host == "":
			if err := j.unknown(ctx, use.Host); err != nil {
				return err
			}
		case sequence == 0:
		case before.Key == use.Key && before.Token == use.Token:
			return nil // it didn't get the answer
		case before.Key != use.Key && !j.authority().Revoked(before.Key, before.Time):
			return &refusal{http.StatusConflict, "conflict", fmt.Sprintf(
				"%s joined on %s and has an identity: it can get another after 'tsunamictl access revoke --key %s'",
				use.Host, before.Time.Format(time.RFC3339), before.Key), false}
		}
		n, last, err := j.free(ctx, use.Token, token.Uses)
		if err != nil {
			return err
		}
		if n > token.Uses {
			return &refusal{http.StatusForbidden, "forbidden", fmt.Sprintf(
				"the join token is used up: %s joined with it on %s from %s; if that wasn't meant, 'tsunamictl access revoke --key %s'",
				last.Host, last.Time.Format(time.RFC3339), last.Address, last.Key), false}
		}
		message := func(subject string, expect uint64) bus.Message {
			return bus.Message{Subject: subject, Header: header, Data: body, Expect: &bus.Expect{Subject: subject, Sequence: expect}}
		}
		_, err = bus.Commit(ctx, j.JetStream, []bus.Message{
			message(subjects.JoinUseSubject(use.Token, n), 0), message(subjects.JoinHostSubject(use.Host), sequence),
		})
		if !errors.Is(err, bus.ErrRefused) && !errors.Is(err, bus.ErrInFlight) {
			return err
		}
	}
	return fmt.Errorf("the token %s is used by too many at once", use.Token)
}

// unknown returns a *refusal where the inventory has the host, which hasn't
// joined: its identity was made for it, and a token of roles doesn't take it over.
func (j *joining) unknown(ctx context.Context, host rollout.Host) error {
	m, err := bus.Last(ctx, j.JetStream, subjects.HostsStream, subjects.HostSubject(host))
	switch {
	case errors.Is(err, bus.ErrNotFound) || err == nil && m.Header.Deleted():
		return nil
	case err != nil:
		return err
	}
	return &refusal{http.StatusConflict, "conflict", fmt.Sprintf(
		"%s has an identity that it didn't join for: 'tsunamictl access enroll --token %s' makes a token that is for this host", host, host), false}
}

// free finds the first use of a token that nobody has had, uses+1 where there is
// none, and the record of the use before it. Uses are taken in order, so that
// half of them can be passed over at each look.
func (j *joining) free(ctx context.Context, token string, uses int) (int, subjects.JoinUse, error) {
	var last subjects.JoinUse
	low, high := 1, uses+1
	for low < high {
		middle := low + (high-low)/2
		use, sequence, err := j.read(ctx, subjects.JoinUseSubject(token, middle))
		if err != nil {
			return 0, last, err
		}
		if sequence == 0 {
			high = middle
		} else {
			low, last = middle+1, use
		}
	}
	return low, last, nil
}

// read reads a record of a join; its sequence is 0 where there is none. One that
// was deleted or written by hand is a record all the same.
func (j *joining) read(ctx context.Context, subject string) (subjects.JoinUse, uint64, error) {
	m, err := bus.Last(ctx, j.JetStream, subjects.Stream, subject)
	if errors.Is(err, bus.ErrNotFound) {
		return subjects.JoinUse{}, 0, nil
	}
	if err != nil {
		return subjects.JoinUse{}, 0, err
	}
	use, err := subjects.Decode[subjects.JoinUse](m.Data)
	if err != nil {
		return subjects.JoinUse{Time: m.Time}, m.Sequence, nil
	}
	return *use, m.Sequence, nil
}
