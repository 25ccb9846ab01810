package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// idle is how long a process is left alone before its memory is read.
const idle = 5 * time.Second

// BenchmarkAgentProcess starts tsunami-agent, built as it is shipped, with an
// enactor and a check, and reads its resident memory when it has reported and
// then idled for 5 s. Of rss-MiB, anon-MiB is its own (heap, stacks, the
// runtime's tables) and the rest is the program's file, which all agents of a
// machine share and the kernel may drop. The floor is a Go program that only
// connects, subscribes and sends heartbeats.
func BenchmarkAgentProcess(b *testing.B) {
	dir := b.TempDir()
	agent := build(b, dir, "../cmd/tsunami-agent")
	plain := build(b, dir, "./testdata/floor")
	config := filepath.Join(dir, "agent.yaml")
	err := os.WriteFile(config, []byte(`
enact:
  docker_version: {exec: ["true"], observe: [echo, "1.10.3"]}
checks:
  docker: {exec: ["true"], every: 1s}
`), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	r, url := newProcessRig(b)
	var rss, anon, floor float64
	runs := 0
	for b.Loop() {
		host := fleet(runs + 1)[runs]
		runs++
		a := start(b, agent, "--server", url, "--host", string(host), "--role", "web", "--label", "zone=lon2-a",
			"--state", filepath.Join(dir, string(host)), "--config", config)
		f := start(b, plain, url)
		until(b, "the agent has reported", 20*time.Millisecond, func(ctx context.Context) bool {
			_, err := bus.Last(ctx, r.js, subjects.HostsStream, subjects.HostSubject(host))
			return err == nil
		})
		time.Sleep(idle)
		rss += status(b, a.Process.Pid, "VmRSS")
		anon += status(b, a.Process.Pid, "RssAnon")
		floor += status(b, f.Process.Pid, "VmRSS")
		stop(b, a)
		stop(b, f)
	}
	n := float64(runs)
	b.ReportMetric(rss/n, "rss-MiB")
	b.ReportMetric(anon/n, "anon-MiB")
	b.ReportMetric(floor/n, "floor-MiB")
	b.ReportMetric(rss/floor, "x-floor")
}

func build(b *testing.B, dir, pkg string) string {
	b.Helper()
	program := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return program
}

func start(b *testing.B, program string, args ...string) *exec.Cmd {
	b.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stderr = new(bytes.Buffer)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill() }) // a process that has ended can't be killed
	return cmd
}

func stop(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatalf("%s ended by itself: %v\n%s", cmd.Path, err, cmd.Stderr)
	}
	_ = cmd.Wait() // the floor dies of the signal, which is an error to Wait
}

// status reads a process's memory in MiB.
func status(b *testing.B, pid int, field string) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("/proc/%d/status has no %s", pid, field)
	return 0
}

// BenchmarkAgents runs so many agents in one process, against a broker in
// another, and gives what each adds when all have reported: live-KiB is what
// the collector can't free (heap and stacks), rss-KiB what the process grew
// by. The floor is a connection with a subscription each.
func BenchmarkAgents(b *testing.B) {
	for _, n := range []int{200, 5_000} {
		b.Run(fmt.Sprintf("agents=%d", n), func(b *testing.B) {
			var agents, floor memory
			runs := 0
			for b.Loop() {
				runs++
				r, url := newProcessRig(b)
				before := inUse(b)
				end := r.agents(b, url, n)
				agents.add(inUse(b).less(before))
				end()
				before = inUse(b)
				end = connections(b, url, n)
				floor.add(inUse(b).less(before))
				end()
			}
			each := float64(n * runs)
			b.ReportMetric(agents.live/each, "live-KiB")
			b.ReportMetric(agents.rss/each, "rss-KiB")
			b.ReportMetric(floor.live/each, "floor-live-KiB")
			b.ReportMetric(agents.live/floor.live, "x-floor")
			b.ReportMetric(agents.goroutines/each, "goroutines")
		})
	}
}

// memory is what this process takes, in KiB.
type memory struct{ live, rss, goroutines float64 }

func inUse(b *testing.B) memory {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{
		live: float64(m.HeapAlloc+m.StackInuse) / 1024, rss: status(b, os.Getpid(), "VmRSS") * 1024,
		goroutines: float64(runtime.NumGoroutine()),
	}
}

func (m memory) less(o memory) memory {
	return memory{m.live - o.live, m.rss - o.rss, m.goroutines - o.goroutines}
}

func (m *memory) add(o memory) {
	m.live += o.live
	m.rss += o.rss
	m.goroutines += o.goroutines
}

// agents starts n and returns when all have reported. What it returns stops
// them.
func (r *rig) agents(b *testing.B, url string, n int) (end func()) {
	b.Helper()
	dir := b.TempDir()
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	for _, h := range fleet(n) {
		o := hostagent.Options{
			Connect: bus.ConnectOptions{URL: url},
			Version: "1.0.0",
			Config: hostagent.Config{
				Host: h, Role: "web", Labels: map[rollout.Word]rollout.Word{"zone": "lon2-a"}, State: filepath.Join(dir, string(h)),
				Enact:  map[rollout.Name]hostagent.Enactor{variable: {Exec: []string{"enact"}, Observe: []string{"observe"}}},
				Checks: map[rollout.ID]hostagent.Check{"docker": {Exec: []string{"check"}}},
			},
			// Nothing is run: only what the agent itself takes is measured.
			Exec: func(context.Context, hostagent.Command) hostagent.Result { return hostagent.Result{Stdout: "1.10.3\n"} },
		}
		running.Go(func() {
			if err := hostagent.Run(ctx, o); err != nil {
				b.Errorf("agent %s: %v", h, err)
			}
		})
	}
	until(b, "every agent has reported", 100*time.Millisecond, func(ctx context.Context) bool {
		return r.last(ctx, subjects.HostsStream) >= uint64(n)
	})
	r.settle(b)
	return func() {
		cancel()
		running.Wait()
	}
}

// connections makes n, each with a subscription as an agent has it.
func connections(b *testing.B, url string, n int) (end func()) {
	b.Helper()
	all := make([]*nats.Conn, n)
	for i, h := range fleet(n) {
		var err error
		if all[i], err = nats.Connect(url); err != nil {
			b.Fatal(err)
		}
		if _, err = all[i].ChanSubscribe(subjects.KindDesired.Echo(string(h)), make(chan *nats.Msg, 64)); err != nil {
			b.Fatal(err)
		}
		if err = all[i].Flush(); err != nil {
			b.Fatal(err)
		}
	}
	return func() {
		for _, nc := range all {
			nc.Close()
		}
	}
}
