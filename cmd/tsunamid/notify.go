package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/notify"
)

// startNotify tells people what happens to rollouts. It reads what the console
// may read, so it has the console's identity.
func (d *daemon) startNotify(ctx context.Context) error {
	nc, _, err := d.connectAs(partNotify, access.PartConsole)
	if err != nil {
		return err
	}
	registerConnection(d.registry, partNotify, nc)
	o := notify.Options{
		Conn: nc, Config: d.config.notify, Dir: d.config.data,
		Logger: d.logger.With("part", partNotify), Registerer: d.registry,
	}
	d.goPart(ctx, partNotify, d.withStreams(func(ctx context.Context) error { return notify.Run(ctx, o) }))
	return nil
}

// notifyCommand tries the receivers of a file.
func notifyCommand() *cobra.Command {
	var file, event string
	cmd := &cobra.Command{
		Use:   "notify --notify FILE",
		Short: "Try the receivers of notifications",
		Long: `Notify sends an example event to every receiver that a file names, whatever events
that one asks for, once each, and says what came of it. The event says that it is a
test, and that nothing happened. It needs no broker.

Exit code 1 says that a receiver didn't take it.`,
		Example: `  tsunamid notify --notify /etc/tsunami/notify.yaml --event aborted`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("--notify is missing: want the file that names the receivers")
			}
			c, err := notify.Load(file)
			if err != nil {
				return usagef("--notify: %w", err)
			}
			trials, err := notify.Try(cmd.Context(), c, notify.Kind(event))
			if err != nil {
				return usagef("--event: %w", err)
			}
			var lacking []string
			for _, t := range trials {
				said := t.Answer
				if t.Err != nil {
					said = "failed: " + t.Err.Error()
					lacking = append(lacking, string(t.Receiver))
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s (%s)\n", t.Receiver, said, t.Took.Round(time.Millisecond)); err != nil {
					return err
				}
			}
			if len(lacking) > 0 {
				return fmt.Errorf("receivers that didn't take it: %s", strings.Join(lacking, ", "))
			}
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&file, "notify", "", "the `FILE` that names the receivers")
	cmd.Flags().StringVar(&event, "event", string(notify.Aborted), "the `EVENT` to send an example of")
	return cmd
}
