package access

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func made(t testing.TB) *Store {
	t.Helper()
	s, err := Init(filepath.Join(t.TempDir(), "access"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func issued(t testing.TB, s *Store, w Wanted) Issued {
	t.Helper()
	out, err := s.Issue(w)
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// fleetIssued is when the fleet's account was signed.
func fleetIssued(t testing.TB, s *Store) int64 {
	t.Helper()
	c, err := s.account(subjects.AccountFleet)
	if err != nil {
		t.Fatal(err)
	}
	return c.IssuedAt
}

// authority is who is known now, as a server reads it.
func authority(t testing.TB, s *Store) *Authority {
	t.Helper()
	server, err := LoadServer(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := server.Authority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestInit(t *testing.T) {
	s := made(t)
	if _, err := Init(s.dir); !errors.Is(err, ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		secret := strings.HasSuffix(path, ".nk") || strings.HasSuffix(path, ".creds")
		switch {
		case d.IsDir() && info.Mode().Perm() != 0o700, secret && info.Mode().Perm() != 0o600:
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		case !d.IsDir() && !secret:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if strings.Contains(string(b), "\nSU") || strings.Contains(string(b), "\nSA") || strings.Contains(string(b), "\nSO") {
				t.Errorf("%s holds a seed", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := LoadServer(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for part, role := range map[string]subjects.Role{PartScheduler: subjects.RoleScheduler, PartConsole: subjects.RoleViewer, PartJoiner: subjects.RoleJoiner} {
		file, err := server.Credentials(part)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseCredentials(b)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := authority(t, s).Identify(c.JWT(), time.Now()); err != nil || id.Role != role || id.Name != part {
			t.Errorf("%s: %+v, %v", part, id, err)
		}
	}
	signer, err := server.Signer()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := server.Keyring()
	if err != nil || len(ring.Keys()) != 1 || ring.Keys()[0] != signer.Public() {
		t.Errorf("trusted are %v, %v", ring, err)
	}
	if err := os.Chmod(filepath.Join(s.ServerDir(), sealFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Signer(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
}

// A name that the broker reads as a pattern would be the whole fleet.
func TestNames(t *testing.T) {
	s := made(t)
	for _, w := range []Wanted{
		{Name: ">", Role: subjects.RoleAgent}, {Name: "*", Role: subjects.RoleAgent}, {Name: "a.*", Role: subjects.RoleAgent},
		{Name: "", Role: subjects.RoleAgent}, {Name: "a b", Role: subjects.RoleAgent}, {Name: "A", Role: subjects.RoleAgent},
		{Name: ">", Role: subjects.RoleViewer}, {Name: "ada.bob", Role: subjects.RoleOperator}, {Name: "*", Role: subjects.RoleAdmin},
		{Name: "console", Role: subjects.RoleAdmin}, {Name: "web", Role: subjects.RoleScheduler}, {Name: "scheduler", Role: subjects.RoleOperator}, {Name: "sloguard", Role: subjects.RoleAdmin}, {Name: "", Role: subjects.RoleApprover},
	} {
		if out, err := s.Issue(Wanted{Name: "ok", Role: subjects.RoleAgent}, w); err == nil {
			t.Errorf("%+v is issued: %+v", w, out)
		}
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Role == subjects.RoleAgent {
			t.Errorf("%+v was issued beside a refused one", e)
		}
	}
}

func TestRevoke(t *testing.T) {
	s := made(t)
	ada := issued(t, s, Wanted{Name: "ada", Role: subjects.RoleOperator})
	bob := issued(t, s, Wanted{Name: "bob", Role: subjects.RoleOperator})
	server, err := LoadServer(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ada", "bob"} { // two in a row: both count
		if _, err := authority(t, s).Identify(map[string]string{"ada": ada.JWT, "bob": bob.JWT}[name], time.Now()); err != nil {
			t.Fatal(err)
		}
		before := fleetIssued(t, s)
		if out, err := s.Revoke(name, ""); err != nil || len(out) != 1 || out[0].Revoked.IsZero() {
			t.Fatalf("%+v, %v", out, err)
		}
		if fleetIssued(t, s) <= before {
			t.Error("servers would not take the changed account")
		}
	}
	if !server.Changed() {
		t.Error("a server isn't told of it")
	}
	for _, i := range []Issued{ada, bob} {
		if _, err := authority(t, s).Identify(i.JWT, time.Now()); !errors.Is(err, ErrNotKnown) {
			t.Errorf("%s: %v", i.Name, err)
		}
	}
	if _, err := s.Revoke("ada", ""); !errors.Is(err, ErrNobody) {
		t.Errorf("again: %v", err)
	}
	// The same person can have a new one.
	time.Sleep(time.Until(time.Unix(fleetIssued(t, s)+1, 0)))
	again := issued(t, s, Wanted{Name: "ada", Role: subjects.RoleViewer})
	if id, err := authority(t, s).Identify(again.JWT, time.Now()); err != nil || id.Role != subjects.RoleViewer {
		t.Errorf("%+v, %v", id, err)
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	live := 0
	for _, e := range all {
		if e.Name == "ada" && e.Revoked.IsZero() {
			live++
		}
	}
	if live != 1 {
		t.Errorf("%d identities of ada live", live)
	}
}

func TestExpiryAndForeign(t *testing.T) {
	s, other := made(t), made(t)
	short := issued(t, s, Wanted{Name: "h1", Role: subjects.RoleAgent, Expires: time.Now().Add(time.Hour)})
	a := authority(t, s)
	if id, err := a.Identify(short.JWT, time.Now()); err != nil || id.Expires.IsZero() {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := a.Identify(short.JWT, time.Now().Add(time.Hour)); !errors.Is(err, ErrNotKnown) {
		t.Errorf("it has expired: %v", err)
	}
	foreign := issued(t, other, Wanted{Name: "h1", Role: subjects.RoleAgent})
	if _, err := a.Identify(foreign.JWT, time.Now()); !errors.Is(err, ErrNotKnown) {
		t.Errorf("another fleet's: %v", err)
	}
}

func TestRotateSeal(t *testing.T) {
	s := made(t)
	server, err := LoadServer(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func() subjects.Header {
		signer, err := server.Signer()
		if err != nil {
			t.Fatal(err)
		}
		h := subjects.Header{}
		signer.Seal("$KV.tsunami.desired.h1", h, []byte("{}"))
		return h
	}
	old := sealed()
	if err := s.FinishSeal(); !errors.Is(err, ErrNotBegun) {
		t.Error(err)
	}
	if err := s.RotateSeal(); err != nil {
		t.Fatal(err)
	}
	if err := s.RotateSeal(); !errors.Is(err, ErrBegun) {
		t.Error(err)
	}
	if h := sealed(); h.Get(subjects.HeaderSeal) != old.Get(subjects.HeaderSeal) {
		t.Error("the new key seals before hosts trust it")
	}
	text, err := s.Trust()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := ParseKeyring(text)
	if err != nil || len(ring.Keys()) != 2 {
		t.Fatalf("%v, %v", ring, err)
	}
	if err := s.FinishSeal(); err != nil {
		t.Fatal(err)
	}
	for _, h := range []subjects.Header{old, sealed()} {
		if err := ring.Verify("$KV.tsunami.desired.h1", h, []byte("{}")); err != nil {
			t.Error(err)
		}
	}
	if sealed().Get(subjects.HeaderSeal) == old.Get(subjects.HeaderSeal) {
		t.Error("the old key seals on")
	}
}

func TestRotateRole(t *testing.T) {
	s := made(t)
	h1 := issued(t, s, Wanted{Name: "h1", Role: subjects.RoleAgent})
	h2 := issued(t, s, Wanted{Name: "h2", Role: subjects.RoleAgent})
	if err := s.FinishRole(subjects.RoleAgent, true); !errors.Is(err, ErrNotBegun) {
		t.Error(err)
	}
	if err := s.RotateRole(subjects.RoleAgent); err != nil {
		t.Fatal(err)
	}
	if err := s.RotateRole(subjects.RoleAgent); !errors.Is(err, ErrBegun) {
		t.Error(err)
	}
	anew := issued(t, s, Wanted{Name: "h1", Role: subjects.RoleAgent})
	for _, i := range []Issued{h1, h2, anew} {
		if _, err := authority(t, s).Identify(i.JWT, time.Now()); err != nil {
			t.Errorf("%s is cut off: %v", i.Name, err)
		}
	}
	if err := s.FinishRole(subjects.RoleAgent, false); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "h2") {
		t.Errorf("h2 would be cut off: %v", err)
	}
	if err := s.FinishRole(subjects.RoleAgent, true); err != nil {
		t.Fatal(err)
	}
	if _, err := authority(t, s).Identify(anew.JWT, time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := authority(t, s).Identify(h2.JWT, time.Now()); err == nil {
		t.Error("the old key's identities live on")
	}
}

func TestJoin(t *testing.T) {
	s, other := made(t), made(t)
	server, err := LoadServer(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.JoinDesk(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("joining is enabled without being asked for: %v", err)
	}
	now := time.Now()
	text, err := s.JoinToken(JoinToken{Host: "h1", Uses: 1, Expires: now.Add(time.Hour)}, now)
	if err != nil {
		t.Fatal(err)
	}
	desk, err := server.JoinDesk()
	if err != nil {
		t.Fatal(err)
	}
	token, err := desk.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"expired": token.Admits("h1", "web", now.Add(time.Hour)), "another host": token.Admits("h2", "web", now),
	} {
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := token.Admits("h1", "web", now); err != nil {
		t.Error(err)
	}
	foreign, err := other.JoinToken(JoinToken{Roles: []rollout.Word{"web"}, Uses: 3, Expires: now.Add(time.Hour)}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".", "x.y", foreign, text[1:], text + "A", strings.Replace(text, ".", "", 1)} {
		if _, err := desk.Read(bad); !errors.Is(err, ErrToken) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	key, seed, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	seal := SealJoin(key, token.ID, "h1", "web")
	public, err := VerifyJoin(seal, token.ID, "h1", "web")
	if err != nil || public != key.Public() {
		t.Fatalf("%s, %v", public, err)
	}
	if _, err := VerifyJoin(seal, token.ID, "h2", "web"); !errors.Is(err, ErrBrokenSeal) {
		t.Errorf("another host's request: %v", err)
	}
	if _, err := VerifyJoin(seal, "other", "h1", "web"); !errors.Is(err, ErrBrokenSeal) {
		t.Errorf("another token: %v", err)
	}
	i, err := desk.Issue("h1", public, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := authority(t, s).Identify(i.JWT, now); err != nil || id.Role != subjects.RoleAgent || id.Name != "h1" || id.Key != public {
		t.Errorf("%+v, %v", id, err)
	}
	file, err := FormatCredentials(i.JWT, seed)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := ParseCredentials(file); err != nil || c.Name() != "h1" {
		t.Errorf("%+v, %v", c, err)
	}
	if i.Credentials != nil {
		t.Error("the server knows the host's private key")
	}
}

// What a server shows is that nobody else could have asked.
func TestRequests(t *testing.T) {
	s := made(t)
	i := issued(t, s, Wanted{Name: "ada", Role: subjects.RoleOperator})
	c, err := ParseCredentials(i.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	const subject = "tsunami.api.ada.apply"
	seal := func() subjects.Header {
		h := subjects.Header{}
		c.SealRequest(subject, h, []byte("body"), now)
		return h
	}
	a := authority(t, s)
	id, asked, err := a.VerifyRequest(subject, seal(), []byte("body"), now)
	if err != nil || id.Name != "ada" || id.Role != subjects.RoleOperator || !asked.Equal(now.Round(0)) {
		t.Errorf("%+v, %s, %v", id, asked, err)
	}
	for name, change := range map[string]func(subjects.Header) (string, string){
		"another verb": func(subjects.Header) (string, string) { return "tsunami.api.ada.delete", "body" },
		"another body": func(subjects.Header) (string, string) { return subject, "Body" },
		"another time": func(h subjects.Header) (string, string) {
			h[subjects.HeaderTime] = []string{now.Add(time.Hour).Format(time.RFC3339Nano)}
			return subject, "body"
		},
		"another nonce": func(h subjects.Header) (string, string) {
			h[subjects.HeaderNonce] = []string{"x"}
			return subject, "body"
		},
		"a header more": func(h subjects.Header) (string, string) { h["Tsunami-Parts"] = []string{"1"}; return subject, "body" },
		"no seal":       func(h subjects.Header) (string, string) { delete(h, subjects.HeaderSeal); return subject, "body" },
		"two seals": func(h subjects.Header) (string, string) {
			h[subjects.HeaderSeal] = append(h[subjects.HeaderSeal], "x")
			return subject, "body"
		},
		"somebody else's": func(h subjects.Header) (string, string) {
			h[subjects.HeaderIdentity] = []string{issued(t, s, Wanted{Name: "bob", Role: subjects.RoleOperator}).JWT}
			return subject, "body"
		},
	} {
		h := seal()
		subject, body := change(h)
		if _, _, err := a.VerifyRequest(subject, h, []byte(body), now); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestBearers(t *testing.T) {
	s := made(t)
	i := issued(t, s, Wanted{Name: "ada", Role: subjects.RoleViewer, Bearer: true, Expires: time.Now().Add(time.Hour)})
	if i.Credentials != nil {
		t.Error("a token has a key")
	}
	if id, err := authority(t, s).Identify(i.JWT, time.Now()); err != nil || !id.Bearer {
		t.Errorf("%+v, %v", id, err)
	}
}
