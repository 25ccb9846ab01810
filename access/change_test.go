package access

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// known says whether a server lets somebody in now.
func known(t *testing.T, s *Store, i Issued) bool {
	t.Helper()
	_, err := authority(t, s).Identify(i.JWT, time.Now())
	return err == nil
}

func TestRenewAndFinishName(t *testing.T) {
	s := made(t)
	h1 := issued(t, s, Wanted{Name: "h1", Role: subjects.RoleAgent, Expires: time.Now().Add(time.Hour)})
	if _, err := s.FinishName("h1"); !errors.Is(err, ErrNotBegun) {
		t.Errorf("it has one identity: %v", err)
	}
	out, err := s.Renew(h1.Entry)
	if err != nil || len(out) != 1 || out[0].Key == h1.Key || out[0].Expires.Before(h1.Expires) {
		t.Fatalf("%+v, %v", out, err)
	}
	if !known(t, s, h1) || !known(t, s, out[0]) {
		t.Error("one of both is cut off before the rotation is finished")
	}
	ended, err := s.FinishName("h1")
	if err != nil || len(ended) != 1 || ended[0].Key != h1.Key {
		t.Fatalf("%+v, %v", ended, err)
	}
	if known(t, s, h1) || !known(t, s, out[0]) {
		t.Error("not the older one has ended")
	}
}

