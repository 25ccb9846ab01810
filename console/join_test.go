package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// desk is a console where hosts may join.
type desk struct {
	*fixture
	ids *identities
}

func startDesk(t *testing.T) *desk {
	t.Helper()
	ids := newIdentities(t)
	return &desk{ids: ids, fixture: start(t, ids.guard, func(f *fixture, o *Options) {
		o.Enrolment = &Enrolment{JetStream: f.js, Server: ids.server.Load}
	})}
}

// token makes a join token.
func (d *desk) token(token access.JoinToken) string {
	d.t.Helper()
	now := time.Now()
	if token.Expires.IsZero() {
		token.Expires = now.Add(time.Hour)
	}
	text, err := d.ids.store.JoinToken(token, now)
	if err != nil {
		d.t.Fatal(err)
	}
	d.ids.read()
	return text
}

// newcomer is a host that wants to join.
type newcomer struct {
	host rollout.Host
	role rollout.Word
	key  *access.Signer
	seed []byte
}

func newNewcomer(t *testing.T, host rollout.Host) *newcomer {
	t.Helper()
	key, seed, err := access.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	return &newcomer{host, "web", key, seed}
}

func (n *newcomer) request(token string) subjects.JoinRequest {
	return subjects.JoinRequest{
		Token: token, Host: n.host, Role: n.role, Key: n.key.Public(), Proof: access.SealJoin(n.key, token, n.host, n.role),
	}
}

func (d *desk) post(body []byte) (int, http.Header, string) {
	d.t.Helper()
	resp, err := d.http.Client().Post(d.http.URL+subjects.JoinPath, "application/json", bytes.NewReader(body))
	if err != nil {
		d.t.Error(err)
		return 0, nil, ""
	}
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		d.t.Error(err)
	}
	return resp.StatusCode, resp.Header, b.String()
}

func (d *desk) join(r subjects.JoinRequest) (int, string) {
	d.t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		d.t.Fatal(err)
	}
	status, _, answer := d.post(body)
	return status, answer
}

