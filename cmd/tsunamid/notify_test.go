package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/notify"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// hook is a webhook that keeps what it took, and the file that names it.
type hook struct {
	*httptest.Server
	file string
	down atomic.Bool // it answers 503
	lost atomic.Int64

	mu  sync.Mutex
	got []notify.Event
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.down.Load() {
			h.lost.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var e notify.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.got = append(h.got, e)
	}))
	t.Cleanup(h.Close)
	h.file = filepath.Join(t.TempDir(), "notify.yaml")
	text := fmt.Sprintf("receivers:\n  - name: hook\n    webhook: {url: %s}\n", h.URL)
	if err := os.WriteFile(h.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// hears waits until these events have come, in this order and no others.
func (h *hook) hears(t *testing.T, p *process, want ...notify.Kind) []notify.Event {
	t.Helper()
	var events []notify.Event
	eventually(t, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		events = slices.Clone(h.got)
		kinds := make([]notify.Kind, len(events))
		for i, e := range events {
			kinds[i] = e.Kind
		}
		if !slices.Equal(kinds, want) {
			return fmt.Errorf("it heard %q, want %q:\n%s", kinds, want, p.stderr.String())
		}
		return nil
	})
	return events
}

// A rollout starts, is aborted and resumed, and the receiver hears of it, over a
// restart too.
func TestNotify(t *testing.T) {
	h := newHook(t)
	args := []string{"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--notify", h.file}
	p := launch(t, args...)
	at := p.await(up)
	if !strings.Contains(at[1], "notify") {
		t.Errorf("the parts are %s", at[1])
	}
	p.await("telling what happens to rollouts")
	c := client(t, at[2])
	apply(t, c)
	to, err := rollout.StringValue("1.12.3")
	if err != nil {
		t.Fatal(err)
	}
	spec := rollout.Spec{Name: "docker", Variable: "docker_version", To: to, Ramp: rollout.Ramp{Over: rollout.Duration(time.Hour)}}
	if err := c.Call(t.Context(), control.RolloutStart, control.StartRequest{Rollout: spec}, nil); err != nil {
		t.Fatal(err)
	}
	h.hears(t, p, notify.Started)
	// As an operator does who has nothing but NATS.
	if err := c.Conn().Publish(subjects.KindAbort.Subject("docker"), []byte("users see errors")); err != nil {
		t.Fatal(err)
	}
	events := h.hears(t, p, notify.Started, notify.Aborted)
	e := events[1]
	if e.Rollout != "docker" || e.Variable != "docker_version" || e.To != to || e.Why != "users see errors" || e.Sequence == 0 || e.State != rollout.StateFrozen ||
		e.Next != "tsunamictl rollout show docker" || events[0].Actor != "ada" {
		t.Errorf("got %+v", e)
	}
	code, body, err := get(at[3] + "/metrics")
	if want := `tsunami_notifications_total{event="aborted",outcome="sent",receiver="hook"} 1`; err != nil || code != 200 || !strings.Contains(body, want) {
		t.Errorf("%d, %v: the metrics lack %s", code, err, want)
	}
	p.stop()
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}

	p = launch(t, args...)
	c = client(t, p.await(up)[2])
	eventually(t, func() error {
		return c.Call(t.Context(), control.RolloutResume, control.RolloutRequest{ID: "docker", Acknowledge: e.Sequence, Why: "fixed"}, nil)
	})
	events = h.hears(t, p, notify.Started, notify.Aborted, notify.Resumed)
	if e := events[2]; e.Why != "fixed" || e.Actor != "ada" || e.Sequence != events[1].Sequence {
		t.Errorf("got %+v", e)
	}
}

// Killed without warning while a receiver is down, it tells that one afterwards
// what it was to be told, and what happened meanwhile.
func TestNotifyKilled(t *testing.T) {
	h := newHook(t)
	args := []string{"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--notify", h.file}
	cmd, p, ended := spawn(t, args...)
	at := p.await(up)
	p.await("telling what happens to rollouts")
	h.down.Store(true)
	if err := client(t, at[2]).Conn().Publish(subjects.KindStop.Subject(""), []byte("incident 4711")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if h.lost.Load() == 0 {
			return fmt.Errorf("nothing was tried:\n%s", p.stderr.String())
		}
		return nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended

	p = launch(t, "--data", args[1], "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if _, err := client(t, p.await(up)[2]).Conn().Request(subjects.KindAbort.Subject("docker"), []byte("users see errors"), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p.wait()
	h.down.Store(false)
	p = launch(t, args...)
	p.await(up)
	h.hears(t, p, notify.Stopped, notify.Aborted)
}

// With identities it reads as the console does, and no right was added for it.
func TestNotifyWithAccess(t *testing.T) {
	h, g := newHook(t), newGuarded(t)
	p := launch(t, append(g.args, "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--notify", h.file)...)
	at := p.await(up)
	p.await("telling what happens to rollouts")
	nc, _ := g.connect(loopback(t, at[2], "tls"), "ada", subjects.RoleOperator)
	if err := nc.Publish(subjects.KindStop.Subject(""), []byte("incident 4711")); err != nil {
		t.Fatal(err)
	}
	if e := h.hears(t, p, notify.Stopped)[0]; e.Why != "incident 4711" {
		t.Errorf("got %+v", e)
	}
	if log := p.stderr.String(); strings.Contains(strings.ToLower(log), "permissions violation") {
		t.Error(log)
	}
}

func TestNotifyCommand(t *testing.T) {
	h := newHook(t)
	try := func(args ...string) (int, string, string) {
		var stdout, stderr buffer
		code := run(t.Context(), append([]string{"notify", "--notify", h.file}, args...), &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	if code, said, fault := try("--event", "held"); code != exitDone || !strings.HasPrefix(said, "hook: 200 OK (") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, said, fault)
	}
	if len(h.got) != 1 || h.got[0].Kind != notify.Held || !h.got[0].Test {
		t.Errorf("it was sent %+v", h.got)
	}
	if code, _, fault := try("--event", "abort"); code != exitUsage || !strings.Contains(fault, "want one of started") {
		t.Errorf("exit code %d, stderr %q", code, fault)
	}
	h.Close()
	if code, said, fault := try(); code != exitFailed || !strings.Contains(said, "hook: failed: ") || !strings.Contains(fault, "didn't take it: hook") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, said, fault)
	}
}