// A part takes its new credentials from where it has read the old ones.
func TestRenewAPart(t *testing.T) {
	s := made(t)
	file := filepath.Join(s.ServerDir(), PartScheduler+".creds")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RotateRole(subjects.RoleScheduler); err != nil {
		t.Fatal(err)
	}
	old, err := s.Outdated(subjects.RoleScheduler)
	if err != nil || len(old) != 1 || !IsPart(old[0]) {
		t.Fatalf("%+v, %v", old, err)
	}
	if _, err := s.Renew(old...); err != nil {
		t.Fatal(err)
	}
	if err := s.FinishRole(subjects.RoleScheduler, false); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{string(before): false, string(after): true} {
		c, err := ParseCredentials([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		if got := known(t, s, Issued{JWT: c.JWT()}); got != want {
			t.Errorf("let in: %v, want %v", got, want)
		}
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	standings, err := s.Standings(all, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(all, func(e Entry) bool { return e.Key == old[0].Key }); standings[i] != Ended {
		t.Errorf("the old one is %s", standings[i])
	}
}

func TestRevokeKey(t *testing.T) {
	s := made(t)
	now := time.Now()
	if _, err := s.JoinToken(JoinToken{Host: "h1", Uses: 1, Expires: now.Add(time.Hour)}, now); err != nil {
		t.Fatal(err)
	}
	server, err := LoadServer(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	desk, err := server.JoinDesk()
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	joined, err := desk.Issue("h1", key.Public(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeKey("h1"); err == nil || !strings.Contains(err.Error(), "public key") {
		t.Error(err)
	}
	if !known(t, s, joined) {
		t.Fatal("it isn't let in")
	}
	if out, err := s.RevokeKey(key.Public()); err != nil || len(out) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	if known(t, s, joined) {
		t.Error("a host that isn't on the list is let in after its key was revoked")
	}
}

func TestRotateJoin(t *testing.T) {
	s := made(t)
	if err := s.RotateJoin(); !errors.Is(err, ErrNotBegun) {
		t.Error(err)
	}
	now := time.Now()
	token := func() string {
		text, err := s.JoinToken(JoinToken{Roles: []rollout.Word{"web"}, Uses: 2, Expires: now.Add(time.Hour)}, now)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	desk := func() *JoinDesk {
		server, err := LoadServer(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		d, err := server.JoinDesk()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	join := func(host rollout.Host) Issued {
		key, _, err := NewHostKey()
		if err != nil {
			t.Fatal(err)
		}
		i, err := desk().Issue(host, key.Public(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	old, h1 := token(), join("h1")
	enrolled := issued(t, s, Wanted{Name: "h3", Role: subjects.RoleAgent})
	if err := s.RotateJoin(); err != nil {
		t.Fatal(err)
	}
	if err := s.RotateJoin(); !errors.Is(err, ErrBegun) {
		t.Error(err)
	}
	if _, err := desk().Read(old); !errors.Is(err, ErrToken) {
		t.Errorf("a token of the old key: %v", err)
	}
	if _, err := desk().Read(token()); err != nil {
		t.Error(err)
	}
	h2 := join("h2")
	// The key that enrols hosts is apart from it.
	if err := s.FinishRole(subjects.RoleAgent, true); !errors.Is(err, ErrNotBegun) {
		t.Error(err)
	}
	for _, i := range []Issued{h1, h2, enrolled} {
		if !known(t, s, i) {
			t.Errorf("%s is cut off before the rotation is finished", i.Name)
		}
	}
	if err := s.FinishJoin(); err != nil {
		t.Fatal(err)
	}
	if known(t, s, h1) || !known(t, s, h2) || !known(t, s, enrolled) {
		t.Error("not the hosts of the old key have ended, and they alone")
	}
}

// A run that was cut short between the key and the account is taken up.
func TestRotateRoleTakenUp(t *testing.T) {
	s := made(t)
	account, err := os.ReadFile(filepath.Join(s.ServerDir(), accountFile(subjects.AccountFleet)))
	if err != nil {
		t.Fatal(err)
	}
	h1 := issued(t, s, Wanted{Name: "h1", Role: subjects.RoleAgent})
	if err := s.RotateRole(subjects.RoleAgent); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.ServerDir(), accountFile(subjects.AccountFleet)), account, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.FinishRole(subjects.RoleAgent, true); !errors.Is(err, ErrNotBegun) {
		t.Errorf("it would end every host: %v", err)
	}
	if err := s.RotateRole(subjects.RoleAgent); err != nil {
		t.Fatal(err)
	}
	anew := issued(t, s, Wanted{Name: "h1", Role: subjects.RoleAgent})
	if !known(t, s, h1) || !known(t, s, anew) {
		t.Error("one of both is cut off")
	}
	if err := s.FinishRole(subjects.RoleAgent, false); err != nil || known(t, s, h1) {
		t.Error(err)
	}
}

// An account that a newer version of Tsunami changes has its permissions.
func TestRefresh(t *testing.T) {
	s := made(t)
	stale := func(c *jwt.AccountClaims) *jwt.UserScope {
		for _, each := range c.SigningKeys {
			if template, ok := each.(*jwt.UserScope); ok && template.Role == string(subjects.RoleAgent) {
				return template
			}
		}
		t.Fatal("there is no key of the role")
		return nil
	}
	claims, err := s.account(subjects.AccountFleet)
	if err != nil {
		t.Fatal(err)
	}
	want, crossing := len(stale(claims).Template.Pub.Allow), len(claims.Imports)
	stale(claims).Template.Pub.Allow, claims.Imports = nil, nil
	pair, err := s.key(keysDir, operatorKey)
	if err != nil {
		t.Fatal(err)
	}
	token, err := claims.Encode(pair)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.ServerDir(), accountFile(subjects.AccountFleet)), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Refresh(); err != nil {
		t.Fatal(err)
	}
	if claims, err = s.account(subjects.AccountFleet); err != nil {
		t.Fatal(err)
	}
	if got := len(stale(claims).Template.Pub.Allow); got != want || got == 0 {
		t.Errorf("a host may publish %d subjects, want %d", got, want)
	}
	if got := len(claims.Imports); got != crossing || got == 0 {
		t.Errorf("%d subjects cross, want %d", got, crossing)
	}
}

// Two runs don't mix, and what can't be done says why.
func TestHeldAndStrange(t *testing.T) {
	s := made(t)
	err := s.locked(func() error {
		_, err := s.Issue(Wanted{Name: "h1", Role: subjects.RoleAgent})
		return err
	})
	if !errors.Is(err, ErrBusy) {
		t.Errorf("beside another run: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "access init") {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(s.dir, keysDir, "agent.nk"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Issue(Wanted{Name: "h1", Role: subjects.RoleAgent}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	// Errors hold no part of a key.
	seed := "SAAGMT6AMAFY6T4JCSYIYOPMHTWY6LPZTN27JJX3RCQYTAUZBHRUXIZ66Y"
	if err := os.WriteFile(filepath.Join(s.dir, keysDir, "viewer.nk"), []byte(seed+"x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Issue(Wanted{Name: "ada", Role: subjects.RoleViewer}); err == nil || strings.Contains(err.Error(), seed[:8]) {
		t.Error(err)
	}
}

func BenchmarkIssue(b *testing.B) {
	s := made(b)
	wanted := make([]Wanted, 1000)
	for i := range wanted {
		wanted[i] = Wanted{Name: "h1", Role: subjects.RoleAgent}
	}
	for b.Loop() {
		if _, err := s.Issue(wanted...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/host")
}
