package main

import (
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asProgram makes the test binary be the program.
const asProgram = "TSUNAMID_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main() // it exits
	}
	os.Exit(m.Run())
}

// spawn starts the program as a process of its own.
func spawn(t *testing.T, args ...string) (*exec.Cmd, *process, chan error) {
	t.Helper()
	p := &process{t: t}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, done := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
	})
	return cmd, p, ended
}

func TestSignals(t *testing.T) {
	args := []string{"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}

	// Killed without warning, it is back on the same data at once.
	cmd, p, ended := spawn(t, args...)
	apply(t, client(t, p.await(up)[2]))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended

	cmd, p, ended = spawn(t, args...)
	m := p.await(up)
	eventually(t, ready(m[3]))
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, p.stderr.String())
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("SIGTERM doesn't stop it within 10 s:\n%s", p.stderr.String())
	}
}

func TestSecondSignal(t *testing.T) {
	cmd, p, ended := spawn(t, "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	u, err := url.Parse(p.await(up)[3])
	if err != nil {
		t.Fatal(err)
	}
	// A request that never ends keeps the console from stopping for a while.
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("GET /healthz HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, ready(u.String())) // by now the server has taken the connection
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.await("msg=stopping")
	start := time.Now()
	for err = nil; err == nil; {
		// The handler goes a moment after it has done its work, so a signal on
		// its heels may still be the handler's.
		if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		select {
		case err = <-ended:
			if err == nil {
				t.Fatalf("it waited for the console after the second signal:\n%s", p.stderr.String())
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatalf("after the second signal: %v\n%s", err, p.stderr.String())
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGINT {
		t.Errorf("after the second signal: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the second signal took %s:\n%s", took, p.stderr.String())
	}
	if strings.Contains(p.stderr.String(), "panic") {
		t.Error(p.stderr.String())
	}
}

// A demo whose reader goes away clears up and ends.
func TestDemoReaderGone(t *testing.T) {
	left := inTemp(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "demo", "--hosts", "2", "--over", "10m")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	if err := errors.Join(w.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on with nobody looking")
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %s", l)
	}
}
