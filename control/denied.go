package control

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// deniedError says that the broker doesn't let the client use a subject.
type deniedError struct{ subject string }

func (e *deniedError) Error() string { return "the broker doesn't allow " + e.subject }

// denials bring what the broker says in passing, that it doesn't allow a
// message, to whoever waits for an answer to that message.
type denials struct {
	mu      sync.Mutex
	waiting map[*denialWait]struct{}
}

type denialWait struct {
	subjects []string
	end      context.CancelCauseFunc
}

// watch gives a context that ends, with a *deniedError as its cause, when the
// broker refuses one of the subjects, and at the latest when done is called.
func (d *denials) watch(ctx context.Context, subjects ...string) (_ context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	w := &denialWait{subjects, end}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[*denialWait]struct{}{}
	}
	d.waiting[w] = struct{}{}
	return ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, w)
		end(nil)
	}
}

// violation is how the broker names the subject that it doesn't allow.
var violation = regexp.MustCompile(`(?i)permissions violation for \w+ to "([^"]*)"`)

func (d *denials) hear(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	found := violation.FindStringSubmatch(err.Error())
	if found == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.waiting {
		if slices.Contains(w.subjects, found[1]) {
			w.end(&deniedError{found[1]})
		}
	}
}

// askRole bounds how long a refused client asks who it is.
const askRole = time.Second

// explain says of what the broker doesn't allow who may; verb is what was asked
// of the scheduler, "" for what was written into the bucket.
func (c *Client) explain(denied *deniedError, verb Verb) *Error {
	if strings.HasPrefix(denied.subject, "_INBOX") {
		return Errorf(Refused, "the broker doesn't let %s hear answers on %s: leave inbox_prefix out of the context, or make it %s", c.actor, denied.subject, c.credentials.Inbox(true))
	}
	what, may := "ask for "+string(verb), whoMay(verb)
	if verb == "" {
		_, key, _ := strings.Cut(denied.subject, "$KV."+subjects.Bucket+".")
		kind, _, _ := strings.Cut(key, ".")
		what, may = map[string]string{"stop": "stop everything", "abort": "abort a rollout"}[kind], "an operator or an admin"
	}
	name, role := c.Identity()
	if role == "" && verb != Status {
		ctx, cancel := context.WithTimeout(context.Background(), askRole)
		defer cancel()
		_, err := c.request(ctx, Status, nil)
		if _, role = c.Identity(); err != nil || role == "" {
			return Errorf(Refused, "the broker doesn't let %s %s: %s may", name, what, may)
		}
	}
	return Errorf(Refused, "%s is %s and may not %s: %s may", name, aRole(role), what, may)
}