// A host with a token gets an identity that is its own, and once.
func TestJoin(t *testing.T) {
	d := startDesk(t)
	n := newNewcomer(t, web1)
	if status, _, body := d.post([]byte("{}")); status != 404 || !strings.Contains(body, "enroll --token") {
		t.Errorf("before joining was enabled: %d %s", status, body)
	}
	text := d.token(access.JoinToken{Host: web1, Uses: 1})
	status, body := d.join(n.request(text))
	if status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	answer, err := subjects.Decode[subjects.JoinAnswer]([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.ids.authority().Identify(answer.JWT, time.Now())
	if err != nil || id.Name != web1 || id.Role != subjects.RoleAgent || id.Key != n.key.Public() || id.Bearer {
		t.Errorf("it is %+v, %v", id, err)
	}
	if k, err := access.ParseKeyring([]byte(answer.Trust)); err != nil || len(k.Keys()) != 1 {
		t.Errorf("it is to trust %q: %v", answer.Trust, err)
	}
	if file, err := access.FormatCredentials(answer.JWT, n.seed); err != nil {
		t.Error(err)
	} else if _, err := access.ParseCredentials(file); err != nil {
		t.Error(err)
	}

	// The answer may have been lost: the same key asks again, and has used the
	// token once.
	if status, body := d.join(n.request(text)); status != 200 {
		t.Errorf("a second time with the same key: %d %s", status, body)
	}

	// Whoever stole the token comes too late, and learns that it was noticed.
	thief := newNewcomer(t, web1)
	status, body = d.join(thief.request(text))
	if status != 409 || !strings.Contains(body, web1+" joined on "+time.Now().UTC().Format("2006-01-02")) {
		t.Errorf("a stolen token: %d %s", status, body)
	}
	if !strings.Contains(d.log.String(), "a good join token was refused") {
		t.Errorf("nobody is told: %s", d.log)
	}
	if strings.Contains(d.log.String(), text) || strings.Contains(d.log.String(), answer.JWT) {
		t.Error("a secret is in the log")
	}
}

// A token that was used by another says by whom and when, and is good for nobody
// any more.
func TestStolenToken(t *testing.T) {
	d := startDesk(t)
	text := d.token(access.JoinToken{Roles: []rollout.Word{"web"}, Uses: 1})
	if status, body := d.join(newNewcomer(t, "thief.example.net").request(text)); status != 200 {
		t.Fatalf("the thief: %d %s", status, body)
	}
	status, body := d.join(newNewcomer(t, web1).request(text))
	for _, want := range []string{"used up", "thief.example.net", time.Now().UTC().Format("2006-01-02T"), "127.0.0.1", "revoke"} {
		if status != 403 || !strings.Contains(body, want) {
			t.Errorf("the owner: %d %s, want %q in it", status, body, want)
		}
	}
}

// Whatever is wrong with a token is said in the same words to everybody.
func TestBadTokens(t *testing.T) {
	d, foreign := startDesk(t), startDesk(t)
	text := d.token(access.JoinToken{Host: web1, Uses: 1})
	n := newNewcomer(t, web1)
	change := func(f func(*subjects.JoinRequest)) subjects.JoinRequest {
		r := n.request(text)
		f(&r)
		return r
	}
	other := newNewcomer(t, web2)
	for name, r := range map[string]subjects.JoinRequest{
		"foreign":                n.request(foreign.token(access.JoinToken{Host: web1, Uses: 1})),
		"nonsense":               n.request("x.y"),
		"another host's":         other.request(text),
		"another host, unsealed": change(func(r *subjects.JoinRequest) { r.Host = web2 }),
		"another role":           change(func(r *subjects.JoinRequest) { r.Role = "db" }),
		"another key":            change(func(r *subjects.JoinRequest) { r.Key = other.key.Public() }),
		"another's proof":        change(func(r *subjects.JoinRequest) { r.Proof = access.SealJoin(other.key, text, web1, "web") }),
		"no proof":               change(func(r *subjects.JoinRequest) { r.Proof = "x" }),
	} {
		status, body := d.join(r)
		if want := errNoToken.message; status != 403 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for name, body := range map[string]string{
		"no body": "", "no JSON": "token=x", "an unknown field": `{"token":"x","host":"web1","role":"web","key":"x","proof":"x","admin":true}`,
		"two": `{} {}`, "a pattern": `{"token":"x","host":">","role":"web","key":"x","proof":"x"}`, "no token": `{"host":"web1","role":"web","key":"x","proof":"x"}`,
		"too much": `{"token":"` + strings.Repeat("x", maxJoinBody) + `"}`,
	} {
		if status, _, answer := d.post([]byte(body)); status != 400 || !strings.Contains(answer, errNoRequest.message) {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	for _, method := range []string{"GET", "PUT", "OPTIONS"} {
		if resp, _ := d.do(method, subjects.JoinPath); resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %d", method, resp.StatusCode)
		}
	}
	if status, body := d.join(n.request(text)); status != 200 {
		t.Errorf("after all that, which has used nothing: %d %s", status, body)
	}
}

// An address that guesses is kept waiting.
func TestGuesses(t *testing.T) {
	d := startDesk(t)
	text := d.token(access.JoinToken{Host: web1, Uses: 1})
	for range mostGuesses {
		if status, _, body := d.post([]byte("{}")); status != 400 {
			t.Fatalf("%d %s", status, body)
		}
	}
	status, header, body := d.post([]byte("{}"))
	if status != 429 || header.Get("Retry-After") == "" {
		t.Errorf("after %d guesses: %d %s", mostGuesses, status, body)
	}
	if status, _ := d.join(newNewcomer(t, web1).request(text)); status != 429 {
		t.Errorf("with a good token after that: %d", status)
	}
	var g guesses
	now := time.Now()
	a, b := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")
	for range mostGuesses {
		g.failed(a, now)
	}
	if g.allows(a, now) || !g.allows(b, now) || !g.allows(a, now.Add(guessWindow)) {
		t.Error("it is counted by another address, or for longer than the window")
	}
	for i := range 2 * mostGuessers {
		g.failed(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32), now.Add(guessWindow))
	}
	if len(g.count) > mostGuessers {
		t.Errorf("it keeps %d addresses", len(g.count))
	}
	for from, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1/32", "[::ffff:192.0.2.1]:5": "192.0.2.1/32", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64", "?": "invalid Prefix",
	} {
		if got := origin(&http.Request{RemoteAddr: from}).String(); got != want {
			t.Errorf("%s counts as %s, want %s", from, got, want)
		}
	}
}

// A token for several hosts lets in as many as it says, even all at once.
func TestUses(t *testing.T) {
	const uses, hosts = 9, 12
	d := startDesk(t)
	text := d.token(access.JoinToken{Roles: []rollout.Word{"web", "db"}, Uses: uses})
	var wait sync.WaitGroup
	statuses := make([]int, hosts)
	for i := range hosts {
		n := newNewcomer(t, rollout.Host("web"+strconv.Itoa(i)))
		wait.Go(func() {
			// On a busy machine one is asked to come again, as hosts do.
			for deadline := time.Now().Add(time.Minute); ; {
				statuses[i], _ = d.join(n.request(text))
				if statuses[i] != http.StatusServiceUnavailable || time.Now().After(deadline) {
					return
				}
			}
		})
	}
	wait.Wait()
	count := map[int]int{}
	for _, s := range statuses {
		count[s]++
	}
	if count[200] != uses || count[403] != hosts-uses {
		t.Errorf("statuses %v, want %d times 200 and %d times 403", count, uses, hosts-uses)
	}
}

// A host that has an identity doesn't get another until it is revoked, and a
// revoked key never.
func TestJoinAgain(t *testing.T) {
	d := startDesk(t)
	text := d.token(access.JoinToken{Roles: []rollout.Word{"web"}, Uses: 10})
	first, second := newNewcomer(t, web1), newNewcomer(t, web1)
	if status, body := d.join(first.request(text)); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := d.join(second.request(text)); status != 409 || !strings.Contains(body, first.key.Public()) {
		t.Fatalf("with another key: %d %s", status, body)
	}
	if _, err := d.ids.store.RevokeKey(first.key.Public()); err != nil {
		t.Fatal(err)
	}
	d.ids.read()
	if status, body := d.join(first.request(text)); status != 403 || !strings.Contains(body, errKeyGone.message) {
		t.Errorf("with the revoked key: %d %s", status, body)
	}
	if status, body := d.join(second.request(text)); status != 200 {
		t.Errorf("after the first one was revoked: %d %s", status, body)
	}
}

// A host that is in the inventory without having joined isn't replaced by
// somebody with a token of its role; a token that names it may.
func TestJoinAsAnother(t *testing.T) {
	d := startDesk(t)
	if _, err := d.js.Publish(t.Context(), subjects.HostSubject(web1), []byte(`{"role":"web"}`)); err != nil {
		t.Fatal(err)
	}
	n := newNewcomer(t, web1)
	status, body := d.join(n.request(d.token(access.JoinToken{Roles: []rollout.Word{"web"}, Uses: 10})))
	if status != 409 || !strings.Contains(body, "enroll --token "+web1) {
		t.Errorf("with a token of its role: %d %s", status, body)
	}
	if status, body := d.join(n.request(d.token(access.JoinToken{Host: web1, Uses: 1}))); status != 200 {
		t.Errorf("with a token of its own: %d %s", status, body)
	}
}

func FuzzJoin(f *testing.F) {
	f.Add([]byte(`{"token":"x.y","host":"web1","role":"web","key":"U","proof":"U s"}`))
	f.Add([]byte(`{"host":">"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeJoin(body)
		if err != nil {
			return
		}
		if _, err := rollout.ParseHost(string(r.Host)); err != nil || r.Token == "" || r.Key == "" || r.Proof == "" {
			t.Errorf("%q is taken as %+v", body, r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeJoin(again); err != nil || *second != *r {
			t.Errorf("%q is read as %+v, and that as %+v, %v", body, r, second, err)
		}
	})
}
