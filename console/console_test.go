package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// fixture is a console over a real broker with the streams made.
type fixture struct {
	t      *testing.T
	broker *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	http   *httptest.Server
	log    *logBuffer

	mu    sync.Mutex
	ready error
}

// start starts one; with changes the options.
func start(t *testing.T, with ...func(*fixture, *Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, log: &logBuffer{}}
	var err error
	f.broker, err = server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	f.broker.Start()
	t.Cleanup(func() { f.broker.Shutdown(); f.broker.WaitForShutdown() })
	if !f.broker.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker doesn't start")
	}
	if f.conn, err = bus.Connect(bus.ConnectOptions{InProcess: f.broker, Name: "console"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.conn.Close)
	if f.js, err = jetstream.New(f.conn); err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(t.Context(), f.js, 1); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector())
	o := Options{
		Conn: f.conn, Gatherer: reg, Registerer: reg, Logger: slog.New(slog.NewTextHandler(f.log, nil)),
		Ready: func(context.Context) error { f.mu.Lock(); defer f.mu.Unlock(); return f.ready },
	}
	for _, change := range with {
		change(f, &o)
	}
	h, err := newHandler(o)
	if err != nil {
		t.Fatal(err)
	}
	f.http = httptest.NewUnstartedServer(h)
	if f.http.TLS = o.TLS; o.TLS != nil {
		f.http.StartTLS()
	} else {
		f.http.Start()
	}
	t.Cleanup(f.http.Close)
	return f
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tell puts a document into the bucket as the scheduler does.
func (f *fixture) tell(host rollout.Host, generation uint64, version string, decommission bool) {
	f.t.Helper()
	v, err := rollout.StringValue(version)
	if err != nil {
		f.t.Fatal(err)
	}
	c := subjects.Change{
		Host: host, Actor: "ada", Time: time.Now(), Reason: rollout.Reason{Code: rollout.ByRamp}, Decommissioned: decommission,
		Desired: rollout.Desired{Generation: generation, Values: rollout.Document{"docker_version": v}, Told: map[rollout.Name]rollout.Told{}},
	}
	h, body, err := c.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	f.put(host, h, body)
}

// put writes the host's key with whatever header and body.
func (f *fixture) put(host rollout.Host, h subjects.Header, body []byte) {
	f.t.Helper()
	m := bus.Message{Subject: subjects.KindDesired.Subject(string(host)), Header: h, Data: body}
	if _, err := bus.Put(f.t.Context(), f.js, m); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) do(method, path string, header ...string) (*http.Response, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.http.URL+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.http.Client().Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, string(body)
}

// failure checks that the answer is an error object with words in it.
func (f *fixture) failure(resp *http.Response, body string, status int, code, words string) {
	f.t.Helper()
	var e failure
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		f.t.Fatalf("body %q: %v", body, err)
	}
	if resp.StatusCode != status || e.Code != code || !strings.Contains(e.Message, words) {
		f.t.Errorf("got %d %+v, want %d %s with %q", resp.StatusCode, e, status, code, words)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		f.t.Errorf("Content-Type %q", ct)
	}
}

const (
	web1     = "web1.lon2.example.net"
	web1Path = "/v1/hosts/" + web1 + "/desired"
	oldBody  = `{"docker_version":"1.10.3"}`
	newBody  = `{"docker_version":"1.12.3"}`
)

func TestDesired(t *testing.T) {
	f := start(t)
	f.tell(web1, 7, "1.10.3", false)

	resp, body := f.do("GET", web1Path)
	if resp.StatusCode != 200 || body != oldBody {
		t.Fatalf("got %d %q", resp.StatusCode, body)
	}
	for k, want := range map[string]string{
		"ETag": `"7"`, "Content-Type": "application/json", "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Content-Length": strconv.Itoa(len(oldBody)),
	} {
		if got := resp.Header.Get(k); got != want {
			t.Errorf("%s: got %q, want %q", k, got, want)
		}
	}

	for _, etag := range []string{`"7"`, `W/"7"`, `"6", "7"`, `*`} {
		if resp, body := f.do("GET", web1Path, "If-None-Match", etag); resp.StatusCode != 304 || body != "" || resp.Header.Get("ETag") != `"7"` {
			t.Errorf("If-None-Match %s: got %d %q %q", etag, resp.StatusCode, body, resp.Header.Get("ETag"))
		}
	}
	if resp, body := f.do("HEAD", web1Path); resp.StatusCode != 200 || body != "" || resp.Header.Get("ETag") != `"7"` || resp.ContentLength != int64(len(oldBody)) {
		t.Errorf("HEAD: got %d %q %q %d", resp.StatusCode, body, resp.Header.Get("ETag"), resp.ContentLength)
	}

	f.tell(web1, 8, "1.12.3", false)
	resp, body = f.do("GET", web1Path, "If-None-Match", `"7"`)
	if resp.StatusCode != 200 || body != newBody || resp.Header.Get("ETag") != `"8"` {
		t.Errorf("after a change: got %d %q %q", resp.StatusCode, body, resp.Header.Get("ETag"))
	}
}

