package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) auditCommand() *cobra.Command {
	var host, id, since string
	var limit int
	cmd := &cobra.Command{
		Use: "audit", Short: "Every change that was made, with its reason",
		Long: `Every change that was made, oldest first: what each host was told, by which
rollout, who asked for it and why. It is read from the log itself, so it needs
no scheduler.`,
		Example: `  tsunamictl audit --host web1.lon2.example.net
  tsunamictl audit --rollout docker-1-12-3 --since 2h`,
		SuggestionsMinimumDistance: 2,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notEmpty(cmd, "host", "rollout", "since"); err != nil {
				return err
			}
			f, err := auditFilter(host, id, since, time.Now())
			if err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit: %d is below 0", limit)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if a.timeout != 0 {
				bounded, cancel := a.bounded(ctx)
				defer cancel()
				ctx = bounded
			}
			records := []control.AuditRecord{}
			for r, err := range c.Audit(ctx, f) {
				if err != nil {
					return err
				}
				if records = append(records, r); limit > 0 && len(records) >= 2*limit {
					records = append(records[:0], records[len(records)-limit:]...)
				}
			}
			if limit > 0 && len(records) > limit {
				records = records[len(records)-limit:]
			}
			if about := recordsOf(host, id, since); len(records) == 0 && about != "" {
				fmt.Fprintf(a.errs, "tsunamictl: no record of %s\n", about)
			}
			return a.emit(records, func() { a.auditTable(records) })
		},
	}
	cmd.AddCommand(a.verifyCommand())
	cmd.Flags().StringVar(&host, "host", "", "what this `host` was told")
	cmd.Flags().StringVar(&id, "rollout", "", "what this `rollout` told, and what was done with it")
	cmd.Flags().StringVar(&since, "since", "", "from this `time` on: 2h, 2026-12-01 or 2026-12-01T09:00:00+01:00")
	cmd.Flags().IntVar(&limit, "limit", 0, "the newest `N` of them (default all)")
	return cmd
}

// recordsOf says what was asked for; "" where that is everything.
func recordsOf(host, id, since string) string {
	var all []string
	if host != "" {
		all = append(all, "host "+host)
	}
	if id != "" {
		all = append(all, "rollout "+id)
	}
	s := strings.Join(all, " and ")
	if s != "" && since != "" {
		s += " since " + since
	}
	return s
}

func auditFilter(host, id, since string, now time.Time) (f control.AuditFilter, err error) {
	if host != "" {
		if f.Host, err = hostArg(host); err != nil {
			return f, err
		}
	}
	if id != "" {
		if f.Rollout, err = rolloutArg(id); err != nil {
			return f, err
		}
	}
	if since != "" {
		if f.Since, err = parsePast(since, now); err != nil {
			return f, usagef("--since: %v", err)
		}
	}
	return f, nil
}

func (a *app) auditTable(records []control.AuditRecord) {
	columns := []string{"SEQUENCE", "TIME", "KIND", "WHAT", "VARIABLE", "CHANGE", "ROLLOUT", "ACTOR"}
	if a.wide() {
		columns = append(columns, "ORIGIN", "GENERATION")
	}
	t := newTable(append(columns, "REASON")...).numbers("SEQUENCE", "ORIGIN", "GENERATION")
	for _, r := range records {
		row := []any{r.Sequence, local(r.Time), r.Kind, cmp.Or(string(r.Host), r.Name), r.Variable, change(r.Previous, r.Value), r.Rollout, r.Actor}
		if a.wide() {
			row = append(row, r.Origin, r.Generation)
		}
		t.row(append(row, r.Reason)...)
	}
	t.print(a.out)
}

// change shows what a value became: 1.10.3 → 1.12.3.
func change(before, after rollout.Value) string {
	if before.IsZero() {
		return valueText(after)
	}
	if after.IsZero() {
		return before.Text() + " → (removed)"
	}
	return before.Text() + " → " + after.Text()
}
