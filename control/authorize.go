package control

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	// clocks is how far the clocks of an operator and of the scheduler may
	// differ: a request is taken for so long around its time.
	clocks = 2 * time.Minute
	// maxNonce bounds a nonce, in bytes.
	maxNonce = 64
	// maxNonces bounds how many are remembered: far more than a fleet's
	// operators and their scripts ask for in a few minutes.
	maxNonces = 100_000
)

// gate decides who may ask for what. A request that changes something proves by
// its seal who asks, so that a broker that was broken into can't ask for
// anything; reading needs none, since that broker can read everything anyway.
type gate struct {
	authority func() *access.Authority // nil: there are no identities
	began     time.Time                // when this service began; what was asked before isn't for it
	seen      nonces
}

// admit returns nil where the request may be carried out, and who proved to
// have made it, if anybody did. Else it returns an *Error.
func (g *gate) admit(verb Verb, actor rollout.ID, subject string, h subjects.Header, body []byte, now time.Time) (access.Identity, error) {
	if g.authority == nil {
		return access.Identity{}, nil
	}
	id, err := g.prove(verb, actor, subject, h, body, now)
	if subjects.MayAsk(subjects.RoleViewer, string(verb)) {
		if err != nil {
			return access.Identity{}, nil
		}
		return id, nil
	}
	if err == nil && !subjects.MayAsk(id.Role, string(verb)) {
		err = Errorf(Refused, "%s is %s and may not ask for %s: %s may", actor, aRole(id.Role), verb, whoMay(verb))
	}
	if err == nil {
		err = g.once(verb, h.Get(subjects.HeaderNonce), id.Key, now)
	}
	return id, err
}

// prove says who sealed a request, where that is the actor, lately.
func (g *gate) prove(verb Verb, actor rollout.ID, subject string, h subjects.Header, body []byte, now time.Time) (access.Identity, error) {
	authority := g.authority()
	if authority == nil {
		return access.Identity{}, Errorf(Unavailable, "%s: the scheduler doesn't know yet who may ask: ask again", verb)
	}
	id, asked, err := authority.VerifyRequest(subject, h, body, now)
	switch {
	case errors.Is(err, access.ErrUnsealed):
		return id, Errorf(Refused, "%s: the request bears no seal, and whoever asks for a change has to prove who they are: use tsunamictl with --creds FILE, or a --context that has one", verb)
	case errors.Is(err, access.ErrNotKnown):
		return id, Errorf(Refused, "%s: %v: whoever issues identities makes new credentials with 'tsunamictl access operator add'", verb, err)
	case err != nil:
		return id, Errorf(Refused, "%s: the request was changed on its way, or isn't whole: %v: ask again, and if that doesn't help, look who is between you and the scheduler", verb, err)
	case id.Bearer:
		return id, Errorf(Refused, "%s: a token that only has to be shown is for HTTP alone: use credentials with a key", verb)
	case id.Name != string(actor):
		return id, Errorf(Refused, "%s: asked as %s and sealed by %s: ask as yourself, without --actor", verb, actor, shorten(id.Name, 100))
	case asked.Sub(now).Abs() > clocks:
		return id, Errorf(Refused, "%s: the request is of %s and here it is %s: more than %s apart; set the clocks and ask again, nothing was done", verb, instant(asked), instant(now), rollout.Duration(clocks))
	case asked.Before(g.began):
		return id, Errorf(Unavailable, "%s: the request is of %s and this scheduler leads since %s: look whether the one before it has done it, then ask again; if that says the same, set the clock", verb, instant(asked), instant(g.began))
	}
	return id, nil
}

// once refuses a request that came before.
func (g *gate) once(verb Verb, nonce, key string, now time.Time) error {
	if nonce == "" || len(nonce) > maxNonce {
		return Errorf(Refused, "%s: the request has no %s of 1 to %d bytes, which tells it from a repeated one: use tsunamictl", verb, subjects.HeaderNonce, maxNonce)
	}
	switch g.seen.add(key+nonce, now) {
	case nonceSeen:
		return Errorf(Refused, "%s: the same request came before, so this is a copy of it: look what it did before asking again", verb)
	case nonceFull:
		return Errorf(Unavailable, "%s: more than %d requests came in a few minutes: ask again later", verb, maxNonces)
	}
	return nil
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// aRole is a role with its article.
func aRole(r subjects.Role) string {
	if strings.ContainsRune("aeiou", rune(r[0])) {
		return "an " + string(r)
	}
	return "a " + string(r)
}

// whoMay lists the people's roles that may make a request.
func whoMay(verb Verb) string {
	var all []string
	for _, r := range subjects.Roles {
		if subjects.MayAsk(r, string(verb)) {
			all = append(all, aRole(r))
		}
	}
	last := len(all) - 1
	if last < 1 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:last], ", ") + " or " + all[last]
}

type nonceFate int

const (
	nonceNew nonceFate = iota
	nonceSeen
	nonceFull
)

// nonces remembers what came for at least as long as it would be taken again,
// 2·clocks, and at most twice as long: two sets that take turns.
type nonces struct {
	mu       sync.Mutex
	new, old map[string]struct{}
	turned   time.Time
}

func (n *nonces) add(nonce string, now time.Time) nonceFate {
	n.mu.Lock()
	defer n.mu.Unlock()
	if age := now.Sub(n.turned); age >= 2*clocks {
		n.old = n.new
		if age >= 4*clocks {
			n.old = nil
		}
		n.new, n.turned = map[string]struct{}{}, now
	}
	_, recent := n.new[nonce]
	_, before := n.old[nonce]
	switch {
	case recent || before:
		return nonceSeen
	case len(n.new) >= maxNonces:
		return nonceFull
	}
	n.new[nonce] = struct{}{}
	return nonceNew
}
