package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// probed runs a check once, within so long.
func probed(t *testing.T, c Check, within time.Duration) Result {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), within, errors.New("it ran longer than its timeout"))
	defer cancel()
	return c.probe(ctx, Execute, nil, &scraped{}, time.Now())
}

func TestProbeHTTP(t *testing.T) {
	var open atomic.Int64 // connections
	release := make(chan struct{})
	mux := http.NewServeMux()
	for path, code := range map[string]int{"/200": 200, "/204": 204, "/404": 404, "/503": 503} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			if code == 503 {
				fmt.Fprint(w, "the database\x1b is away")
			}
		})
	}
	mux.Handle("/there", http.RedirectHandler("/200", http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusFound))
	mux.Handle("/login", http.RedirectHandler("http://login.example.net/", http.StatusFound))
	mux.Handle("/file", http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	mux.HandleFunc("/hangs", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/drips", func(w http.ResponseWriter, r *http.Request) { // an error page without an end
		w.WriteHeader(500)
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeader))
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(release) })
	secure := httptest.NewUnstartedServer(mux)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)

	for _, tt := range []struct{ url, says string }{
		{s.URL + "/200", ""},
		{s.URL + "/204", ""},
		{s.URL + "/there", ""},
		{s.URL + "/404", "answers 404 Not Found"},
		{s.URL + "/503", "answers 503 Service Unavailable: the database is away"},
		{s.URL + "/round", "it redirects more than 5 times"},
		{s.URL + "/login", "it redirects to another host, login.example.net"},
		{s.URL + "/file", "redirects to another host"},
		{s.URL + "/drips", "answers 500"},
		{s.URL + "/headers", "server response headers exceeded"},
		{secure.URL + "/200", "certificate"},
		{"http://" + unused(t) + "/", "connection refused"},
	} {
		r := probed(t, Check{HTTP: tt.url}, 10*time.Second)
		if said := r.failure(maxError); (tt.says == "") != (r.Err == nil) || !strings.Contains(said, tt.says) || len(said) > maxError {
			t.Errorf("%s: %d bytes: %q, want %q", tt.url, len(said), said, tt.says)
		}
	}
	start := time.Now()
	if r := probed(t, Check{HTTP: s.URL + "/hangs"}, 100*time.Millisecond); r.failure(maxError) != "it ran longer than its timeout" || time.Since(start) > 10*time.Second {
		t.Errorf("after %s: %q", time.Since(start), r.failure(maxError))
	}
	await(t, "connections to be closed", func() bool { return open.Load() == 0 })
	if r := probed(t, Check{HTTP: "http://someone:secret@" + strings.TrimPrefix(s.URL, "http://") + "/404"}, 10*time.Second); strings.Contains(r.failure(maxError), "secret") {
		t.Errorf("it tells the password: %s", r.failure(maxError))
	}
}

// unused is an address that nobody listens on.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestProbeTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if r := probed(t, Check{TCP: l.Addr().String()}, 10*time.Second); r.Err != nil {
		t.Error(r.Err)
	}
	if conn, err := l.Accept(); err != nil {
		t.Error(err)
	} else if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("it sends something")
	}
	if r := probed(t, Check{TCP: unused(t)}, 10*time.Second); r.Err == nil || !strings.Contains(r.Err.Error(), "connection refused") {
		t.Errorf("nobody listens: %v", r.Err)
	}
	if r := probed(t, Check{TCP: l.Addr().String()}, -time.Second); r.failure(maxError) != "it ran longer than its timeout" {
		t.Errorf("no time: %q", r.failure(maxError))
	}
}

