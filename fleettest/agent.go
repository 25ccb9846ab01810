package fleettest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// real is a host with the real agent. Only the machine under it is pretended:
// its programs are functions.
type real struct {
	options Options
	config  hostagent.Config
	link    *link
	fail    func(error)
	stop    func() // nil: it is off
	runs    int    // how often an enactor has run

	mu      sync.Mutex // of what the pretended programs touch
	machine map[rollout.Name]string
	hung    chan struct{} // closed when enactors go on; nil: they aren't hung
}

// newReal makes a host whose machine has what actual says, and switches it on.
func newReal(o Options, l *link, dir string, name rollout.Host, role rollout.Word, labels map[rollout.Word]rollout.Word, actual rollout.Document, fail func(error)) *real {
	r := &real{options: o, link: l, fail: fail, machine: make(map[rollout.Name]string)}
	r.config = hostagent.Config{
		Host: name, Role: role, Labels: labels, State: filepath.Join(dir, string(name)),
		Enact: make(map[rollout.Name]hostagent.Enactor),
	}
	for variable, v := range actual {
		r.machine[variable] = v.Text()
		r.config.Enact[variable] = hostagent.Enactor{
			Exec: []string{"enact", string(variable)}, Observe: []string{"observe", string(variable)},
			Timeout: rollout.Duration(24 * time.Hour),
		}
	}
	r.on()
	return r
}

func (r *real) on() {
	if r.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	o := hostagent.Options{
		Connect: bus.ConnectOptions{InProcess: r.link, PingInterval: seldom},
		Config:  r.config, Version: "1.0.0", Exec: r.exec,
		Heartbeat: r.options.Heartbeat, Reread: r.options.Reread, Observe: r.options.Reread, Republish: r.options.Republish,
		Grace: time.Second,
	}
	go func() { done <- hostagent.Run(ctx, o) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.fail(fmt.Errorf("agent of %s: %w", r.config.Host, err))
		}
		r.stop = nil
	}
}

// off takes the machine away: nothing that it says any more arrives.
func (r *real) off() {
	if r.stop == nil {
		return
	}
	r.link.setCut(true)
	r.stop()
	r.link.setCut(false)
}

// exec pretends to run an enactor or an observer.
func (r *real) exec(ctx context.Context, c hostagent.Command) hostagent.Result {
	if len(c.Args) < 2 {
		return hostagent.Result{Err: errors.New("the program isn't there")}
	}
	variable := rollout.Name(c.Args[1])
	if c.Args[0] == "observe" {
		r.mu.Lock()
		defer r.mu.Unlock()
		return hostagent.Result{Stdout: r.machine[variable] + "\n"}
	}
	r.mu.Lock()
	hung := r.hung
	r.runs++
	r.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
		}
	}
	select {
	case <-time.After(r.options.Confirm):
	case <-ctx.Done():
		return hostagent.Result{Err: context.Cause(ctx)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.machine[variable] = c.Args[len(c.Args)-1]
	return hostagent.Result{}
}

func (r *real) setHung(hung bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case hung && r.hung == nil:
		r.hung = make(chan struct{})
	case !hung && r.hung != nil:
		close(r.hung)
		r.hung = nil
	}
}

func (r *real) actual() map[rollout.Name]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.machine)
}
