package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// patience is how long a request is repeated while nobody serves it.
const patience = 2 * time.Second

// Client makes requests as one actor. Its methods may be called from several
// goroutines.
type Client struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	actor rollout.ID

	credentials *access.Credentials // nil: nothing is sealed
	denied      denials
	role        atomic.Value // of the actor: a subjects.Role, once an answer said it
}

// NewClient makes a client over a connection, which stays the caller's. The
// actor is who the audit log will name; where the broker knows identities it
// must be the connection's own.
func NewClient(nc *nats.Conn, actor rollout.ID) (*Client, error) {
	if _, err := rollout.ParseID("operator", string(actor)); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("a client on %s: %w", nc.ConnectedUrlRedacted(), err)
	}
	return &Client{nc: nc, js: js, actor: actor}, nil
}

// NewClientWith makes a client of whoever the credentials are. It seals its
// requests with their key, and hears on the connection, which is made with the
// same credentials, what the broker doesn't allow them: it goes before the
// connection's error handler and passes on to it what it hears.
func NewClientWith(nc *nats.Conn, credentials *access.Credentials) (*Client, error) {
	c, err := NewClient(nc, rollout.ID(credentials.Name()))
	if err != nil {
		return nil, fmt.Errorf("the credentials' name: %w", err)
	}
	c.credentials = credentials
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, s *nats.Subscription, err error) {
		c.denied.hear(err)
		if next != nil {
			next(nc, s, err)
		}
	})
	return c, nil
}

// Identity is who the client's credentials say that it is, and with which role,
// "" where no answer has said it yet. Without credentials there is none.
func (c *Client) Identity() (name rollout.ID, role subjects.Role) {
	if c.credentials == nil {
		return "", ""
	}
	role, _ = c.role.Load().(subjects.Role)
	return c.actor, role
}

// Conn is the connection that the client was made over.
func (c *Client) Conn() *nats.Conn { return c.nc }

// Call makes a request and decodes the answer into resp, which may be nil; a
// nil req is an empty one. A context without a deadline is given RequestTime
// and a little more. The error is an *Error where the service said no or
// nobody answers, and wraps context.DeadlineExceeded where the answer didn't
// come in time: what was asked for may have happened then.
func (c *Client) Call(ctx context.Context, verb Verb, req, resp any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, RequestTime+2*time.Second)
		defer cancel()
	}
	var body []byte
	if req != nil {
		var err error
		if body, err = subjects.Encode(req); err != nil {
			return fmt.Errorf("%s: encode the request: %w", verb, err)
		}
	}
	if len(body) > MaxRequest {
		return Errorf(Usage, "%s: a request of %d bytes: at most %d are taken; ask in smaller pieces", verb, len(body), MaxRequest)
	}
	answer, err := c.request(ctx, verb, body)
	if err != nil {
		return err
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(answer, resp); err != nil {
		return Errorf(Failed, "%s: the answer can't be read: %v: is tsunamictl older than tsunamid?", verb, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, verb Verb, body []byte) ([]byte, error) {
	subject := subjects.API + string(c.actor) + "." + string(verb)
	inbox := c.nc.NewInbox()
	ctx, done := c.denied.watch(ctx, subject, inbox)
	defer done()
	fail := func(err error) error {
		if denied, ok := errors.AsType[*deniedError](context.Cause(ctx)); ok {
			return c.explain(denied, verb)
		}
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return Errorf(Unavailable, "no scheduler answers: is tsunamid running (with the scheduler part) at %s?", c.url())
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			return fmt.Errorf("%s: no answer in time; what was asked for may have happened, look before asking again: %w", verb, context.DeadlineExceeded)
		}
		if errors.Is(err, nats.ErrReconnectBufExceeded) {
			return Errorf(Unavailable, "%s: there is no connection to the broker now", verb)
		}
		return fmt.Errorf("%s: %w", verb, err)
	}
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // a connection that is gone has no subscriptions
	// A request that nobody had is asked again as another one: a scheduler takes
	// none of before it began to lead.
	ask := func() error {
		m := nats.NewMsg(subject)
		m.Reply, m.Data = inbox, body
		m.Header.Set(headerParts, "1")
		if c.credentials != nil {
			c.credentials.SealRequest(subject, subjects.Header(m.Header), body, time.Now())
		}
		return c.nc.PublishMsg(m)
	}
	if err := ask(); err != nil {
		return nil, fail(err)
	}
	var answer []byte
	waited := time.Duration(0)
	for parts := 0; ; {
		reply, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) && waited < patience {
			// Nobody had it, so asking again asks once: a scheduler that has
			// just started, or is taking over, serves in a moment.
			select {
			case <-ctx.Done():
			case <-time.After(patience / 10):
			}
			waited += patience / 10
			err = ask()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fail(err)
		}
		if role, err := subjects.ParseRole(reply.Header.Get(headerRole)); err == nil {
			c.role.Store(role)
		}
		if code := reply.Header.Get(micro.ErrorCodeHeader); code != "" {
			return nil, remote(reply)
		}
		answer = append(answer, reply.Data...)
		if len(answer) > MaxResponse {
			return nil, Errorf(Failed, "%s: the answer is larger than %d bytes", verb, MaxResponse)
		}
		part := reply.Header.Get(headerPart)
		if part == "" {
			return answer, nil
		}
		parts++
		if want, last := strconv.Itoa(parts)+"/", strings.HasSuffix(part, "/"+strconv.Itoa(parts)); !strings.HasPrefix(part, want) {
			return nil, Errorf(Failed, "%s: part %d of the answer was lost (%q came): ask again", verb, parts, part)
		} else if last {
			return answer, nil
		}
	}
}

