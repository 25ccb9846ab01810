package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// Command is a program to run: an enactor, an observer or a check.
type Command struct {
	Args []string // the program and its arguments, as they are: no shell
	Env  []string // NAME=value, beside the agent's own environment
	// Answers says that the standard output is an observer's answer, which is
	// wanted by itself as Result.Stdout. Otherwise both outputs are one stream,
	// so that what was said last stands last.
	Answers bool
}

// Result is what came of running a Command.
type Result struct {
	// Stdout is the start of the standard output, at most 4 KiB, where
	// Command.Answers asks for it.
	Stdout string
	// Output is the end of standard output and standard error together, at
	// most 4 KiB.
	Output string
	// Err is nil if the program ran and exited with 0.
	Err error
}

const (
	maxOutput = 4 << 10
	maxError  = 1 << 10 // of Enact.Error and Check.Output in the report

	// pipeGrace is how long a program's background children may hold its
	// output open after it has ended.
	pipeGrace = 2 * time.Second
)

// Execute runs a command with os/exec and nothing on its standard input, in a
// process group of its own. When ctx ends the whole group is killed, and
// Result.Err wraps ctx's cause. Output of any size is read and dropped but for
// its start and end. What the program leaves running in the background is left
// alone, but no longer than two seconds waited for: it shouldn't keep the
// output open.
func Execute(ctx context.Context, c Command) Result {
	if len(c.Args) == 0 {
		return Result{Err: errors.New("no program")}
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = pipeGrace
	var out capture
	cmd.Stdout, cmd.Stderr = &out, &out
	if c.Answers {
		cmd.Stdout = out.stdout()
	}
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // it exited with 0; only its children still hold the pipe
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("killed: %w", context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("the program %s isn't there: %w", c.Args[0], err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("the program %s can't be executed: %w", c.Args[0], err)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	return Result{Stdout: string(out.head), Output: string(out.tail.bytes()), Err: err}
}

// capture keeps the start of one stream and the end of two.
type capture struct {
	mu   sync.Mutex
	head []byte
	tail tail
}

// Write takes what is wanted for its end alone.
func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail.write(p)
	return len(p), nil
}

func (c *capture) stdout() stdoutCapture { return stdoutCapture{c} }

type stdoutCapture struct{ c *capture }

func (s stdoutCapture) Write(p []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.head = append(s.c.head, p[:min(len(p), maxOutput-len(s.c.head))]...)
	s.c.tail.write(p)
	return len(p), nil
}

// tail keeps the last maxOutput bytes, in at most twice that.
type tail struct{ buf []byte }

func (t *tail) write(p []byte) {
	if len(p) >= maxOutput {
		t.buf = append(t.buf[:0], p[len(p)-maxOutput:]...)
		return
	}
	if len(t.buf)+len(p) > 2*maxOutput {
		keep := copy(t.buf, t.buf[len(t.buf)-maxOutput:])
		t.buf = t.buf[:keep]
	}
	t.buf = append(t.buf, p...)
}

func (t *tail) bytes() []byte { return t.buf[max(0, len(t.buf)-maxOutput):] }

// printable makes a program's output fit for a report: valid UTF-8 without
// control characters but line breaks and tabs, and at most the last most bytes.
func printable(s string, most int) string {
	clean := func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			return -1
		}
		return r
	}
	s = strings.TrimSpace(strings.Map(clean, strings.ToValidUTF8(s, "\uFFFD")))
	if len(s) <= most {
		return s
	}
	s = s[len(s)-most+len("…"):]
	for !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return "…" + s
}

// failure describes a command that failed, in at most most bytes: how, and the
// end of what it said.
func (r *Result) failure(most int) string {
	if r.Err == nil {
		return ""
	}
	how := printable(r.Err.Error(), most/2)
	said := printable(r.Output, most-len(how)-2)
	if said == "" {
		return how
	}
	return how + ": " + said
}