func TestProbeUnit(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		result     Result
		want       string // part of the failure; empty: it passes
	}{
		{"active", "LoadState=loaded\nActiveState=active\nSubState=running\n", Result{}, ""},
		{"order doesn't matter", "SubState=exited\nActiveState=active\nLoadState=loaded\n", Result{}, ""},
		{"reloading", "LoadState=loaded\nActiveState=reloading\nSubState=reload\n", Result{}, ""},
		{"runs on, its file removed", "LoadState=not-found\nActiveState=active\nSubState=running\n", Result{}, ""},
		{"stopped", "LoadState=loaded\nActiveState=inactive\nSubState=dead\n", Result{}, "docker.service is inactive (dead)"},
		{"failed", "LoadState=loaded\nActiveState=failed\nSubState=failed\n", Result{}, "docker.service is failed (failed)"},
		{"starting", "LoadState=loaded\nActiveState=activating\nSubState=start\n", Result{}, "docker.service is activating (start)"},
		{"restarting in a loop", "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\n", Result{}, "docker.service is activating (auto-restart)"},
		{"stopping", "LoadState=loaded\nActiveState=deactivating\nSubState=stop-sigterm\n", Result{}, "docker.service is deactivating (stop-sigterm)"},
		{"unknown", "LoadState=not-found\nActiveState=inactive\nSubState=dead\n", Result{}, "there is no unit docker.service"},
		{"masked", "LoadState=masked\nActiveState=inactive\nSubState=dead\n", Result{}, "docker.service is masked"},
		{"silent", "", Result{Output: "odd"}, "systemctl doesn't say whether the unit is active: odd"},
		{"no systemd", "", Result{Err: errors.New("exit status 1"), Output: "Failed to connect to bus"}, "exit status 1: Failed to connect to bus"},
	} {
		r := (&Check{Systemd: "docker.service"}).probe(t.Context(), func(_ context.Context, c Command) Result {
			want := []string{"systemctl", "show", "--property=LoadState,ActiveState,SubState", "--", "docker.service"}
			if !slices.Equal(c.Args, want) || !c.Answers || !slices.Equal(c.Env, []string{"A=b"}) {
				t.Errorf("it runs %+v", c)
			}
			tt.result.Stdout = tt.says
			return tt.result
		}, []string{"A=b"}, nil, time.Now())
		if said := r.failure(maxError); (tt.want == "") != (r.Err == nil) || !strings.Contains(said, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, said, tt.want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if r := probed(t, Check{Systemd: "docker.service"}, 10*time.Second); !strings.Contains(r.failure(maxError), "the program systemctl isn't there") {
		t.Errorf("a machine without systemd: %q", r.failure(maxError))
	}
}

// Each kind from the agent's own rhythm to its report.
func TestKindsOfChecks(t *testing.T) {
	r := newRig(t)
	r.o.Exec = nil
	var ill atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	unit := filepath.Join(t.TempDir(), "state")
	put := func(state string) { // in one go: a check may be reading it
		if err := errors.Join(os.WriteFile(unit+".new", []byte(state), 0o644), os.Rename(unit+".new", unit)); err != nil {
			t.Fatal(err)
		}
	}
	put("active")
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\necho LoadState=loaded\necho ActiveState=$(cat "+unit+")\necho SubState=x\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	each := rollout.Duration(100 * time.Millisecond)
	r.o.Config.Enact = nil
	r.o.Config.Checks = map[rollout.ID]Check{
		"api":  {HTTP: s.URL, Every: each},
		"port": {TCP: s.Listener.Addr().String(), Every: each},
		"unit": {Systemd: "docker.service", Every: each},
		"exec": {Exec: []string{"/bin/sh", "-c", "exit 0"}, Every: each},
	}
	r.start()
	all := func(status rollout.CheckStatus, ids ...rollout.ID) func(*rollout.Report) bool {
		return func(p *rollout.Report) bool {
			return !slices.ContainsFunc(ids, func(id rollout.ID) bool { return p.Checks[id].Status != status })
		}
	}
	r.reported("all pass", all(rollout.Passing, "api", "port", "unit", "exec"))
	ill.Store(true)
	put("activating")
	p := r.reported("two fail", all(rollout.Failing, "api", "unit"))
	if o := p.Checks["unit"].Output; o != "docker.service is activating (x)" {
		t.Errorf("the unit's check says %q", o)
	}
	if o := p.Checks["api"].Output; !strings.Contains(o, "503") {
		t.Errorf("the page's check says %q", o)
	}
	s.Close()
	r.reported("the port's fails", all(rollout.Failing, "port"))
}
