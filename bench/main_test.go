package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
)

// brokerDir, in the environment, makes this program a broker instead of
// benchmarks.
const brokerDir = "TSUNAMI_BENCH_BROKER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(brokerDir); dir != "" {
		os.Exit(serve(dir))
	}
	os.Exit(m.Run())
}

// serve runs a broker until standard input ends, which it does with the
// process that holds the other end, however that dies.
func serve(dir string) int {
	br, err := broker.Start(broker.Options{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer br.Shutdown()
	fmt.Println(br.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it, it has ended
	return 0
}

// newProcessRig starts a broker in a process of its own, so that its memory
// isn't counted here, and connects to it over loopback.
func newProcessRig(b *testing.B) (r *rig, url string) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), brokerDir+"="+b.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := in.Close(); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Errorf("the broker's process: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatalf("the broker's process says nothing: %v", err)
	}
	url = strings.TrimSpace(line)
	r = new(rig)
	if r.nc, err = bus.Connect(bus.ConnectOptions{URL: url}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.nc.Close)
	if r.js, err = jetstream.New(r.nc); err != nil {
		b.Fatal(err)
	}
	if err := bus.Setup(b.Context(), r.js, 1); err != nil {
		b.Fatal(err)
	}
	return r, url
}
