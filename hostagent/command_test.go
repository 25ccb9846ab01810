package hostagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func sh(script string, args ...string) Command {
	return Command{Args: append([]string{"/bin/sh", "-c", script, "sh"}, args...)}
}

func TestExecute(t *testing.T) {
	ctx := t.Context()
	t.Run("output and environment", func(t *testing.T) {
		c := sh(`echo "$TSUNAMI_VALUE $1"; echo problem >&2`, "a;b $(c)")
		c.Env = []string{"TSUNAMI_VALUE=v w"}
		r := Execute(ctx, c)
		c.Answers = true
		if r := Execute(ctx, c); r.Err != nil || r.Stdout != "v w a;b $(c)\n" || !strings.Contains(r.Output, "problem\n") {
			t.Fatalf("%+v", r)
		}
		if r.Err != nil || r.Stdout != "" || r.Output != "v w a;b $(c)\nproblem\n" || !strings.Contains(r.Output, "problem\n") {
			t.Fatalf("%+v", r)
		}
	})
	t.Run("a talkative observer", func(t *testing.T) {
		c := sh(`i=0; while [ $i -lt 20 ]; do printf '%065536d' 0; i=$((i+1)); done`)
		c.Answers = true
		if r := Execute(ctx, c); r.Err != nil || len(r.Stdout) != maxOutput {
			t.Fatalf("%d bytes, %v", len(r.Stdout), r.Err)
		}
	})
	t.Run("exit status", func(t *testing.T) {
		r := Execute(ctx, sh("echo no space >&2; exit 3"))
		if r.Err == nil || r.failure(maxError) != "exit status 3: no space" {
			t.Fatalf("%q", r.failure(maxError))
		}
	})
	t.Run("missing", func(t *testing.T) {
		for _, p := range []string{"/nowhere/program", "no-such-program-anywhere"} {
			r := Execute(ctx, Command{Args: []string{p}})
			if r.Err == nil || !strings.Contains(r.Err.Error(), "the program "+p+" isn't there") {
				t.Errorf("%v", r.Err)
			}
		}
	})
	t.Run("not executable", func(t *testing.T) {
		p := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r := Execute(ctx, Command{Args: []string{p}})
		if r.Err == nil || !strings.Contains(r.Err.Error(), "can't be executed") {
			t.Fatalf("%v", r.Err)
		}
	})
	t.Run("megabytes", func(t *testing.T) {
		r := Execute(ctx, sh(`i=0; while [ $i -lt 200 ]; do printf '%065536d' 0; i=$((i+1)); done; echo the end; echo said >&2; exit 1`))
		if len(r.Stdout) > maxOutput || len(r.Output) > maxOutput || !strings.Contains(r.Output, "the end") {
			t.Fatalf("%d and %d bytes were kept", len(r.Stdout), len(r.Output))
		}
		if f := r.failure(maxError); len(f) > maxError || !strings.HasPrefix(f, "exit status 1: …") || !strings.HasSuffix(f, "the end\nsaid") {
			t.Fatalf("%d bytes: %q", len(f), f)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		pids := filepath.Join(t.TempDir(), "pids")
		ctx, cancel := context.WithTimeoutCause(ctx, 300*time.Millisecond, errors.New("too long"))
		defer cancel()
		start := time.Now()
		// The child ignores SIGTERM, and holds the output open.
		r := Execute(ctx, sh(`trap '' TERM; echo working; sleep 600 & echo $! $$ >"$1"; wait`, pids))
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("it took %s", took)
		}
		if r.Err == nil || !strings.Contains(r.Err.Error(), "killed: too long") || r.Output != "working\n" {
			t.Errorf("%+v", r)
		}
		b, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		for pid := range strings.FieldsSeq(string(b)) {
			var n int
			if _, err := fmt.Sscan(pid, &n); err != nil {
				t.Fatal(err)
			}
			// A killed orphan may be waiting for whoever reaps it.
			await(t, "the process group to be dead", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
				return syscall.Kill(n, 0) != nil || err != nil || strings.Contains(string(stat), ") Z ")
			})
		}
	})
	t.Run("background child", func(t *testing.T) {
		start := time.Now()
		r := Execute(ctx, sh(`sleep 8 & echo done`))
		if r.Err != nil || r.Output != "done\n" {
			t.Errorf("%+v", r)
		}
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("it waited %s for a child in the background", took)
		}
	})
	if r := Execute(ctx, Command{}); r.Err == nil {
		t.Error("no program is no error")
	}
}

// await waits until a condition holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestTail(t *testing.T) {
	var whole strings.Builder
	var kept tail
	for i := range 3000 {
		p := strings.Repeat(string(rune('a'+i%26)), i%37)
		whole.WriteString(p)
		kept.write([]byte(p))
	}
	all := whole.String()
	if got := string(kept.bytes()); got != all[len(all)-maxOutput:] {
		t.Errorf("kept %d bytes that aren't the last ones", len(got))
	}
	if cap(kept.buf) > 4*maxOutput {
		t.Errorf("%d bytes are held", cap(kept.buf))
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x00b\xff\n", 10)
	f.Add(strings.Repeat("東", 100), 50)
	f.Fuzz(func(t *testing.T, s string, most int) {
		if most < 10 || most > 1<<20 {
			return
		}
		p := printable(s, most)
		if len(p) > most || !utf8.ValidString(p) || strings.ContainsAny(p, "\x00\x1b\x7f") {
			t.Fatalf("%q at most %d became %q", s, most, p)
		}
	})
}