func TestNoDocument(t *testing.T) {
	f := start(t)
	resp, body := f.do("GET", web1Path)
	f.failure(resp, body, 404, "not_found", "never told")

	f.tell(web1, 1, "1.10.3", false)
	f.tell(web1, 2, "", true)
	resp, body = f.do("GET", web1Path)
	f.failure(resp, body, 404, "not_found", "decommissioned")

	f.tell(web1, 3, "1.12.3", false) // it is back
	if resp, body := f.do("GET", web1Path); resp.StatusCode != 200 || body != newBody {
		t.Errorf("after coming back: got %d %q", resp.StatusCode, body)
	}
}

func TestHostileNames(t *testing.T) {
	f := start(t)
	f.tell(web1, 1, "1.10.3", false)
	for _, name := range []string{"%3E", "*", "a..b", "WEB1", "web1%2Flon2", "web1.", "-a", "a%20b", "a%0Ab", "%00", strings.Repeat("a", 300)} {
		resp, body := f.do("GET", "/v1/hosts/"+name+"/desired")
		f.failure(resp, body, 400, "usage", "isn't allowed")
	}
	for _, path := range []string{"/", "/v1", "/v1/hosts", "/v1/hosts/" + web1, web1Path + "/more", "/debug/pprof/", "/V1/hosts/" + web1 + "/desired"} {
		resp, body := f.do("GET", path)
		f.failure(resp, body, 404, "not_found", "/v1/hosts/<host>/desired")
	}
	for _, path := range []string{web1Path, "/metrics", "/healthz", "/readyz"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"} {
			resp, body := f.do(method, path)
			f.failure(resp, body, 405, "usage", "want GET or HEAD")
			if resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow: %q", resp.Header.Get("Allow"))
			}
		}
	}
}

