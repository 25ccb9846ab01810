// Tsunamictl is the operator's command: it applies documents, starts, watches
// and stops rollouts, and explains what every host was told and why.
//
// Its exit codes are 0 done, 1 failed, 2 wrong usage, 3 refused, 4 timed out
// waiting.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // calendars mean the same on a machine without time zone data

	"golang.org/x/term"
)

func main() { os.Exit(mainCode()) }

func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// run is the whole program, and returns its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	a := &app{in: in, out: out, errs: errs}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		a.terminal = int(f.Fd())
		a.isTerminal = true
	}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	a.close()
	if err == nil {
		err = a.misnamed
	}
	if err == nil {
		return exitDone
	}
	return a.report(cmd, err)
}
