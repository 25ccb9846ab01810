package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// buffer takes a running program's output.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process is a run of the whole program in this process.
type process struct {
	t      *testing.T
	stdout buffer
	stderr buffer
	stop   context.CancelFunc
	code   chan int
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{t: t, stop: cancel, code: make(chan int, 1)}
	go func() { p.code <- run(ctx, args, &p.stdout, &p.stderr) }()
	t.Cleanup(func() {
		cancel()
		if p.code != nil {
			p.wait()
		}
	})
	return p
}

// wait returns the exit code, within the time that a short demo may take.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case code := <-p.code:
		p.code = nil
		return code
	case <-time.After(time.Minute):
		p.t.Fatalf("it doesn't end:\n%s", p.stderr.String())
		return -1
	}
}

// await waits for a pattern in the log and returns its groups.
func (p *process) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var m []string
	eventually(p.t, func() error {
		if m = re.FindStringSubmatch(p.stderr.String()); m != nil {
			return nil
		}
		return fmt.Errorf("the log lacks %s:\n%s", pattern, p.stderr.String())
	})
	return m
}

// eventually retries until try returns nil.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// get asks the console and returns status and body.
func get(url string) (int, string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func ready(url string) func() error {
	return func() error {
		status, body, err := get(url + "/readyz")
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	}
}

// client connects as an operator.
func client(t *testing.T, url string) *control.Client {
	t.Helper()
	nc, err := bus.Connect(bus.ConnectOptions{URL: url, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c, err := control.NewClient(nc, "ada")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// apply makes a variable through the scheduler, as soon as that leads.
func apply(t *testing.T, c *control.Client) {
	t.Helper()
	docs := control.ApplyRequest{Documents: []control.Document{{Variable: &rollout.Variable{Name: "docker_version", Type: rollout.String}}}}
	eventually(t, func() error {
		var r control.ApplyResponse
		if err := c.Call(t.Context(), control.Apply, docs, &r); err != nil {
			return err
		}
		if len(r.Results) != 1 || r.Results[0].Name != "docker_version" {
			t.Errorf("apply: got %+v", r)
		}
		return nil
	})
}

const up = `msg="tsunamid is up" parts=(\S+) broker=(\S+)(?: data=\S+)? http=(\S+)`

func TestWholeProgram(t *testing.T) {
	data := t.TempDir()
	args := []string{"--data", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	p := launch(t, args...)
	m := p.await(up)
	if m[1] != "broker,scheduler,sloguard,console" {
		t.Errorf("parts %q", m[1])
	}
	eventually(t, ready(m[3]))
	apply(t, client(t, m[2]))
	p.await(`msg=guarding part=sloguard`)

	_, metrics, err := get(m[3] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`tsunami_broker_connected{part="scheduler"} 1`, `tsunami_broker_connected{part="sloguard"} 1`, `tsunami_broker_connected{part="console"} 1`,
		"tsunami_guard_behind_messages ", "tsunami_guard_silent_hosts ",
		"tsunamid_build_info{", "go_goroutines ", "process_open_fds ", "tsunami_http_requests_total{",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if status, body, err := get(m[3] + "/v1/hosts/web1/desired"); err != nil || status != 404 {
		t.Errorf("an unknown host: %d %s %v", status, body, err)
	}

	second := launch(t, args...)
	if code := second.wait(); code != exitFailed {
		t.Errorf("a second start on the same data: exit code %d", code)
	}
	if log := second.stderr.String(); !strings.Contains(log, data) || !strings.Contains(log, "held by another running broker") {
		t.Errorf("a second start on the same data says %q", log)
	}

	p.stop()
	start := time.Now()
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if log := p.stderr.String(); strings.Contains(log, "didn't stop") {
		t.Errorf("not everything stopped cleanly:\n%s", log)
	}
	if _, _, err := get(m[3] + "/healthz"); err == nil {
		t.Error("the console still answers")
	}

	// What was written is there again.
	p = launch(t, args...)
	m = p.await(up)
	c := client(t, m[2])
	eventually(t, func() error {
		var views []control.VariableView
		if err := c.Call(t.Context(), control.VariableList, nil, &views); err != nil {
			return err
		}
		if len(views) != 1 || views[0].Name != "docker_version" {
			return fmt.Errorf("variables after a restart: %+v", views)
		}
		return nil
	})
}

// Every part in a process of its own.
func TestSeparateParts(t *testing.T) {
	b := launch(t, "--run", "broker", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
	url := b.await(`msg="tsunamid is up" parts=broker broker=(\S+)`)[1]
	launch(t, "--run", "scheduler", "--nats", url).await(`msg="tsunamid is up" parts=scheduler`)
	guard := launch(t, "--run", "sloguard", "--nats", url)
	guard.await(`msg="tsunamid is up" parts=sloguard`)
	console := launch(t, "--run=console", "--nats", url, "--http", "127.0.0.1:0").await(up)[3]
	apply(t, client(t, url))
	eventually(t, ready(console))

	// The guard alone takes the lease, and gives it back when it is stopped.
	lease := guardLease(t, url)
	eventually(t, func() error { return lease(true) })
	guard.stop()
	if code := guard.wait(); code != exitDone {
		t.Errorf("the guard: exit code %d:\n%s", code, guard.stderr.String())
	}
	if err := lease(false); err != nil {
		t.Error(err)
	}

	b.stop()
	if code := b.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, b.stderr.String())
	}
	eventually(t, func() error {
		if status, body, err := get(console + "/readyz"); err != nil || status != 503 || !strings.Contains(body, "no connection to the broker") {
			return fmt.Errorf("without a broker: %d %s %v", status, body, err)
		}
		return nil
	})
	if status, _, err := get(console + "/healthz"); err != nil || status != 200 {
		t.Errorf("healthz without a broker: %d %v", status, err)
	}
}

// guardLease compares the guard's lease with whether somebody should hold it.
func guardLease(t *testing.T, url string) func(held bool) error {
	t.Helper()
	nc, err := bus.Connect(bus.ConnectOptions{URL: url, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return func(held bool) error {
		m, err := bus.Last(t.Context(), js, subjects.Stream, subjects.KindGuard.Subject(""))
		if err != nil {
			return fmt.Errorf("the guard's lease: %w", err)
		}
		var g subjects.Guard
		if err := subjects.DecodeInto(m.Data, &g); err != nil {
			return err
		}
		if (g.Holder != "") != held {
			return fmt.Errorf("the guard's lease has the holder %q; should it be held? %v", g.Holder, held)
		}
		return nil
	}
}

func TestExternalBrokerComesLate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "--nats", "nats://tsunami:s3cret@"+addr, "--http", "127.0.0.1:0")
	m := p.await(up)
	if m[1] != "scheduler,sloguard,console" {
		t.Errorf("parts %q", m[1])
	}
	p.await("waiting for the broker")
	if status, body, err := get(m[3] + "/readyz"); err != nil || status != 503 || !strings.Contains(body, "no connection") {
		t.Errorf("before there is a broker: %d %s %v", status, body, err)
	}
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Listen: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	eventually(t, ready(m[3]))
	apply(t, client(t, b.ClientURL()))
	log := p.stderr.String()
	if n := strings.Count(log, "waiting for the broker"); n != 1 {
		t.Errorf("it said %d times that it waits:\n%s", n, log)
	}
	if strings.Contains(log, "s3cret") {
		t.Errorf("the password is in the log:\n%s", log)
	}
	p.stop()
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
}

// A stream that isn't as it must be ends the program with the difference.
func TestDriftedStream(t *testing.T) {
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	nc, err := nats.Connect(b.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: subjects.Stream, Subjects: []string{subjects.AllKeys}, MaxMsgsPerSubject: 5}); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "--nats", b.ClientURL(), "--run", "scheduler")
	if code := p.wait(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"max_msgs_per_subject is 5, want 64", "deny_purge is false, want true"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("it doesn't say %q:\n%s", want, p.stderr.String())
		}
	}
}

func TestFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().String()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"http port taken":   {[]string{"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", taken}, taken},
		"broker port taken": {[]string{"--data", t.TempDir(), "--listen", taken, "--http", "127.0.0.1:0"}, "in use"},
		"data is a file":    {[]string{"--data", file, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}, file},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, c.args...)
			if code := p.wait(); code != exitFailed || !strings.Contains(p.stderr.String(), c.want) {
				t.Errorf("exit code %d:\n%s", code, p.stderr.String())
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // in the message
	}{
		{"--run broker,guard", `there is no part "guard": want some of broker,scheduler,sloguard,console,notify`},
		{"--run sloguard", "--nats has to say where the broker is"},
		{"--run broker,broker", "names broker twice"},
		{"--run=", "names no part"},
		{"--run scheduler", "--nats has to say where the broker is"},
		{"--nats nats://h:4222 --run broker,scheduler", "leave broker out of --run"},
		{"--nats http://h:4222", "want nats://host:port"},
		{"--nats=", "want nats://host:port"},
		{"--nats nats://h:4222 --data /tmp/x", "--data is for the broker"},
		{"--nats nats://h:4222 --listen 127.0.0.1:1", "--listen is for the broker"},
		{"--nats nats://h:4222 --replicas 2", "want 1, 3 or 5"},
		{"--nats nats://h:4222 --creds /nonexistent/creds", "--creds: open /nonexistent/creds"},
		{"--replicas 3", "--replicas is for an existing broker"},
		{"--creds x", "--creds is for an existing broker"},
		{"--run broker --http 127.0.0.1:1", "--http is for the console"},
		{"--listen 0.0.0.0:4222", "isn't on loopback"},
		{"--listen 0.0.0.0:4222", "give --access DIR (which 'tsunamictl access init' makes) and --tls-cert FILE --tls-key FILE too, or listen on 127.0.0.1:4222"},
		{"--http 192.0.2.1:8422 --access x", "give --tls-cert FILE --tls-key FILE too, or listen on 127.0.0.1:8422"},
		{"--http :8422 --tls-cert /dev/null --tls-key /dev/null", "give --access DIR (which 'tsunamictl access init' makes) too"},
		{"--tls-cert /dev/null", "give --tls-key too"},
		{"--tls-key /dev/null", "give --tls-cert too"},
		{"--tls-cert /nonexistent/cert --tls-key /dev/null", "--tls-cert: open /nonexistent/cert"},
		{"--access x --tls-client-ca /dev/null", "give --access, --tls-cert and --tls-key too"},
		{"--ca /dev/null", "--ca is for an existing broker"},
		{"--nats nats://h:4222 --access x --creds /dev/null", "leave --creds out"},
		{"--nats nats://h:4222 --run scheduler --tls-cert /dev/null --tls-key /dev/null", "neither broker nor console runs here"},
		{"--listen 4222", "want host:port"},
		{"--listen 127.0.0.1:nats", "want 0 to 65535"},
		{"--http :8422", "isn't on loopback"},
		{"--data=", "want a directory"},
		{"--log-level loud", "loud"},
		{"--log-format xml", "xml"},
		{"--nonsense", "unknown flag: --nonsense"},
		{"demos", `"demos" isn't a command: want demo, notify, or flags alone`},
		{"demo now", "takes no arguments"},
		{"demo --hosts 0", "want 1 to"},
		{"demo --over 1.5h", "isn't a duration"},
		{"demo --over 10ms", "want 1s to"},
		{"--run broker,notify", "--notify has to say whom"},
		{"--run broker --notify x", "--notify is for the notify, which doesn't run here"},
		{"--notify /nonexistent/notify.yaml", "--notify: open /nonexistent/notify.yaml"},
		{"notify", "--notify is missing"},
		{"notify --notify /nonexistent/notify.yaml", "--notify: open /nonexistent/notify.yaml"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var stdout, stderr buffer
			code := run(t.Context(), strings.Fields(c.args), &stdout, &stderr)
			if code != exitUsage || !strings.Contains(stderr.String(), c.want) || stdout.String() != "" {
				t.Errorf("exit code %d, stdout %q, stderr:\n%s", code, stdout.String(), stderr.String())
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, want := range map[string]string{
		"--help": "--run PARTS", "--version": "tsunamid, version", "demo --help": "--hosts N", "help demo": "--over DURATION",
	} {
		var stdout, stderr buffer
		if code := run(t.Context(), strings.Fields(arg), &stdout, &stderr); code != exitDone || !strings.Contains(stdout.String(), want) || stderr.String() != "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", arg, code, stdout.String(), stderr.String())
		}
	}
}

func TestLogFormat(t *testing.T) {
	p := launch(t, "--run", "broker", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--log-format", "json")
	p.await("tsunamid is up")
	p.stop()
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(p.stderr.String()) {
		var entry struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Msg == "" {
			t.Errorf("line %q: %v", line, err)
		}
	}
}
