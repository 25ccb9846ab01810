package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/common/version"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// The demo's fleet: roles and zones of a company that streams music.
var (
	demoRoles = []rollout.Word{
		"accesspoint", "playlist", "storage", "search", "metadata", "radio",
		"social", "lyrics", "payment", "email", "ads", "database",
	}
	demoZones = []struct {
		site string
		zone rollout.Word
	}{{"lon2", "lon2-a"}, {"sto3", "sto3-b"}, {"ash2", "ash2-c"}}
)

// software is what runs on the demo's hosts in some version: a variable moves it
// from one to another, and a check of the same name says how it does.
type software struct {
	name     rollout.ID
	variable rollout.Name
	from, to string
	// broken is what the check says of the version that it goes to; "": that all
	// is well.
	broken string
	// longest is how long its installation takes at the most.
	longest time.Duration
}

// rollout and objective are how the demo names those of the new version.
func (s *software) rollout() rollout.ID {
	return s.name + "-" + rollout.ID(strings.ReplaceAll(s.to, ".", "-"))
}
func (s *software) objective() rollout.ID { return s.name + "-healthy" }

// What the demo's hosts run. Nothing is wrong with the new docker; the new helios
// doesn't come up on any host.
var (
	docker = software{name: "docker", variable: "docker_version", from: "1.10.3", to: "1.12.3", longest: mostOver}
	helios = software{
		name: "helios", variable: "helios_version", from: "0.8.1", to: "0.9.1", longest: time.Second,
		broken: "localhost:5803: connection refused",
	}
	demoSoftware = []*software{&docker, &helios}
)

// demoHost is one host: its agent is the real one, its machine a directory.
type demoHost struct {
	name rollout.Host
	role rollout.Word
	zone rollout.Word
	dir  string
	// Enacting takes between least and most.
	least, most time.Duration
}

// demoHosts lays out n hosts over the roles, whose sizes follow Zipf's law,
// and evenly over the zones.
func demoHosts(n int, dir string, least, most time.Duration) []demoHost {
	hosts := make([]demoHost, 0, n)
	for i, size := range zipf(n, min(n, len(demoRoles))) {
		role := demoRoles[i]
		for k := range size {
			z := demoZones[(k+i)%len(demoZones)]
			name := rollout.Host(fmt.Sprintf("%s%d.%s.example.net", role, k/len(demoZones)+1, z.site))
			hosts = append(hosts, demoHost{name, role, z.zone, filepath.Join(dir, string(name)), least, most})
		}
	}
	return hosts
}

// zipf splits n into parts whose sizes fall as 1/rank, each at least one.
func zipf(n, parts int) []int {
	sum := 0.0
	for k := range parts {
		sum += 1 / float64(k+1)
	}
	sizes := make([]int, parts)
	left := n
	for k := range slices.Backward(sizes) {
		sizes[k] = max(1, int(float64(n)/float64(k+1)/sum))
		left -= sizes[k]
	}
	for k := 0; left != 0; k = (k + 1) % parts { // what rounding has left over, or taken too much
		d := cmp.Compare(left, 0)
		if sizes[k]+d >= 1 {
			sizes[k] += d
			left -= d
		}
	}
	return sizes
}

// machine is the file that says which version of a software the host runs.
func (h *demoHost) machine(name string) string { return filepath.Join(h.dir, "machine", name) }

// provide makes the machine, with what the fleet runs in the beginning.
func (h *demoHost) provide() error {
	err := os.MkdirAll(filepath.Join(h.dir, "machine"), 0o700)
	for _, s := range demoSoftware {
		err = errors.Join(err, h.install(string(s.name), s.from))
	}
	return err
}

