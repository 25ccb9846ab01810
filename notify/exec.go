package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	maxOutput = maxText - len("…") // of a program's output that is kept: its end
	// pipeGrace is how long what a program left behind may hold its output open.
	pipeGrace = time.Second
)

// runner runs a program, with what there is to say on its standard input and the
// event in its environment.
type runner struct {
	config  *Exec
	timeout time.Duration
}

// send runs the program once. One that failed may have done its work, so every
// failure is final.
func (r *runner) send(ctx context.Context, e Event, body []byte, _ time.Time) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("it ran for longer than %s", r.timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, r.config.Command[0], r.config.Command[1:]...)
	cmd.Env = append(os.Environ(), environment(e)...)
	cmd.Stdin = bytes.NewReader(body)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	// The whole group is killed: the program may be a script that waits for
	// another.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = pipeGrace
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil: // its children hold the output open
		return "exit code 0", nil
	case ctx.Err() != nil:
		err = fmt.Errorf("killed: %w", context.Cause(ctx))
	}
	if said := plain(out.end()); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return "", final("%s: %w", r.config.Command[0], err)
}

// environment names what a script most likely wants, so that it needs no JSON.
func environment(e Event) []string {
	env := []string{
		"TSUNAMI_EVENT=" + string(e.Kind), "TSUNAMI_EVENT_ID=" + e.ID, "TSUNAMI_TIME=" + e.Time.UTC().Format(time.RFC3339),
		"TSUNAMI_ROLLOUT=" + string(e.Rollout), "TSUNAMI_VARIABLE=" + string(e.Variable), "TSUNAMI_VALUE=" + e.To.Text(),
		"TSUNAMI_STATE=" + string(e.State), "TSUNAMI_WHAT=" + e.What, "TSUNAMI_WHY=" + e.Why, "TSUNAMI_ACTOR=" + e.Actor,
		"TSUNAMI_NEXT=" + e.Next,
	}
	if e.Sequence > 0 {
		env = append(env, "TSUNAMI_SEQUENCE="+strconv.FormatUint(e.Sequence, 10))
	}
	if e.Test {
		env = append(env, "TSUNAMI_TEST=1")
	}
	return env
}

// tail keeps the end of what is written to it. What a program leaves behind may
// still write when it is read.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-maxOutput):]...)
	if n := len(t.buf) - maxOutput; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) end() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
