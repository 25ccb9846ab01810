package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
)

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Make documents true",
		Long: `Make documents true: variables, objectives, blackouts and pins are created or
changed, rollouts are started, or changed while they run: hosts that were told stay told.

All documents are checked before the first is written; a fault in one refuses
all. FILE is YAML or JSON with any number of documents, a directory (its *.yaml,
*.yml and *.json, by name), or - for the standard input. Applying the same
documents again changes nothing. What would change, field by field, is shown by
--dry-run and by 'tsunamictl diff'.

The exit code is 2 if a document is wrong, 3 if it is right but refused as things
stand.`,
		Example: `  tsunamictl apply -f docker.yaml --dry-run
  tsunamictl apply -f fleet/
  git show HEAD:docker.yaml | tsunamictl apply -f -`,
		Args: arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, resp, err := a.apply(cmd.Context(), files, dry)
			if err != nil {
				return locate(docs, err)
			}
			return a.emit(resp, func() { a.applied(resp, time.Now()) })
		},
	}
	fileFlag(cmd, &files)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check, and show what would be written")
	return cmd
}

func fileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "`FILE`, directory or - to read; may be given several times")
}

func (a *app) diffCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "diff -f FILE", Short: "Show what applying documents would change",
		Long: `Show what applying documents would write, field by field: + is added, - taken
away, ~ changed; and for rollouts how the plan changes. Nothing is written. FILE is
what 'tsunamictl apply' takes.

The exit code is 0 if nothing differs and 1 if something does, as that of diff(1);
2 if a document is wrong or it couldn't be found out, 3 if applying would be
refused, 4 if nobody answered in time.`,
		Example: `  tsunamictl diff -f docker.yaml
  tsunamictl diff -f fleet/ || tsunamictl apply -f fleet/`,
		Args: arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, resp, err := a.apply(cmd.Context(), files, true)
			if err != nil {
				if err = locate(docs, err); exitCode(err) == exitFailed {
					err = &exitError{exitUsage, err}
				}
				return err
			}
			differs := false
			for _, r := range resp.Results {
				differs = differs || r.Action != unchanged
			}
			if err := a.emit(resp, func() { a.differences(resp, time.Now()) }); err != nil {
				return err
			}
			if differs {
				return &exitError{exitFailed, nil}
			}
			return nil
		},
	}
	fileFlag(cmd, &files)
	return cmd
}

const unchanged = "unchanged"

// apply reads documents and applies them. The documents come back for locating
// a fault.
func (a *app) apply(ctx context.Context, files []string, dry bool) ([]control.Located, *control.ApplyResponse, error) {
	docs, err := a.read(files)
	if err != nil {
		return nil, nil, err
	}
	req := control.ApplyRequest{DryRun: dry}
	for _, d := range docs {
		req.Documents = append(req.Documents, d.Document)
	}
	resp := new(control.ApplyResponse)
	return docs, resp, a.call(ctx, control.Apply, req, resp)
}

// applied tells what applying did, or would do.
func (a *app) applied(resp *control.ApplyResponse, now time.Time) {
	for i := range resp.Results {
		r := &resp.Results[i]
		action := r.Action
		if resp.DryRun && action != unchanged {
			action = "would be " + action
		}
		a.say("%s", printable(fmt.Sprintf("%s %s %s%s", r.Kind, r.Name, action, because(r.Note))))
		if resp.DryRun || r.Action == "changed" {
			a.changes(r, now)
		}
		if r.Kind == control.KindRollout && r.Action == "created" && !resp.DryRun {
			a.say("  watch it: tsunamictl rollout watch %s", r.Name)
			a.say("  stop it at once: tsunamictl rollout abort %s --why …", r.Name)
		}
	}
	if resp.DryRun {
		a.say("nothing was written (--dry-run)")
	}
}

// differences tells what differs, and nothing where nothing does.
func (a *app) differences(resp *control.ApplyResponse, now time.Time) {
	for i := range resp.Results {
		if r := &resp.Results[i]; r.Action != unchanged {
			a.say("%s", printable(fmt.Sprintf("%s %s would be %s%s", r.Kind, r.Name, r.Action, because(r.Note))))
			a.changes(r, now)
		}
	}
}

// changes tells which fields of one document differ, and how a rollout's plan
// does.
func (a *app) changes(r *control.ApplyResult, now time.Time) {
	for _, c := range r.Changes {
		from, to := jsonText(c.From), jsonText(c.To)
		switch {
		case len(c.From) == 0:
			a.say("  %s", a.color(green, "+ "+printable(c.Field+": "+to)))
		case len(c.To) == 0:
			a.say("  %s", a.color(red, "- "+printable(c.Field+": "+from)))
		default:
			a.say("  %s", a.color(yellow, "~ "+printable(c.Field+": "+from+" → "+to)))
		}
	}
	if r.Plan != nil {
		a.say("  plan: %s", planChangeText(r.Plan, now))
	}
}

// planChangeText says how a plan changes, or what it is where there was none.
func planChangeText(p *control.PlanChange, now time.Time) string {
	s := "no end can be foreseen"
	switch {
	case p.Ends.IsZero():
	case p.EndsBefore.IsZero() || p.EndsBefore.Equal(p.Ends):
		s = "ends " + moment(p.Ends, now)
	default:
		s = fmt.Sprintf("ends %s → %s", local(p.EndsBefore), moment(p.Ends, now))
	}
	if p.TargetBefore != 0 && p.TargetBefore != p.Target {
		s += fmt.Sprintf(", target %d → %s", p.TargetBefore, plural(p.Target, "host"))
	} else {
		s += ", target " + plural(p.Target, "host")
	}
	if p.Told > 0 {
		s += fmt.Sprintf(", %d told stay told", p.Told)
	}
	return s
}

// jsonText is a JSON value on one line, as it stands.
func jsonText(b json.RawMessage) string {
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return string(b)
	}
	return compact.String()
}
