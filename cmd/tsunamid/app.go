package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a fault in how the program was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// run is the whole program: it returns the exit code when everything that it
// started has stopped. The end of ctx asks it to stop.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	_, _ = fmt.Fprintf(stderr, "tsunamid: %v\n", err) // there is nowhere else to say it
	if _, ok := errors.AsType[*usageError](err); ok {
		_, _ = fmt.Fprintln(stderr, `Try "tsunamid --help".`)
		return exitUsage
	}
	return exitFailed
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "tsunamid",
		Short: "Tsunami's server: broker, scheduler, guard and console",
		Long: `Tsunamid makes unattended, gradual changes to a fleet.

By itself it runs everything in one process: a broker that agents and tsunamictl
connect to, the scheduler, the guard that freezes a rollout which does harm
(sloguard), and the console over HTTP. --run picks parts of it, and --nats uses an
existing NATS cluster instead of the embedded broker. With --notify it also tells people
and programs what happens to rollouts.

Without identities it listens on loopback only. With --access nobody gets in without
one; with --tls-cert besides, it may listen on the network.

SIGTERM and SIGINT stop it in order, within 10 seconds; a second one at once.`,
		Example: `  tsunamid --data /var/lib/tsunamid
  tsunamid --access /etc/tsunami/access --tls-cert cert.pem --tls-key key.pem --listen :4222 --http :8422
  tsunamid --nats tls://n1:4222,tls://n2:4222 --access /etc/tsunami/access --ca ca.pem --replicas 3
  tsunamid demo`,
		Args:          noArgs,
		Version:       cmp.Or(version.Version, "0.0.0"), // cobra makes --version only where there is one
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.config(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			c.logger = promslog.New(&promslog.Config{Level: f.logLevel, Format: f.logFormat, Writer: cmd.ErrOrStderr()})
			return serve(cmd.Context(), c)
		},
	}
	cmd.SetVersionTemplate(version.Print("tsunamid") + "\n")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	cmd.CompletionOptions.HiddenDefaultCmd = true
	f.define(cmd)
	cmd.AddCommand(demoCommand(), notifyCommand())
	return cmd
}

// noArgs refuses arguments; for one that is nearly a subcommand it says which.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			names = append(names, c.Name())
		}
	}
	if len(names) == 0 {
		return usagef("%q: %s takes no arguments, only flags", args[0], cmd.CommandPath())
	}
	return usagef("%q isn't a command: want %s, or flags alone", args[0], strings.Join(names, ", "))
}

// serve runs the parts until ctx ends or one of them fails.
func serve(ctx context.Context, c config) error {
	d, err := start(ctx, c)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		c.logger.Info("stopping")
	case err = <-d.failed:
		c.logger.Error("stopping, a part failed", "err", err)
	}
	return errors.Join(err, d.stop())
}
