package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

const (
	// completionTime is how long a shell waits for completions at most.
	completionTime = time.Second
	// mostCompleted is how many hosts are offered at most.
	mostCompleted = 300
)

// place is where the shell's cursor is.
type place struct {
	cmd   *cobra.Command
	words []string // the arguments before it
	begun string   // of the word that it is in
}

// completer offers what may stand at a place. Its error is no news: a shell has
// nowhere to show it.
type completer func(*app, context.Context, place) ([]cobra.Completion, error)

// completions makes every command complete its flags by their names, and its
// arguments by the names that its usage line gives them. A command that has a
// completion of its own keeps it, and what isn't known here completes nothing.
func (a *app) completions(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	arguments := map[string]completer{
		"HOST": (*app).completeHosts, "ROLLOUT": (*app).completeRollouts, "VARIABLE": (*app).completeVariables,
		"VALUE": (*app).completeValues, "NAME": (*app).completeNames,
	}
	flags := map[string]completer{
		"output": completeWords(outputs...), "context": completeContexts,
		"host": (*app).completeHosts, "rollout": (*app).completeRollouts, "after": (*app).completeRollouts, "supersede": (*app).completeRollouts,
		"shape":  completeWords(string(rollout.Linear), string(rollout.Exponential), string(rollout.Waves), string(rollout.Points)),
		"preset": completeWords("rapid", "common", "risky"), "until": completeUntil, "role": (*app).completeRoles,
		"objective": (*app).completeObjectives, "on-breach": completeWords(string(rollout.BreachFreezes), string(rollout.BreachRollsBack)),
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for name, c := range flags {
			// An error says that there is no such flag, or that the command
			// completes it itself.
			_ = cmd.RegisterFlagCompletionFunc(name, a.complete(c))
		}
		for _, name := range []string{"file", "creds"} {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
		}
		if names := argumentNames(cmd); len(names) > 0 && cmd.ValidArgsFunction == nil {
			kinds := completeWords(cmd.ValidArgs...)
			cmd.ValidArgs = nil // which would end completion at the first argument
			cmd.ValidArgsFunction = a.complete(func(a *app, ctx context.Context, p place) ([]cobra.Completion, error) {
				if len(p.words) >= len(names) {
					return nil, nil
				}
				name := names[len(p.words)]
				if name == "KIND" {
					return kinds(a, ctx, p)
				}
				if c := arguments[name]; c != nil {
					return c(a, ctx, p)
				}
				return nil, nil
			})
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// argumentNames are those of the usage line: of "get KIND [NAME]", KIND and
// NAME.
func argumentNames(cmd *cobra.Command) []string {
	var names []string
	for _, w := range strings.Fields(cmd.Use)[1:] {
		w = strings.Trim(w, "[]()")
		if w == "|" || strings.HasPrefix(w, "-") {
			break
		}
		names = append(names, w)
	}
	return names
}

// argument is the word that stands where the usage line has the name.
func (p place) argument(name string) string {
	if i := slices.Index(argumentNames(p.cmd), name); i >= 0 && i < len(p.words) {
		return p.words[i]
	}
	return ""
}

// complete makes a completer one of cobra's: bounded, silent, and of what begins
// with what is there.
func (a *app) complete(c completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, words []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		found := make(chan []cobra.Completion, 1)
		own := *a // it may go on when nobody waits for it any more: connecting takes no context
		go func() {
			defer own.close()
			all, err := c(&own, ctx, place{cmd, words, begun})
			if err != nil {
				all = nil
			}
			found <- all
		}()
		var fit []cobra.Completion
		select {
		case all := <-found:
			for _, s := range all {
				if strings.HasPrefix(s, begun) {
					fit = append(fit, s)
				}
			}
		case <-ctx.Done():
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes the first argument only.
func first(c completer) completer {
	return func(a *app, ctx context.Context, p place) ([]cobra.Completion, error) {
		if len(p.words) > 0 {
			return nil, nil
		}
		return c(a, ctx, p)
	}
}

func completeWords(words ...string) completer {
	return func(*app, context.Context, place) ([]cobra.Completion, error) { return words, nil }
}

func completeContexts(*app, context.Context, place) ([]cobra.Completion, error) {
	dir, err := contextDir()
	return contextNames(dir), err
}

// completeUntil offers the states that a watch may wait for. Other commands'
// --until is a time.
func completeUntil(_ *app, _ context.Context, p place) (all []cobra.Completion, err error) {
	if p.cmd.Name() == "watch" {
		for _, s := range states {
			all = append(all, string(s))
		}
	}
	return all, nil
}

// described adds to a word what a shell shows beside it.
func described(word, format string, args ...any) cobra.Completion {
	return cobra.CompletionWithDesc(word, printable(fmt.Sprintf(format, args...)))
}

// steering are the commands that have nothing to do with a rollout that has
// ended.
var steering = []string{"pause", "resume", "approve", "advance", "release", "abort", "cancel", "supersede"}

func (a *app) completeRollouts(ctx context.Context, p place) ([]cobra.Completion, error) {
	var views []control.RolloutView
	if err := a.call(ctx, control.RolloutList, nil, &views); err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for i := range views {
		if v := &views[i]; v.State.Live() || !slices.Contains(steering, p.cmd.Name()) {
			all = append(all, described(string(v.ID), "%s: %s to %s", v.State, v.Variable, destination(v)))
		}
	}
	return all, nil
}

// completeHosts asks only for hosts that come after what is begun, in the order
// of names: a fleet is too large to be listed.
func (a *app) completeHosts(ctx context.Context, p place) ([]cobra.Completion, error) {
	after := strings.TrimRight(p.begun, "-")
	if name, ok := strings.CutSuffix(after, "."); ok { // as no host's name ends
		after = name + "-z" // those that go on with "-" come before
	}
	if _, err := rollout.ParseHost(after); err != nil && p.begun != "" {
		return nil, err // nothing begins so
	}
	req := control.HostListRequest{After: rollout.Host(after), Limit: mostCompleted}
	var all []cobra.Completion
	for {
		var page control.HostListResponse
		if err := a.call(ctx, control.HostList, req, &page); err != nil {
			return nil, err
		}
		for i := range page.Hosts {
			name := string(page.Hosts[i].Host)
			switch {
			case strings.HasPrefix(name, p.begun):
				all = append(all, described(name, "%s", page.Hosts[i].Role))
			case name > p.begun:
				return all, nil
			}
			if len(all) == mostCompleted {
				return all, nil
			}
		}
		if !page.More || len(page.Hosts) == 0 {
			return all, nil
		}
		req.After = page.Hosts[len(page.Hosts)-1].Host
	}
}

// completeRoles asks for a host of yet another role until there is none.
func (a *app) completeRoles(ctx context.Context, _ place) (all []cobra.Completion, err error) {
	var others []string
	for {
		var page control.HostListResponse
		req := control.HostListRequest{Where: strings.Join(others, " && "), Limit: 1}
		if err := a.call(ctx, control.HostList, req, &page); err != nil || len(page.Hosts) == 0 {
			return all, err
		}
		role := string(page.Hosts[0].Role)
		all, others = append(all, role), append(others, fmt.Sprintf("role != %q", role))
	}
}

func (a *app) completeVariables(ctx context.Context, _ place) ([]cobra.Completion, error) {
	views, err := a.variables(ctx)
	all := make([]cobra.Completion, len(views))
	for i, v := range views {
		all[i] = described(string(v.Name), "%s, now %s", v.Type, v.Value)
		if v.Value.IsZero() {
			all[i] = described(string(v.Name), "%s", v.Type)
		}
	}
	return all, err
}

// completeValues offers what the variable before it allows.
func (a *app) completeValues(ctx context.Context, p place) ([]cobra.Completion, error) {
	views, err := a.variables(ctx)
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, v := range views {
		if string(v.Name) != p.argument("VARIABLE") {
			continue
		}
		for _, w := range v.Allowed {
			all = append(all, w.Text())
		}
		if v.Type == rollout.Boolean && len(v.Allowed) == 0 {
			all = append(all, "true", "false")
		}
	}
	return all, nil
}

// completeNames offers the documents of the kind before it.
func (a *app) completeNames(ctx context.Context, p place) ([]cobra.Completion, error) {
	switch kind := strings.TrimSuffix(strings.ToLower(p.argument("KIND")), "s"); kind {
	case "rollout":
		return a.completeRollouts(ctx, p)
	case "variable":
		return a.completeVariables(ctx, p)
	case "objective":
		return a.completeObjectives(ctx, p)
	default:
		c, err := a.connect()
		if err != nil {
			return nil, err
		}
		return existing(ctx, c, kind)
	}
}
