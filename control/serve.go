package control

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// ServiceName is the name of the micro service.
const ServiceName = "tsunami"

// Bounds of a request and its answer.
const (
	// MaxRequest bounds a request's body, in bytes.
	MaxRequest = 1 << 20
	// MaxResponse bounds an answer, in bytes, over all its parts.
	MaxResponse = 32 << 20
	// RequestTime bounds how long a request may take.
	RequestTime = 10 * time.Second
)

// The headers by which a client says that it takes an answer in parts, and the
// service numbers them: "2/5" is the second of five.
const (
	headerParts = "Tsunami-Parts"
	headerPart  = "Tsunami-Part"
	// headerRole is, on an answer, the role of whoever sealed the request.
	headerRole = "Tsunami-Role"
)

// partSize leaves room below the broker's usual payload of 1 MiB for headers.
const partSize = 900 << 10

// Verbs are all verbs.
var Verbs = []Verb{
	Apply, Get, Delete, VariableList,
	RolloutStart, RolloutList, RolloutShow, RolloutPlan, RolloutPause, RolloutResume, RolloutCancel,
	RolloutApprove, RolloutAdvance, RolloutRelease, RolloutRollback,
	HostList, HostShow, HostDecommission, HostPin, HostUnpin, BlackoutList, ObjectiveList, Start, Status, Why,
}

// Request is one request as a [Handler] gets it.
type Request struct {
	Actor rollout.ID // who asks, by the message's own subject
	Verb  Verb
	Body  []byte // JSON, at most MaxRequest bytes; Decode reads it
}

// Decode reads the request's body strictly. It returns an *Error with the code
// Usage. An empty body is an empty request.
func (r Request) Decode(v any) error {
	if len(r.Body) == 0 {
		return nil
	}
	if err := subjects.DecodeInto(r.Body, v); err != nil {
		return Errorf(Usage, "%s: the request's body: %v", r.Verb, err)
	}
	return nil
}

// Handler answers a request with a value that is encoded as JSON, or with an
// error, which goes through AsError. It is called from several goroutines, for
// one verb from one at a time, and must return when ctx ends.
type Handler func(ctx context.Context, req Request) (response any, err error)

// ServeOption says more about how to serve.
type ServeOption func(*gate)

// Authorize makes Serve refuse every request for a change that isn't sealed,
// lately and for the first time, by whom its subject names, with a role that
// may ask for it. The function says who is known, as of now; nil: there are no
// identities, and the broker alone decides who may ask.
func Authorize(authority func() *access.Authority) ServeOption {
	return func(g *gate) { g.authority = authority }
}

