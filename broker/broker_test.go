package broker_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
)

func start(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b
}

func TestStartServesOverThePortAndInProcess(t *testing.T) {
	b := start(t, broker.Options{Listen: "127.0.0.1:0"})
	over := func(url string, opts ...nats.Option) {
		t.Helper()
		nc, err := nats.Connect(url, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.AccountInfo(t.Context()); err != nil {
			t.Error(err)
		}
	}
	over(b.ClientURL())
	over("", nats.InProcessServer(b.InProcess()))

	url := b.ClientURL()
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	if b.ClientURL() != url {
		t.Errorf("after a restart at %s, was at %s", b.ClientURL(), url)
	}
	over(url)
	b.Shutdown()
	b.Shutdown()
	if _, err := nats.Connect("", nats.InProcessServer(b.InProcess())); err == nil {
		t.Error("connected to a stopped broker")
	}
}

func TestWhatIsAcknowledgedIsThereAfterARestart(t *testing.T) {
	b := start(t, broker.Options{})
	if b.ClientURL() != "" {
		t.Errorf("a broker that doesn't listen is at %s", b.ClientURL())
	}
	nc, err := nats.Connect("", nats.InProcessServer(b.InProcess()), nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", make([]byte, 1<<20+1<<16)); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "S")
	for err != nil && t.Context().Err() == nil {
		s, err = js.Stream(t.Context(), "S")
	}
	if got := s.CachedInfo().State.Msgs; got != 1 {
		t.Errorf("%d messages", got)
	}
}

func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	held := t.TempDir()
	start(t, broker.Options{Dir: held})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		options broker.Options
		want    string
	}{
		"port in use":    {broker.Options{Listen: taken.Addr().String()}, "address already in use"},
		"beyond":         {broker.Options{Listen: "0.0.0.0:0"}, "loopback only"},
		"any address":    {broker.Options{Listen: ":0"}, "loopback only"},
		"another":        {broker.Options{Listen: "192.0.2.1:0"}, "loopback only"},
		"a name":         {broker.Options{Listen: "example.net:0"}, "loopback only"},
		"no port":        {broker.Options{Listen: "127.0.0.1"}, "missing port"},
		"port too large": {broker.Options{Listen: "127.0.0.1:70000"}, "0 to 65535"},
		"held":           {broker.Options{Dir: held}, "held by another"},
		"not writable":   {broker.Options{Dir: filepath.Join(file, "dir")}, "data directory"},
		"a file":         {broker.Options{Dir: file}, "data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.options.Dir == "" {
				tt.options.Dir = t.TempDir()
			}
			b, err := broker.Start(tt.options)
			if err == nil {
				b.Shutdown()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
			if errors.Is(err, broker.ErrHeld) != (name == "held") {
				t.Errorf("got %v", err)
			}
			if name == "port in use" { // and lets go of the directory
				start(t, broker.Options{Dir: tt.options.Dir})
			}
		})
	}
	if _, err := broker.Start(broker.Options{}); err == nil {
		t.Error("it started without a directory")
	}
}

// The directory of a broker that was killed is free at once.
func TestTheLockEndsWithTheProcess(t *testing.T) {
	const env = "TSUNAMI_TEST_BROKER_DIR"
	if dir := os.Getenv(env); dir != "" {
		if _, err := broker.Start(broker.Options{Dir: dir}); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("started\n")
		select {} // until it is killed
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestTheLockEndsWithTheProcess$", "-test.v")
	cmd.Env = append(os.Environ(), env+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var heard bytes.Buffer
	buf := make([]byte, 1024)
	for !strings.Contains(heard.String(), "started") {
		n, err := out.Read(buf)
		heard.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v: %s", err, heard.String())
		}
	}
	if _, err := broker.Start(broker.Options{Dir: dir}); !errors.Is(err, broker.ErrHeld) {
		t.Fatalf("got %v, want %v", err, broker.ErrHeld)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	start(t, broker.Options{Dir: dir})
}

func TestTheServersLog(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	b := start(t, broker.Options{Logger: slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	b.Shutdown()
	mu.Lock()
	defer mu.Unlock()
	if s := log.String(); !strings.Contains(s, `level=DEBUG msg="broker notice" text="Starting nats-server`) || strings.Contains(s, "level=INFO") {
		t.Errorf("the log:\n%s", s)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
