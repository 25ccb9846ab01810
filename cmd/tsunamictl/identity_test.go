package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// known is a fleet with identities, and the people in it.
type known struct {
	t      *testing.T
	dir    string
	js     jetstream.JetStream // the scheduler's
	signer *access.Signer
}

// newKnown starts one, and points the environment at it.
func newKnown(t *testing.T) *known {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	k := &known{t: t, dir: accessDir()}
	ctl(t, "access", "init")
	server, err := access.LoadServer(k.dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Unsynced: true, Access: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	t.Setenv("TSUNAMI_SERVER", b.ClientURL())
	part := func(name string) (*nats.Conn, jetstream.JetStream) {
		t.Helper()
		file, err := server.Credentials(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := access.LoadCredentials(file)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := bus.Connect(bus.ConnectOptions{URL: b.ClientURL(), Creds: file, Inbox: c.Inbox(false)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return nc, js
	}
	_, setup := part(access.PartSetup)
	if err := bus.Setup(t.Context(), setup, 1); err != nil {
		t.Fatal(err)
	}
	nc, js := part(access.PartScheduler)
	k.js = js
	if k.signer, err = server.Signer(); err != nil {
		t.Fatal(err)
	}
	authority := func() *access.Authority {
		server, err := access.LoadServer(k.dir)
		if err != nil {
			return nil
		}
		a, err := server.Authority()
		if err != nil {
			return nil
		}
		return a
	}
	stop, err := control.Serve(t.Context(), nc, "0.3.0", newFake().handle, control.Authorize(authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return k
}

// record writes a record as the scheduler does, sealed or not.
func (k *known) record(subject string, sealed bool) {
	k.t.Helper()
	m := bus.Message{Subject: subject, Header: subjects.Header{subjects.HeaderActor: {"ada"}}, Data: []byte("{}")}
	if sealed {
		k.signer.Seal(m.Subject, m.Header, m.Data)
	}
	if _, err := bus.Put(k.t.Context(), k.js, m); err != nil {
		k.t.Fatal(err)
	}
}

// exited runs the program, which is to end with this code, and returns all that
// it printed.
func exited(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(t.Context(), args, strings.NewReader(""), &out, &errs); got != code {
		t.Errorf("%v: exit code %d, want %d: %s%s", args, got, code, &out, &errs)
	}
	return out.String() + errs.String()
}

func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q isn't in it:\n%s", p, text)
		}
	}
}

func TestWhoOneIs(t *testing.T) {
	k := newKnown(t)
	ctl(t, "access", "operator", "add", "ada", "--role", "operator")
	ctl(t, "access", "operator", "add", "vera", "--role", "viewer")
	config := filepath.Dir(k.dir)
	ada, vera := filepath.Join(config, "ada.creds"), filepath.Join(config, "vera.creds")
	says(t, exited(t, exitDone, "--creds", ada, "status"), "ada, operator")
	t.Setenv("TSUNAMI_CREDS", vera)
	says(t, exited(t, exitDone, "status", "-o", "json"), `"name": "vera"`, `"role": "viewer"`)
	says(t, exited(t, exitUsage, "--actor", "ada", "status"), "the credentials are vera's")
	exited(t, exitDone, "--actor", "vera", "status")

	// A viewer looks, and changes nothing.
	k.record(subjects.KindRollout.Subject("docker-1-12-3"), true)
	says(t, exited(t, exitRefused, "stop", "--why", "x"), "refused: vera is a viewer and may not stop everything: an operator or an admin may")
	says(t, exited(t, exitRefused, "rollout", "abort", "docker-1-12-3", "--why", "x"), "vera is a viewer and may not abort a rollout")
	says(t, exited(t, exitRefused, "rollout", "pause", "docker-1-12-3", "--why", "x"), "vera is a viewer and may not ask for rollout.pause")
	exited(t, exitDone, "rollout", "list")
	says(t, exited(t, exitDone, "--creds", ada, "rollout", "abort", "docker-1-12-3", "--why", "users see errors"), "is written")
	says(t, exited(t, exitUsage, "--cert", "x", "status"), "--cert and --key go together")

	// Whoever says nobody is let in nowhere.
	t.Setenv("TSUNAMI_CREDS", "")
	says(t, exited(t, exitFailed, "status"), "can't reach the broker", "--creds or --context")
}

func TestVerifyTheAuditLog(t *testing.T) {
	k := newKnown(t)
	ctl(t, "access", "operator", "add", "ada", "--role", "operator")
	t.Setenv("TSUNAMI_CREDS", filepath.Join(filepath.Dir(k.dir), "ada.creds"))
	k.record(subjects.KindVariable.Subject("v"), true)
	k.record(subjects.KindBlackout.Subject("b"), true)
	exited(t, exitDone, "stop", "--why", "incident")
	says(t, exited(t, exitDone, "audit", "verify"),
		"read:     3 records, from 1 to 3", "compared: 3 records", "seals:    2 good; 1 need none", "nothing is wrong with it")
	says(t, exited(t, exitDone, "audit"), "ada (unproven)")
	// What an admin writes.
	k.record(subjects.KindPin.Subject("h1"), false)
	says(t, exited(t, exitFailed, "audit", "verify"), "h1", "it bears no seal", "the audit log has 1 fault")
	says(t, exited(t, exitFailed, "audit", "verify", "-o", "json"), `"findingsTotal": 1`, `"sequence": 4`, `"sealsChecked": true`)
	exited(t, exitDone, "audit", "verify", "--from", "5")

	// Another fleet's keys, and none.
	other := filepath.Join(t.TempDir(), "other")
	ctl(t, "access", "init", "--dir", other)
	says(t, exited(t, exitFailed, "audit", "verify", "--trust", filepath.Join(other, "trust.txt")), "sealed by a key that isn't trusted here", "the audit log has 3 faults")
	t.Setenv("TSUNAMI_TRUST", filepath.Join(other, "trust.txt"))
	exited(t, exitFailed, "audit", "verify")
	t.Setenv("TSUNAMI_TRUST", "")
	says(t, exited(t, exitUsage, "audit", "verify", "--trust", "nowhere.txt"), "there is no file nowhere.txt")
	if err := os.Rename(filepath.Join(k.dir, "trust.txt"), filepath.Join(k.dir, "moved.txt")); err != nil {
		t.Fatal(err)
	}
	says(t, exited(t, exitDone, "audit", "verify"), "seals:    not checked: --trust FILE says whose are good", "nothing is wrong with it")
}