// remote reads an error answer, an older or foreign service's too.
func remote(m *nats.Msg) error {
	e := new(Error)
	if err := json.Unmarshal(m.Data, e); err != nil || e.Code == "" {
		e = Errorf(Failed, "%s", m.Header.Get(micro.ErrorHeader))
	}
	return e
}

func (c *Client) url() string {
	if u := c.nc.ConnectedUrlRedacted(); u != "" {
		return u
	}
	return "the broker"
}

// Abort freezes a rollout by writing its abort key, which needs no scheduler:
// from the moment that this returns, no step of the rollout commits. It
// returns the sequence, which a resume has to acknowledge. A rollout that the
// bucket doesn't know is an *Error with the code NotFound, since a mistyped id
// would abort nothing.
func (c *Client) Abort(ctx context.Context, id rollout.ID, why string) (uint64, error) {
	if _, err := rollout.ParseID("rollout", string(id)); err != nil {
		return 0, &Error{Code: Usage, Message: err.Error()}
	}
	look, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := bus.Last(look, c.js, subjects.Stream, subjects.KindRollout.Subject(string(id))); errors.Is(err, bus.ErrNotFound) {
		return 0, Errorf(NotFound, "rollout %s: not found, so nothing was aborted; 'tsunamictl rollout list' lists them, 'tsunamictl stop' stops everything", id)
	}
	// Whatever else went wrong with looking, an abort is tried.
	return c.brake(ctx, subjects.KindAbort.Subject(string(id)), why)
}

// Stop presses the red button: from the moment that this returns, nothing is
// told to any host. It needs no scheduler. It returns the sequence, which a
// start has to acknowledge.
func (c *Client) Stop(ctx context.Context, why string) (uint64, error) {
	return c.brake(ctx, subjects.KindStop.Subject(""), why)
}

func (c *Client) brake(ctx context.Context, subject, why string) (uint64, error) {
	body, err := subjects.Encode(subjects.Abort{Why: why, Actor: string(c.actor), Time: time.Now().UTC()})
	if err != nil {
		return 0, err
	}
	ctx, done := c.denied.watch(ctx, subject)
	defer done()
	seq, err := bus.Put(ctx, c.js, bus.Message{Subject: subject, Data: body})
	if denied, ok := errors.AsType[*deniedError](err); ok {
		return 0, c.explain(denied, "")
	}
	return seq, err
}

// Brake is what stands on the key stop, or on a rollout's abort key: the
// newest record. Released says that a stop has been released.
type Brake struct {
	AbortView
	Released bool
}

// LastStop reads the key stop; nil where nobody ever stopped anything. It
// needs no scheduler.
func (c *Client) LastStop(ctx context.Context) (*Brake, error) {
	return c.last(ctx, subjects.KindStop.Subject(""))
}

// LastAbort reads a rollout's abort key; nil where there is none. It needs no
// scheduler.
func (c *Client) LastAbort(ctx context.Context, id rollout.ID) (*Brake, error) {
	return c.last(ctx, subjects.KindAbort.Subject(string(id)))
}

func (c *Client) last(ctx context.Context, subject string) (*Brake, error) {
	m, err := bus.Last(ctx, c.js, subjects.Stream, subject)
	if errors.Is(err, bus.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
	t := a.Time
	if t.IsZero() {
		t = m.Time
	}
	return &Brake{AbortView{Sequence: a.Sequence, Why: a.Why, Actor: a.Actor, Time: t}, a.Released}, nil
}
