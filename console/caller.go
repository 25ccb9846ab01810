package console

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// ViewersOrganization is the organization in the subject of a client
// certificate whose bearer may see everything. Every other certificate is a
// host's.
const ViewersOrganization = "tsunami-viewers"

// caller is whom a request comes from.
type caller struct {
	all  bool         // sees everything: a viewer, or more
	tell bool         // may say what fires: Alertmanager
	host rollout.Host // sees its own desired state
}

// What who returns for those whom it doesn't know. The texts are what they are
// told, the same for everyone.
var (
	errStranger = errors.New("who are you? want 'Authorization: Bearer TOKEN', which 'tsunamictl access token' makes, or a client certificate")
	errBadToken = errors.New("the token isn't one for this server: expired, revoked, issued elsewhere, or not a token for HTTP; 'tsunamictl access token' makes one")
	errBadCert  = errors.New("the client certificate names no host: want a host's DNS name in it, or the organization " + ViewersOrganization)
)

// gate lets those through who may see what they ask for.
type gate struct {
	authority func() *access.Authority // nil: there are no identities, and everybody sees everything
}

// who says whom a request comes from. A token counts before a certificate.
func (g *gate) who(r *http.Request, now time.Time) (caller, error) {
	if g.authority == nil {
		return caller{all: true, tell: true}, nil
	}
	if said := r.Header.Values("Authorization"); len(said) > 0 {
		return g.bearer(said, now)
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return caller{}, errStranger
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if slices.Contains(leaf.Subject.Organization, ViewersOrganization) {
		return caller{all: true}, nil
	}
	name := leaf.Subject.CommonName
	if len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	host, err := rollout.ParseHost(name)
	if err != nil {
		return caller{}, errBadCert
	}
	return caller{host: host}, nil
}

func (g *gate) bearer(said []string, now time.Time) (caller, error) {
	scheme, token, _ := strings.Cut(said[0], " ")
	if len(said) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return caller{}, errStranger
	}
	id, err := g.authority().Identify(strings.TrimSpace(token), now)
	if err != nil || !id.Bearer {
		return caller{}, errBadToken
	}
	switch {
	case id.Role.Person():
		return caller{all: true}, nil
	case id.Role == subjects.RoleAlerter:
		return caller{tell: true}, nil
	case id.Role == subjects.RoleAgent:
		host, err := rollout.ParseHost(id.Name)
		if err != nil {
			return caller{}, errBadToken
		}
		return caller{host: host}, nil
	}
	return caller{}, nil // a part of tsunamid: it has no business here
}

// admit answers those whom it doesn't know.
func (g *gate) admit(w http.ResponseWriter, r *http.Request) (caller, bool) {
	c, err := g.who(r, time.Now())
	if err == nil {
		return c, true
	}
	challenge := `Bearer realm="tsunami"`
	if errors.Is(err, errBadToken) {
		challenge += `, error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	fail(w, http.StatusUnauthorized, "unauthorized", err.Error())
	return caller{}, false
}

// viewers lets those through who see everything.
func (g *gate) viewers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := g.admit(w, r)
		switch {
		case !ok:
		case !c.all:
			fail(w, http.StatusForbidden, "forbidden", "this is for viewers")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// alerters lets those through who may say what fires.
func (g *gate) alerters(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := g.admit(w, r)
		switch {
		case !ok:
		case !c.tell:
			fail(w, http.StatusForbidden, "forbidden", "this is for Alertmanager: 'tsunamictl access token NAME --role alerter' makes its token")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// own lets those through who see everything, and the host that the path names.
// Whether there is such a host isn't looked up before.
func (g *gate) own(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := g.admit(w, r)
		switch {
		case !ok:
		case !c.all && (c.host == "" || string(c.host) != r.PathValue("host")):
			fail(w, http.StatusForbidden, "forbidden", "a host may read its own desired state, and a viewer every host's")
		default:
			next.ServeHTTP(w, r)
		}
	})
}
