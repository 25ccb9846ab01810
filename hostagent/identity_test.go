package hostagent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// identityRig is a rig whose broker lets in who has an identity, and nobody else.
// The test is its scheduler.
type identityRig struct {
	*sealedRig
	store *access.Store
	seed  []byte // of the host's key
	key   string // its public half
}

func newIdentityRig(t *testing.T) *identityRig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "access")
	store, err := access.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	server, err := access.LoadServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true, Access: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	part := func(name string) jetstream.JetStream {
		file, err := server.Credentials(name)
		if err != nil {
			t.Fatal(err)
		}
		creds, err := access.LoadCredentials(file)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := bus.Connect(bus.ConnectOptions{InProcess: b.InProcess(), Name: name, Creds: file, Inbox: creds.Inbox(false)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	if err := bus.Setup(t.Context(), part(access.PartSetup), 1); err != nil {
		t.Fatal(err)
	}
	r := &identityRig{&sealedRig{rig: newRigOn(t, b, part(access.PartScheduler))}, store, nil, ""}
	if r.signer, err = server.Signer(); err != nil {
		t.Fatal(err)
	}
	r.o.Heartbeat = 100 * time.Millisecond
	r.o.Config.Creds = filepath.Join(t.TempDir(), "agent.creds")
	r.o.Config.Trust = store.TrustFile()
	r.newKey()
	r.epoch(r.signer, 0)
	return r
}

func (r *identityRig) newKey() {
	r.t.Helper()
	signer, seed, err := access.NewHostKey()
	if err != nil {
		r.t.Fatal(err)
	}
	r.seed, r.key = seed, signer.Public()
}

// issue writes credentials for the host's key.
func (r *identityRig) issue(host string, expires time.Time) {
	r.t.Helper()
	issued, err := r.store.Issue(access.Wanted{Name: host, Role: subjects.RoleAgent, Key: r.key, Expires: expires})
	if err != nil {
		r.t.Fatal(err)
	}
	file, err := access.FormatCredentials(issued[0].JWT, r.seed)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := access.WriteSecret(r.o.Config.Creds, file); err != nil {
		r.t.Fatal(err)
	}
}

// A JWT that expires ends the connection; new credentials in its file bring the
// host back, by the same key or another.
func TestExpiredCredentials(t *testing.T) {
	r := newIdentityRig(t)
	r.issue("h1", time.Now().Add(2*time.Second))
	r.start()
	r.order(1)
	r.enacted(1, "docker_version", "1")
	await(t, "the JWT to expire", func() bool { return strings.Contains(r.log.String(), "lost the broker") })
	r.order(2)
	time.Sleep(300 * time.Millisecond)
	if p := r.report(); p.Generation != 1 {
		t.Fatalf("an expired host reports %+v", p)
	}
	r.issue("h1", time.Now().Add(time.Hour))
	r.enacted(2, "docker_version", "2")

	// Somebody else's change nothing.
	r.newKey()
	r.issue("h2", time.Time{})
	await(t, "a word about the credentials", func() bool { return strings.Contains(r.log.String(), "is of \\\"h2\\\", and this is host h1") })
	r.order(3)
	r.enacted(3, "docker_version", "3")

	r.issue("h1", time.Time{})
	await(t, "the other key", func() bool {
		return strings.Count(r.log.String(), "new credentials or certificates are in use") == 2
	})
	r.order(4)
	r.enacted(4, "docker_version", "4")
	if all := r.refusals(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

func TestIdentityFaults(t *testing.T) {
	r := newIdentityRig(t)
	good := r.o
	write := func(t *testing.T, path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, says string
		spoil      func(t *testing.T)
	}{
		{"no file", "no such file", func(*testing.T) { r.o.Config.Creds += ".gone" }},
		{"another host's", `is of "h2", and this is host h1`, func(*testing.T) { r.issue("h2", time.Time{}) }},
		{"for all to read", "chmod 600", func(t *testing.T) { write(t, r.o.Config.Creds, "", 0o644) }},
		{"not credentials", "the JWT in the credentials", func(t *testing.T) { write(t, r.o.Config.Creds, "nonsense", 0o600) }},
		{"no keys", "there is no key in it", func(t *testing.T) { write(t, r.o.Config.Trust, "# none", 0o644) }},
		{"keys for all to write", "chmod go-w", func(t *testing.T) { write(t, r.o.Config.Trust, "", 0o666) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.o = good
			r.issue("h1", time.Time{})
			r.o.Config.Trust = filepath.Join(t.TempDir(), "trust.txt")
			pin(t, r.o.Config.Trust, r.signer)
			tt.spoil(t)
			if err := Run(t.Context(), r.o); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want ErrIdentity with %q", err, tt.says)
			}
		})
	}
}

// With credentials, not verifying desired state has to be said, and is said at
// each start.
func TestTrustHasToBeNamed(t *testing.T) {
	r := newIdentityRig(t)
	r.issue("h1", time.Time{})
	r.o.Config.Trust = ""
	if err := Run(t.Context(), r.o); err == nil || !strings.Contains(err.Error(), "trust: is missing") {
		t.Errorf("error %v", err)
	}
	r.o.Config.Trust = NoTrust
	r.signer = nil
	r.start()
	r.order(1)
	r.enacted(1, "docker_version", "1")
	if !strings.Contains(r.log.String(), "desired state isn't verified") {
		t.Error("the log doesn't warn")
	}
}
