package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) pinCommand() *cobra.Command {
	var why, until string
	cmd := &cobra.Command{
		Use: "pin HOST VARIABLE [VALUE] --why WHY", Short: "Hold a variable of a host at a value", SuggestFor: []string{"hold", "lock", "set"},
		Long: `Hold a variable of a host at a value, beside what is pinned there already; without
VALUE at what the host was last told. The host is told at once, and while the pin
is there no rollout tells it this variable. Afterwards the newest rollout that
selects the host does.`,
		Example: `  tsunamictl host pin web1.lon2.example.net docker_version 1.10.3 --until 2w --why "under repair, ticket 812"
  tsunamictl host pin web1.lon2.example.net docker_version --why "its user debugs"`,
		Args: arguments("HOST VARIABLE [VALUE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := pinRequest(args, why)
			if err != nil {
				return err
			}
			if len(args) > 2 {
				req.ValueText = args[2]
			}
			if until != "" {
				if req.Until, err = parseTime(until, time.Now(), 1); err != nil {
					return usagef("--until: %v", err)
				}
			}
			var v control.HostView
			if err := a.call(cmd.Context(), control.HostPin, req, &v); err != nil {
				return err
			}
			return a.emit(v, func() { a.pinned(&v, req.Variable, time.Now()) })
		},
	}
	cmd.Flags().StringVar(&until, "until", "", "when it ends: a `time` such as 2026-12-24T00:00:00Z, or in how long, such as 2w (default: when it is unpinned)")
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

func (a *app) unpinCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "unpin HOST [VARIABLE] --why WHY", Short: "End a host's pin", SuggestFor: []string{"unlock", "unhold"},
		Long: `End a host's pin of one variable, or without VARIABLE all its pins. The newest
rollout that selects the host tells it then; where there is none it keeps the
value that was pinned.`,
		Example: `  tsunamictl host unpin web1.lon2.example.net docker_version --why "repaired"`,
		Args:    arguments("HOST [VARIABLE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := pinRequest(args, why)
			if err != nil {
				return err
			}
			var v control.HostView
			if err := a.call(cmd.Context(), control.HostUnpin, req, &v); err != nil {
				return err
			}
			return a.emit(v, func() {
				if req.Variable == "" {
					a.say("%s: nothing is pinned any more", req.Host)
				} else {
					a.say("%s: %s is no longer pinned", req.Host, req.Variable)
				}
				known := false
				for _, p := range v.Problems {
					if next, ok := strings.CutPrefix(p, "no longer pinned: "); ok {
						a.say("  %s", printable(next))
						known = true
					}
				}
				if !known {
					a.say("  the newest rollout that selects it tells it, else it keeps what it has")
				}
				if v.Pin != nil && len(v.Pin.Values) > 0 {
					a.say("  still pinned: %s", printable(pinText(v.Pin, time.Now())))
				}
				if req.Variable != "" {
					a.say("  what comes next: tsunamictl why %s %s", req.Host, req.Variable)
				}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

// pinRequest reads HOST and VARIABLE, and insists on --why.
func pinRequest(args []string, why string) (req control.PinRequest, err error) {
	if req.Host, err = hostArg(args[0]); err != nil {
		return req, err
	}
	if len(args) > 1 {
		if req.Variable, err = rollout.ParseName(args[1]); err != nil {
			return req, &usageError{err}
		}
	}
	if req.Why = why; why == "" {
		return req, usagef("--why is missing: %s", whyHelp)
	}
	return req, nil
}

func (a *app) pinned(v *control.HostView, name rollout.Name, now time.Time) {
	if v.Pin == nil {
		a.say("%s isn't pinned", v.Host)
		return
	}
	a.say("%s is pinned: %s", v.Host, printable(pinText(v.Pin, now)))
	when, until := "it is told at once", "then"
	for _, p := range v.Problems {
		if strings.HasPrefix(p, "everything is stopped") {
			when = p
		}
	}
	if v.Pin.Until.IsZero() {
		until = "it is unpinned"
	}
	a.say("  %s, and no rollout tells it %s until %s", printable(when), name, until)
	if v.Pin.Until.IsZero() {
		a.say("  nothing ends it but: tsunamictl host unpin %s %s --why …", v.Host, name)
	} else {
		a.say("  end it before: tsunamictl host unpin %s %s --why …", v.Host, name)
	}
}

// pinText says what is pinned, until when, by whom and why.
func pinText(p *rollout.Pin, now time.Time) string {
	s := pairs(p.Values)
	if !p.Until.IsZero() {
		s += " until " + moment(p.Until, now)
	}
	if p.By != "" {
		s += fmt.Sprintf(", by %s", p.By)
	}
	return s + because(p.Why)
}
