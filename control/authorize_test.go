package control

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// identities are an access directory and what it issues.
type identities struct {
	t     *testing.T
	dir   string
	store *access.Store
}

func newIdentities(t *testing.T) *identities {
	t.Helper()
	i := &identities{t: t, dir: filepath.Join(t.TempDir(), "access")}
	var err error
	if i.store, err = access.Init(i.dir); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *identities) issue(name string, role subjects.Role) *access.Credentials {
	i.t.Helper()
	out, err := i.store.Issue(access.Wanted{Name: name, Role: role})
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := access.ParseCredentials(out[0].Credentials)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

func (i *identities) authority() *access.Authority {
	server, err := access.LoadServer(i.dir)
	if err != nil {
		i.t.Fatal(err)
	}
	a, err := server.Authority()
	if err != nil {
		i.t.Fatal(err)
	}
	return a
}

// What a broker that was broken into would have to send as an operator, and
// what people may not ask for.
func TestRequestsThatAreRefused(t *testing.T) {
	i := newIdentities(t)
	ada, vera, eve := i.issue("ada", subjects.RoleOperator), i.issue("vera", subjects.RoleViewer), i.issue("eve", subjects.RoleOperator)
	stranger := newIdentities(t).issue("ada", subjects.RoleOperator)
	if _, err := i.store.Revoke("eve", ""); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	began := now.Add(-time.Minute)
	const subject, body = "tsunami.api.ada.apply", `{"documents":[]}`
	request := func(c *access.Credentials, subject string, at time.Time) subjects.Header {
		h := subjects.Header{}
		c.SealRequest(subject, h, []byte(body), at)
		return h
	}
	admit := func(g *gate, verb Verb, actor rollout.ID, subject string, h subjects.Header, body string) error {
		_, err := g.admit(verb, actor, subject, h, []byte(body), now)
		return err
	}
	fresh := func() *gate { return &gate{authority: i.authority, began: began} }
	if err := admit(fresh(), Apply, "ada", subject, request(ada, subject, now), body); err != nil {
		t.Fatalf("ada's own: %v", err)
	}
	for name, tt := range map[string]struct {
		verb    Verb
		actor   rollout.ID
		subject string
		header  subjects.Header
		body    string
		want    string
	}{
		"unsealed":                {Apply, "ada", subject, subjects.Header{}, body, "no seal"},
		"of yesterday":            {Apply, "ada", subject, request(ada, subject, now.Add(-24*time.Hour)), body, "more than 2m apart"},
		"of tomorrow":             {Apply, "ada", subject, request(ada, subject, now.Add(24*time.Hour)), body, "more than 2m apart"},
		"before it led":           {Apply, "ada", subject, request(ada, subject, began.Add(-time.Second)), body, "leads since"},
		"another body":            {Apply, "ada", subject, request(ada, subject, now), `{"documents":[{}]}`, "changed on its way"},
		"another verb":            {Delete, "ada", "tsunami.api.ada.delete", request(ada, subject, now), body, "changed on its way"},
		"another's name":          {Apply, "bob", "tsunami.api.bob.apply", request(ada, "tsunami.api.bob.apply", now), body, "sealed by ada"},
		"a viewer's":              {Apply, "vera", "tsunami.api.vera.apply", request(vera, "tsunami.api.vera.apply", now), body, "vera is a viewer and may not ask for apply"},
		"a revoked operator's":    {Apply, "eve", "tsunami.api.eve.apply", request(eve, "tsunami.api.eve.apply", now), body, "is revoked"},
		"of another fleet's ada":  {Apply, "ada", subject, request(stranger, subject, now), body, "not known here"},
		"the seal taken from ada": {Apply, "ada", subject, subjects.Header{subjects.HeaderIdentity: {ada.JWT()}, subjects.HeaderSeal: {"x y"}, subjects.HeaderTime: {now.Format(time.RFC3339Nano)}}, body, "changed on its way"},
	} {
		err := admit(fresh(), tt.verb, tt.actor, tt.subject, tt.header, tt.body)
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// The same once more.
	g := fresh()
	h := request(ada, subject, now)
	if err := admit(g, Apply, "ada", subject, h, body); err != nil {
		t.Fatal(err)
	}
	if err := admit(g, Apply, "ada", subject, h, body); err == nil || !strings.Contains(err.Error(), "came before") {
		t.Errorf("a request that comes twice: %v", err)
	}
	// Reading needs no seal, and no identities need none at all.
	if err := admit(fresh(), Status, "ada", "tsunami.api.ada.status", subjects.Header{}, ""); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := admit(&gate{began: began}, Apply, "ada", subject, subjects.Header{}, body); err != nil {
		t.Errorf("without identities: %v", err)
	}
}

func TestNoncesAreForgotten(t *testing.T) {
	var n nonces
	now := time.Now()
	if n.add("a", now) != nonceNew || n.add("a", now.Add(2*clocks-time.Second)) != nonceSeen || n.add("a", now.Add(3*clocks)) != nonceSeen {
		t.Error("a nonce is forgotten while its request would be taken")
	}
	for range 10 {
		now = now.Add(4 * clocks)
		n.add("b"+now.String(), now)
	}
	if len(n.new)+len(n.old) > 2 {
		t.Errorf("%d are remembered", len(n.new)+len(n.old))
	}
	if n.add("a", now) != nonceNew {
		t.Error("it is remembered for ever")
	}
}