// Serve answers requests with h until ctx ends or stop is called, whichever
// comes first; both may be. When stop returns no more requests come. The version is shown by `nats micro info`; one that isn't a
// semantic version is shown as 0.0.0.
func Serve(ctx context.Context, nc *nats.Conn, version string, h Handler, options ...ServeOption) (stop func(), err error) {
	g := &gate{began: time.Now()}
	for _, o := range options {
		o(g)
	}
	ctx, cancel := context.WithCancel(ctx)
	svc, err := micro.AddService(nc, micro.Config{
		Name: ServiceName, Version: semantic(version),
		Description: "Operators' requests to the Tsunami scheduler, on " + subjects.API + "<actor>.<verb>",
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("serve the operators' requests: %w", err)
	}
	for _, verb := range Verbs {
		err := svc.AddEndpoint(strings.ReplaceAll(string(verb), ".", "-"), micro.HandlerFunc(func(m micro.Request) {
			g.serve(ctx, nc, verb, m, h)
		}), micro.WithEndpointSubject(subjects.API+"*."+string(verb)))
		if err != nil {
			cancel()
			return nil, errors.Join(fmt.Errorf("serve %s: %w", verb, err), svc.Stop())
		}
	}
	// Subscriptions must be with the broker before "I serve" is true.
	if err := nc.FlushTimeout(RequestTime); err != nil && !errors.Is(err, nats.ErrConnectionReconnecting) {
		cancel()
		return nil, errors.Join(fmt.Errorf("serve the operators' requests: %w", err), svc.Stop())
	}
	undo := context.AfterFunc(ctx, func() { _ = svc.Stop() }) // a connection that is gone has no subscriptions
	return sync.OnceFunc(func() {
		undo()
		_ = svc.Stop()
		// From here on nobody's request comes to this service; who waits is
		// answered. A broker that is away has nobody who asks.
		_ = nc.FlushTimeout(time.Second)
		cancel()
	}), nil
}

var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9a-zA-Z.-]+)?(\+[0-9a-zA-Z.-]+)?$`)

func semantic(version string) string {
	if v := strings.TrimPrefix(version, "v"); semver.MatchString(v) {
		return v
	}
	return "0.0.0"
}

// caller reads the actor from a request's own subject, and refuses what can't
// be a request: an echo of a key that somebody put into the bucket under
// api.<actor>.<verb> would otherwise be one in another's name.
func caller(m micro.Request, verb Verb) (rollout.ID, error) {
	if m.Headers().Get("Nats-Stream") != "" || m.Headers().Get("Nats-Subject") != "" {
		return "", errors.New("this message was echoed from a stream; it isn't a request")
	}
	rest, ok := strings.CutPrefix(m.Subject(), subjects.API)
	token, v, found := strings.Cut(rest, ".")
	if !ok || !found || v != string(verb) {
		return "", fmt.Errorf("subject %q isn't %s<actor>.%s", m.Subject(), subjects.API, verb)
	}
	return rollout.ParseID("operator", token)
}

func (g *gate) serve(ctx context.Context, nc *nats.Conn, verb Verb, m micro.Request, h Handler) {
	if m.Reply() == "" {
		return // nobody waits for an answer, so nobody asked
	}
	ctx, cancel := context.WithTimeout(ctx, RequestTime)
	defer cancel()
	body, who, err := g.answer(ctx, verb, m, h)
	if err == nil {
		err = send(m, body, who, nc.MaxPayload())
	}
	if err != nil {
		fail(m, AsError(err))
	}
}

func (g *gate) answer(ctx context.Context, verb Verb, m micro.Request, h Handler) (body []byte, who access.Identity, err error) {
	actor, err := caller(m, verb)
	if err != nil {
		return nil, who, &Error{Code: Usage, Message: err.Error()}
	}
	if len(m.Data()) > MaxRequest {
		return nil, who, Errorf(Usage, "%s: a request of %d bytes: at most %d are taken", verb, len(m.Data()), MaxRequest)
	}
	if who, err = g.admit(verb, actor, m.Subject(), subjects.Header(m.Headers()), m.Data(), time.Now()); err != nil {
		return nil, who, err
	}
	type result struct {
		response any
		err      error
	}
	stopping := Errorf(Unavailable, "%s: the scheduler is stopping or has lost the lead: ask again", verb)
	if ctx.Err() != nil { // its subscriptions are on their way out
		return nil, who, stopping
	}
	done := make(chan result, 1)
	go func() {
		response, err := h(ctx, Request{actor, verb, m.Data()})
		done <- result{response, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, who, r.err
		}
		b, err := subjects.Encode(r.response)
		if err != nil {
			return nil, who, fmt.Errorf("%s: encode the answer: %w", verb, err)
		}
		return b, who, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, who, stopping
		}
		return nil, who, Errorf(Unavailable, "%s: the scheduler took longer than %s; what was asked for may still happen: look before asking again", verb, RequestTime)
	}
}

// send answers in one message, or in parts where the client takes them, and
// says what role whoever has proved to be somebody has.
func send(m micro.Request, body []byte, who access.Identity, payload int64) error {
	h := micro.Headers{}
	if who.Role != "" {
		h[headerRole] = []string{string(who.Role)}
	}
	size := int(min(payload-4096, partSize))
	if len(body) <= size {
		return m.Respond(body, micro.WithHeaders(h))
	}
	if len(body) > MaxResponse {
		return Errorf(Failed, "the answer has %d bytes, more than the %d that are sent: ask for less", len(body), MaxResponse)
	}
	if m.Headers().Get(headerParts) == "" {
		return Errorf(Failed, "the answer has %d bytes, more than one message takes: ask for less, or use tsunamictl, which takes it in parts", len(body))
	}
	n := (len(body) + size - 1) / size
	for i := range n {
		part := body[i*size : min(len(body), (i+1)*size)]
		h[headerPart] = []string{strconv.Itoa(i+1) + "/" + strconv.Itoa(n)}
		if err := m.Respond(part, micro.WithHeaders(h)); err != nil {
			return err
		}
	}
	return nil
}

func fail(m micro.Request, e *Error) {
	body, err := subjects.Encode(e)
	if err != nil || len(body) > partSize {
		e = &Error{Code: e.Code, Message: shorten(e.Error(), 1000)}
		body, _ = subjects.Encode(e)
	}
	// The description travels in a header: one line.
	description := shorten(strings.Join(strings.Fields(e.Error()), " "), 1000)
	if description == "" {
		description = string(e.Code)
	}
	// Whether the answer reaches the client is the client's to find out.
	_ = m.Error(string(e.Code), description, body)
}
