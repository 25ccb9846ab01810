package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
)

// The exit codes.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitRefused  = 3
	exitTimedOut = 4
)

// usageError is a command that was typed wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitError ends the program with a code of its own, and without an error in
// it with no word.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// report prints an error, and returns the exit code that it means.
func (a *app) report(cmd *cobra.Command, err error) int {
	if e, ok := errors.AsType[*exitError](err); ok && e.err == nil {
		return e.code
	}
	for line := range strings.Lines(plain(err)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, " ") { // more of the line before
			fmt.Fprintln(a.errs, line)
			continue
		}
		fmt.Fprintln(a.errs, "tsunamictl: "+line)
	}
	code := exitCode(err)
	if _, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(a.errs, "see '%s --help'\n", cmd.CommandPath())
	}
	return code
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*control.LocatedError](err); ok {
		return exitUsage
	}
	if e, ok := errors.AsType[*control.Error](err); ok {
		switch e.Code {
		case control.Usage:
			return exitUsage
		case control.Refused:
			return exitRefused
		}
		return exitFailed
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitTimedOut
	}
	return exitFailed
}

// plain is an error's text, fit for a terminal: it may hold anything that
// somebody wrote somewhere.
func plain(err error) string {
	if e, ok := errors.AsType[*control.Error](err); ok && len(e.Faults) > 0 {
		lines := make([]string, 0, len(e.Faults)+1)
		for _, f := range e.Faults {
			lines = append(lines, f.String())
		}
		if e.Message != "" {
			lines = append(lines, e.Message)
		}
		return printable(strings.Join(lines, "\n"), '\n')
	}
	words := err.Error()
	if e, ok := errors.AsType[*control.Error](err); ok && e.Code == control.Refused && !strings.Contains(words, "refused: ") {
		words = "refused: " + words
	}
	return printable(words, '\n')
}
