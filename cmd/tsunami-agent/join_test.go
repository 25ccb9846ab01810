package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/internal/testca"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// desk answers join requests over TLS with a fleet's own keys, each token as
// often as it is asked.
type desk struct {
	t       *testing.T
	store   *access.Store
	dir     string // the access directory
	url     string
	ca      *testca.CA
	mu      sync.Mutex
	asked   []subjects.JoinRequest
	instead http.HandlerFunc // answers; nil: the desk does
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, dir: filepath.Join(t.TempDir(), "access"), ca: testca.New(t)}
	var err error
	if d.store, err = access.Init(d.dir); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(d.ca.Server())
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(d.serve))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // refused handshakes are wanted
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	d.url = s.URL
	return d
}

func (d *desk) serve(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	request, wrong := subjects.Decode[subjects.JoinRequest](body)
	if err != nil || wrong != nil || r.URL.Path != subjects.JoinPath || r.Method != http.MethodPost {
		d.t.Errorf("asked %s %s with %s: %v, %v", r.Method, r.URL, body, err, wrong)
		return
	}
	d.asked = append(d.asked, *request)
	if d.instead != nil {
		d.instead(w, r)
		return
	}
	answer, err := d.issue(request.Host, request)
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"code":"forbidden","message":%q}`, err)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		d.t.Error(err)
	}
}

func (d *desk) issue(name rollout.Host, r *subjects.JoinRequest) (*subjects.JoinAnswer, error) {
	server, err := access.LoadServer(d.dir)
	if err != nil {
		return nil, err
	}
	join, err := server.JoinDesk()
	if err != nil {
		return nil, err
	}
	token, err := join.Read(r.Token)
	if err != nil {
		return nil, err
	}
	if err := token.Admits(r.Host, r.Role, time.Now()); err != nil {
		return nil, err
	}
	key, err := access.VerifyJoin(r.Proof, r.Token, r.Host, r.Role)
	if err != nil || key != r.Key {
		return nil, fmt.Errorf("the proof is of %q: %w", key, err)
	}
	issued, err := join.Issue(name, key, time.Time{})
	if err != nil {
		return nil, err
	}
	trust, err := os.ReadFile(d.store.TrustFile())
	return &subjects.JoinAnswer{JWT: issued.JWT, Trust: string(trust)}, err
}

// answer has the desk answer otherwise; nil ends that.
func (d *desk) answer(f http.HandlerFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.instead = f
}

func (d *desk) keys() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.asked {
		all = append(all, r.Key)
	}
	return all
}

// token makes a token in a file.
func (d *desk) token(t access.JoinToken) string {
	d.t.Helper()
	t.Expires = time.Now().Add(time.Hour)
	text, err := d.store.JoinToken(t, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	file := filepath.Join(d.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// newcomer is a host's directory for its identity.
type newcomer struct {
	t            *testing.T
	d            *desk
	dir          string
	creds, trust string
}

func (d *desk) newcomer() *newcomer {
	dir := d.t.TempDir()
	return &newcomer{d.t, d, dir, filepath.Join(dir, "agent.creds"), filepath.Join(dir, "trust.txt")}
}

// join runs the program.
func (n *newcomer) join(token string, more ...string) (code int, says string) {
	n.t.Helper()
	args := append([]string{
		"join", "--server", n.d.url, "--ca", n.d.ca.File, "--token-file", token, "--host", "h1", "--role", "web",
		"--creds", n.creds, "--trust", n.trust,
	}, more...)
	var out, errs bytes.Buffer
	code = run(n.t.Context(), args, &out, &errs)
	if code == exitDone && errs.Len() > 0 || code != exitDone && out.Len() > 0 {
		n.t.Errorf("the message is on the wrong stream: %q, %q", &out, &errs)
	}
	return code, out.String() + errs.String()
}

func (n *newcomer) wants(token string, code int, says string, more ...string) {
	n.t.Helper()
	if got, said := n.join(token, more...); got != code || !strings.Contains(said, says) {
		n.t.Errorf("exit code %d, want %d, and a message with %q:\n%s", got, code, says, said)
	}
}

// files are the names in the host's directory.
func (n *newcomer) files() string {
	n.t.Helper()
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestJoin(t *testing.T) {
	d := newDesk(t)
	n := d.newcomer()
	token := d.token(access.JoinToken{Host: "h1", Uses: 1})
	n.wants(token, exitDone, "h1 has joined. Wrote "+n.creds)
	creds, err := access.LoadCredentials(n.creds)
	if err != nil || creds.Name() != "h1" || creds.Key() != d.keys()[0] {
		t.Fatalf("%+v, %v: want h1's with the key that was shown", creds, err)
	}
	keyring, err := access.LoadKeyring(n.trust)
	if err != nil || len(keyring.Keys()) != 1 {
		t.Errorf("%v, %v", keyring, err)
	}
	if got := n.files(); got != "agent.creds trust.txt" {
		t.Errorf("wrote %s", got)
	}
	for _, file := range []string{n.creds, n.trust} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	// What still works is kept, and the server isn't asked.
	n.wants(token, exitFailed, "--force replaces them")
	if len(d.keys()) != 1 {
		t.Error("the token was shown again")
	}
	n.wants(token, exitDone, "has joined", "--force")
	if keys := d.keys(); keys[1] == keys[0] {
		t.Error("an identity that was replaced has the old key")
	}
}

// Whoever doesn't get the answer asks again with the same key, so that a token
// for one use isn't lost.
func TestJoinAgain(t *testing.T) {
	d := newDesk(t)
	n := d.newcomer()
	token := d.token(access.JoinToken{Roles: []rollout.Word{"web"}, Uses: 1})
	d.answer(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	})
	n.wants(token, exitFailed, "try again")
	if got := n.files(); got != "agent.creds.joining" {
		t.Errorf("there are %s", got)
	}
	d.answer(nil)
	n.wants(token, exitDone, "has joined")
	keys := d.keys()
	for _, key := range keys {
		if key != keys[len(keys)-1] {
			t.Errorf("asked with the keys %q: want one", keys)
		}
	}
}

// What a server can answer that isn't one, or isn't honest.
func TestJoinBadAnswers(t *testing.T) {
	d := newDesk(t)
	token := d.token(access.JoinToken{Host: "h1", Uses: 1})
	good := func(host rollout.Host, change func(*subjects.JoinAnswer)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			answer, err := d.issue(host, &d.asked[len(d.asked)-1])
			if err != nil {
				t.Error(err)
				return
			}
			change(answer)
			_ = json.NewEncoder(w).Encode(answer)
		}
	}
	text := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body) // a client that has enough goes
		}
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		code   int
		says   string
	}{
		{"refused", text(403, `{"code":"forbidden","message":"the join token isn't good here"}`), exitRefused, "the join token isn't good here"},
		{"refused, with control characters", text(403, "\x1b[2Jgone"), exitRefused, `\x1b[2Jgone`},
		{"not at the moment", text(503, `{"code":"unavailable","message":"try later"}`), exitFailed, "try later"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.net/", http.StatusTemporaryRedirect)
		}, exitRefused, "refused"},
		{"no JSON", text(200, "<html>"), exitFailed, "the server's answer"},
		{"without end", text(200, strings.Repeat(" ", 1<<20)), exitFailed, "more than 65536 bytes"},
		{"another host's name", good("h2", func(*subjects.JoinAnswer) {}), exitFailed, `it names "h2"`},
		{"another key", good("h1", func(a *subjects.JoinAnswer) {
			issued, err := d.store.Issue(access.Wanted{Name: "h1", Role: subjects.RoleAgent})
			if err != nil {
				t.Error(err)
				return
			}
			a.JWT = issued[0].JWT
		}), exitFailed, "does not match the jwt"},
		{"no keys to pin", good("h1", func(a *subjects.JoinAnswer) { a.Trust = "" }), exitFailed, "the keys that seal desired state"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := d.newcomer()
			d.answer(tt.answer)
			n.wants(token, tt.code, tt.says)
			if got := n.files(); got != "agent.creds.joining" {
				t.Errorf("there are %s: want the key alone", got)
			}
		})
	}
}

// A server without the authority's certificate isn't shown the token.
func TestJoinChecksTheServer(t *testing.T) {
	d := newDesk(t)
	n := d.newcomer()
	token := d.token(access.JoinToken{Host: "h1", Uses: 1})
	n.wants(token, exitFailed, "certificate", "--ca", testca.New(t).File)
	if asked := d.keys(); len(asked) != 0 {
		t.Errorf("it was shown the token %d times", len(asked))
	}
}

func TestJoinUsage(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"--help", exitDone, "--token-file FILE"},
		{"--token-file " + token, exitUsage, "--server is missing"},
		{"--server http://tsunami.example.net:8422 --token-file " + token, exitUsage, "want https://"},
		{"--server nats://127.0.0.1:4222 --token-file " + token, exitUsage, "isn't a scheme"},
		{"--server https://ada:secret@127.0.0.1 --token-file " + token, exitUsage, "want a URL such as"},
		{"--server https://127.0.0.1", exitUsage, "want one of --token-file and --token"},
		{"--server https://127.0.0.1 --token t --token-file " + token, exitUsage, "want one of --token-file and --token"},
		{"--server https://127.0.0.1 --token-file " + os.DevNull, exitUsage, "the token is empty"},
		{"--server https://127.0.0.1 --token-file " + token + " --host h1", exitUsage, "role: is missing"},
		{"--server https://127.0.0.1 --token-file " + token + " --host > --role web", exitUsage, "host: "},
		{"--server https://127.0.0.1 --token-file " + token + " --host h1 --role web --trust none", exitUsage, "name a file by --trust"},
		{"--server https://127.0.0.1 --token-file " + token + " --host h1 --role web now", exitUsage, "it takes no arguments"},
		{"--server https://127.0.0.1 --token-file " + token + " --host h1 --role web --creds /nowhere/c --ca " + token, exitFailed, "has no certificate in PEM"},
		{"--server http://127.0.0.1:1 --token-file " + token + " --host h1 --role web --creds /nowhere/c", exitFailed, "/nowhere"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"join"}, strings.Fields(tt.args)...), &out, &errs)
		if code != tt.code || !strings.Contains(out.String()+errs.String(), tt.says) {
			t.Errorf("%s: exit code %d, want %d, and a message with %q:\n%s%s", tt.args, code, tt.code, tt.says, &out, &errs)
		}
	}
}