// install puts a version on the machine.
func (h *demoHost) install(name, version string) error {
	beside := h.machine(name) + ".new"
	if err := os.WriteFile(beside, []byte(version+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(beside, h.machine(name))
}

// exec stands in for the programs that a real host's agent runs: hundreds of
// agents in one process would otherwise start thousands of them. The first
// argument is the program, the second the software that it is about.
func (h *demoHost) exec(ctx context.Context, c hostagent.Command) hostagent.Result {
	i := -1
	if len(c.Args) > 1 {
		i = slices.IndexFunc(demoSoftware, func(s *software) bool { return string(s.name) == c.Args[1] })
	}
	if i < 0 {
		return hostagent.Result{Err: fmt.Errorf("the demo has no software %q: %w", c.Args[1:], fs.ErrNotExist)}
	}
	s, name := demoSoftware[i], c.Args[1]
	switch c.Args[0] {
	case "install":
		select {
		case <-time.After(min(h.least+rand.N(h.most-h.least+1), s.longest)):
		case <-ctx.Done():
			return hostagent.Result{Err: context.Cause(ctx)}
		}
		return hostagent.Result{Err: h.install(name, c.Args[2])}
	case "installed":
		b, err := os.ReadFile(h.machine(name))
		return hostagent.Result{Stdout: string(b), Err: err}
	case "healthy":
		b, err := os.ReadFile(h.machine(name))
		if err == nil && s.broken != "" && strings.TrimSpace(string(b)) == s.to {
			return hostagent.Result{Err: errors.New(s.broken)}
		}
		return hostagent.Result{Err: err}
	}
	return hostagent.Result{Err: fmt.Errorf("the demo has no program %s: %w", c.Args[0], fs.ErrNotExist)}
}

// options are those of the host's agent.
func (h *demoHost) options(broker nats.InProcessConnProvider, logger *slog.Logger) hostagent.Options {
	enact := make(map[rollout.Name]hostagent.Enactor)
	checks := make(map[rollout.ID]hostagent.Check)
	for _, s := range demoSoftware {
		name := string(s.name)
		enact[s.variable] = hostagent.Enactor{
			Exec: []string{"install", name}, Observe: []string{"installed", name}, Timeout: rollout.Duration(10 * time.Minute),
		}
		checks[s.name] = hostagent.Check{Exec: []string{"healthy", name}, Every: rollout.Duration(2 * time.Second)}
	}
	return hostagent.Options{
		Connect: bus.ConnectOptions{InProcess: broker},
		Config: hostagent.Config{
			Host: h.name, Role: h.role, Labels: map[rollout.Word]rollout.Word{"zone": h.zone},
			State: filepath.Join(h.dir, "state"), Enact: enact, Checks: checks,
		},
		Version: version.Version, Logger: logger, Exec: h.exec,
		Heartbeat: demoHeartbeat, Observe: 10 * time.Second, Grace: 100 * time.Millisecond,
	}
}

// demoHeartbeat is short, so that a host that the demo starts counts at once.
const demoHeartbeat = 2 * time.Second

// fleet is the running agents.
type fleet struct {
	hosts  []demoHost
	cancel context.CancelFunc
	agents sync.WaitGroup
	failed chan error // holds the first failure
}

// startFleet starts an agent for each host. Only the end of stop stops them.
func startFleet(ctx context.Context, hosts []demoHost, broker nats.InProcessConnProvider, logger *slog.Logger) (*fleet, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &fleet{hosts: hosts, cancel: cancel, failed: make(chan error, 1)}
	for i := range hosts {
		h := &hosts[i]
		if err := h.provide(); err != nil {
			f.stop()
			return nil, fmt.Errorf("making host %s: %w", h.name, err)
		}
		f.agents.Go(func() {
			err := hostagent.Run(ctx, h.options(broker, logger))
			if err == nil && ctx.Err() == nil {
				err = errors.New("it ended by itself")
			}
			if err != nil {
				select {
				case f.failed <- fmt.Errorf("the agent of %s: %w", h.name, err):
				default:
				}
			}
		})
	}
	return f, nil
}

// stop stops all agents and waits for them.
func (f *fleet) stop() {
	f.cancel()
	f.agents.Wait()
}

// describe says what the fleet is.
func (f *fleet) describe() string {
	roles, zones := map[rollout.Word]bool{}, map[rollout.Word]bool{}
	for _, h := range f.hosts {
		roles[h.role], zones[h.zone] = true, true
	}
	return strings.Join([]string{plural(len(f.hosts), "host"), plural(len(roles), "role"), plural(len(zones), "zone")}, ", ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
