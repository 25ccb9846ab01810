package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	natsServer = "github.com/nats-io/nats-server/v2"
	natsCLI    = "github.com/nats-io/natscli/nats"

	// buildTimeout is for a machine with two cores, nothing compiled yet, and
	// other tests running.
	buildTimeout = 8 * time.Minute
	// commandTimeout bounds every command that a test types.
	commandTimeout = 30 * time.Second
	// stopTimeout bounds what a process takes to end after SIGTERM.
	stopTimeout = 30 * time.Second
)

// bin is the directory of the built programs.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for processes, mostly, so more of them go on at a time than
	// there are processors.
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "12"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
	}
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "tsunami-e2e-"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		defer os.RemoveAll(bin)
		return m.Run()
	}())
}

// built builds the programs when the first test needs them: Tsunami's own, the
// nats command that tools/go.mod pins, and the nats-server that the module
// embeds, as a program.
var built = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	out := bin + string(filepath.Separator)
	for _, args := range [][]string{
		{"build", "-C", "..", "-buildvcs=false", "-o", out, "./cmd/tsunamid", "./cmd/tsunami-agent", "./cmd/tsunamictl"},
		{"build", "-C", "..", "-buildvcs=false", "-o", out + "nats-server", natsServer},
		{"build", "-C", "../tools", "-buildvcs=false", "-o", out + "nats", natsCLI},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, b)
		}
	}
	return nil
})

// program returns the path of a built program, or of one of the machine's.
func program(t *testing.T, name string) string {
	t.Helper()
	if err := built(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(bin, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: %v", name, err)
	}
	return path
}

// environment is that of every process: nothing of the person's who runs the
// tests, and the directories where dpkg finds its helpers.
func environment(home string) []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + home, "XDG_CONFIG_HOME=" + home, "TMPDIR=" + home, "LC_ALL=C", "USER=ada", "LOGNAME=ada",
	}
}

// result is what a finished command left.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
}

// execute runs a command to its end, whatever its exit status.
func execute(t *testing.T, home, name string, args ...string) result {
	t.Helper()
	path := program(t, name)
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment(home)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s: didn't end within %s\n%s%s", name, strings.Join(args, " "), commandTimeout, &stdout, &stderr)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%s: %v", name, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// process is a program that runs beside the test. Its log goes on over restarts.
type process struct {
	t    *testing.T
	name string
	argv []string
	env  []string
	log  string

	cmd  *exec.Cmd
	done chan struct{}
}

// start starts a program under a name of its own, and stops it when the test
// ends. If the test has failed by then, the end of its log is shown. As with
// env(1), NAME=value may come before the program.
func start(t *testing.T, home, name string, argv ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, env: environment(home), log: filepath.Join(t.ArtifactDir(), name+".log")}
	for strings.Contains(argv[0], "=") {
		p.env, argv = append(p.env, argv[0]), argv[1:]
	}
	p.argv = append([]string{program(t, argv[0])}, argv[1:]...)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", p.name, p.tail(2000))
		}
	})
	p.start()
	return p
}

func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	// A group of its own, so that what it leaves behind can be ended too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("starting %s: %v", p.name, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	p.cmd, p.done = cmd, done
}

// signal sends one to the process itself.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("%s: sending %v: %v", p.name, s, err)
	}
}

// kill ends the process as kill -9 does, and returns when it is gone. Its
// children live on, as they would.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.done
}

// running says whether the process hasn't ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop ends the process in its own time, then what is left of its group.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	if p.running() {
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(stopTimeout):
			p.t.Errorf("%s didn't end within %s of SIGTERM", p.name, stopTimeout)
			p.cmd.Process.Kill()
			<-p.done
		}
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.cmd = nil
}

// output is all that the process has printed.
func (p *process) output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (p *process) tail(n int) string {
	s := p.output()
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}

// eventually waits until ok says yes; what it says besides is shown when it
// never does. Asking takes a fifth of the time at most, for there are others.
func eventually(t *testing.T, within time.Duration, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		asked := time.Now()
		yes, state := ok()
		if yes {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; at last: %s", what, within, state)
		}
		time.Sleep(max(20*time.Millisecond, min(4*time.Since(asked), time.Second)))
	}
}

// nextPort is where the next free address is looked for. Ports from here on are below
// those that the system gives to connections that go out, of which the agents make
// many: one of theirs could be taken between this look and its use.
var nextPort atomic.Int32

func init() { nextPort.Store(10_000 + rand.Int32N(10_000)) }

// freeAddress finds an address of loopback that nobody listens on. A process
// that is to come back on it can't be given port 0.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		return address
	}
	t.Fatal("no port is free")
	return ""
}

// write makes a file, and the directories that it needs.
func write(t *testing.T, name string, mode os.FileMode, data string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	return name
}