func TestForeignRecords(t *testing.T) {
	for name, overwrite := range map[string]func(f *fixture){
		"put":         func(f *fixture) { f.put(web1, nil, []byte(`{"docker_version":"9.9.9"}`)) },
		"empty":       func(f *fixture) { f.put(web1, nil, nil) },
		"delete":      func(f *fixture) { f.put(web1, subjects.Header{"KV-Operation": {"DEL"}}, nil) },
		"bad headers": func(f *fixture) { f.put(web1, subjects.Header{subjects.HeaderGeneration: {"8"}}, []byte(oldBody)) },
		"several": func(f *fixture) {
			for range 5 {
				f.put(web1, nil, []byte("x"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.tell(web1, 6, "1.10.3", false)
			f.tell(web1, 7, "1.12.3", false)
			overwrite(f)
			resp, body := f.do("GET", web1Path)
			if resp.StatusCode != 200 || body != newBody || resp.Header.Get("ETag") != `"7"` {
				t.Errorf("got %d %q %q, want the last good document", resp.StatusCode, body, resp.Header.Get("ETag"))
			}
			if !strings.Contains(f.log.String(), "the newest was written by hand") {
				t.Errorf("nobody is told: log %q", f.log)
			}
		})
	}

	t.Run("decommissioned before", func(t *testing.T) {
		f := start(t)
		f.tell(web1, 6, "1.10.3", false)
		f.tell(web1, 7, "", true)
		f.put(web1, nil, []byte(newBody))
		resp, body := f.do("GET", web1Path)
		f.failure(resp, body, 404, "not_found", "decommissioned")
	})

	t.Run("none is good", func(t *testing.T) {
		f := start(t)
		f.tell(web1, 7, "1.12.3", false)
		for range 64 { // all that the bucket keeps of a key
			f.put(web1, nil, []byte(`{"docker_version":"9.9.9"}`))
		}
		resp, body := f.do("GET", web1Path)
		f.failure(resp, body, 503, "unavailable", "overwritten by hand")
		if resp.Header.Get("Retry-After") == "" || resp.Header.Get("ETag") != "" {
			t.Errorf("headers %v", resp.Header)
		}
	})
}

// A Direct Get that is a revision behind is not served once a newer document was.
func TestNeverBack(t *testing.T) {
	f := start(t)
	f.tell(web1, 7, "1.10.3", false)
	d := &desired{conn: f.conn, js: f.js, logger: slog.New(slog.DiscardHandler), served: map[rollout.Host]uint64{}}
	stale, err := bus.DirectGet(t.Context(), f.conn, subjects.DirectGetDesired(web1))
	if err != nil {
		t.Fatal(err)
	}
	f.tell(web1, 8, "1.12.3", false)
	if doc, err := d.find(t.Context(), web1); err != nil || doc.generation != 8 {
		t.Fatalf("got %d, %v", doc.generation, err)
	}
	for name, answer := range map[string]struct {
		m   *bus.Msg
		err error
	}{"a revision behind": {m: stale}, "not there yet": {err: bus.ErrNotFound}} {
		doc, err := d.settle(t.Context(), web1, answer.m, answer.err)
		if err != nil || doc.generation != 8 || string(doc.body) != newBody {
			t.Errorf("%s: got generation %d, %v", name, doc.generation, err)
		}
	}

	// A bucket that was restored from a backup is older for everyone.
	d.served[web1] = 12
	if doc, err := d.find(t.Context(), web1); err != nil || doc.generation != 8 || d.served[web1] != 8 {
		t.Errorf("after a restore: got generation %d, %v, keeping %d", doc.generation, err, d.served[web1])
	}
}

func TestBrokerGone(t *testing.T) {
	f := start(t)
	f.tell(web1, 7, "1.10.3", false)
	f.broker.Shutdown()
	f.broker.WaitForShutdown()
	resp, body := f.do("GET", web1Path)
	f.failure(resp, body, 503, "unavailable", "the broker doesn't answer")
	if resp, body := f.do("GET", "/healthz"); resp.StatusCode != 200 || body != "alive\n" {
		t.Errorf("healthz: %d %q", resp.StatusCode, body)
	}
}

func TestReadiness(t *testing.T) {
	f := start(t)
	if resp, body := f.do("GET", "/readyz"); resp.StatusCode != 200 || body != "ready\n" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	f.mu.Lock()
	f.ready = errors.New("the streams aren't there yet")
	f.mu.Unlock()
	if resp, body := f.do("GET", "/readyz"); resp.StatusCode != 503 || body != "not ready: the streams aren't there yet\n" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	if resp, _ := f.do("GET", "/healthz"); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
}

func TestMetrics(t *testing.T) {
	f := start(t)
	f.do("GET", web1Path)
	f.do("GET", "/nothing/here")
	_, body := f.do("GET", "/metrics")
	for _, want := range []string{
		`tsunami_http_requests_total{code="404",handler="desired"} 1`,
		`tsunami_http_requests_total{code="404",handler="other"} 1`,
		`tsunami_http_request_duration_seconds_count{handler="desired"} 1`,
		"go_goroutines ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestListen(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:8422"} {
		if l, err := Listen(addr, false); err == nil {
			_ = l.Close()
			t.Errorf("%s was opened", addr)
		} else if !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "127.0.0.1", "127.0.0.1:http-alt-alt", "127.0.0.1:99999"} {
		if l, err := Listen(addr, false); err == nil {
			_ = l.Close()
			t.Errorf("%q was opened", addr)
		}
	}
	l, err := Listen("localhost:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := Listen(l.Addr().String(), false); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a port in use: %v", err)
	}
}

func TestRun(t *testing.T) {
	f := start(t)
	f.tell(web1, 7, "1.10.3", false)
	options := func(l net.Listener) Options {
		return Options{Listener: l, Conn: f.conn, Gatherer: prometheus.NewRegistry(), Ready: func(context.Context) error { return nil }, Logger: slog.New(slog.DiscardHandler)}
	}
	l, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, options(l)) }()
	resp, err := http.Get("http://" + l.Addr().String() + web1Path)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}

	req, err := http.NewRequest("GET", "http://"+l.Addr().String()+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", strings.Repeat("x", 2*maxHeaderBytes))
	if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a huge header: got %d", resp.StatusCode)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}

	wide, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), options(wide)); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("beyond loopback: %v", err)
	}
	closed, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	if err := Run(t.Context(), options(closed)); err == nil {
		t.Error("a broken listener is no error")
	}
}
