package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// accessApp is a run of 'tsunamictl access'. It works on files: it needs no
// broker, but to push.
type accessApp struct {
	*app
	dir string // of identities
}

func (a *app) accessCommand() *cobra.Command {
	x := &accessApp{app: a}
	cmd := group(&cobra.Command{
		Use: "access", Short: "Identities of hosts, operators and parts",
		Long: `Identities of hosts, operators and parts: who may do what.

They are kept in a directory (--dir). Its folder keys issues identities: keep it
where nobody serves anything. Its folder server is what tsunamid --access or a
nats-server loads; its file trust.txt is what every agent pins.`,
	})
	cmd.PersistentFlags().StringVar(&x.dir, "dir", accessDir(), "the `directory` of identities")
	operator := group(&cobra.Command{Use: "operator", Short: "People"})
	operator.AddCommand(x.operatorAddCommand())
	cmd.AddCommand(
		x.initCommand(), x.enrollCommand(), operator, x.tokenCommand(),
		x.identitiesCommand(), x.identityCommand(),
		x.revokeCommand(), x.rotateCommand(), x.pushCommand(),
	)
	return cmd
}

// accessDir is the directory of identities in the user's config folder.
func accessDir() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "access" // --dir says another
	}
	return filepath.Join(dir, "tsunami", "access")
}

func (x *accessApp) initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Make the keys, the accounts and the parts' credentials",
		Long: `Make everything that a fleet with identities begins with: the keys, the accounts
with what each role may do, the parts' credentials, the key that seals what the
scheduler writes, and the configuration of a nats-server of your own.`,
		Example: `  tsunamictl access init
  tsunamictl access init --dir access`,
		Args: arguments(""),
		RunE: func(*cobra.Command, []string) error {
			s, err := access.Init(x.dir)
			if errors.Is(err, access.ErrExists) {
				return &exitError{exitRefused, fmt.Errorf("refused: %w", err)}
			}
			if err != nil {
				return err
			}
			made := struct {
				Dir    string `json:"dir"`
				Server string `json:"server"`
				Trust  string `json:"trust"`
			}{x.dir, s.ServerDir(), s.TrustFile()}
			return x.emit(made, func() {
				x.say("the directory of identities is %s:", x.dir)
				x.say("  keys       issue identities; keep them where nobody serves anything, and a copy offline")
				x.say("  server     what tsunamid --access loads, or a nats-server with its nats-server.conf; as secret as root on every host")
				x.say("  trust.txt  the key that hosts believe; every agent pins it")
				x.say("next, in this order:")
				x.say("  tsunamictl access operator add YOU --role admin     then others, as viewer, operator or approver")
				x.say("  tsunamictl access enroll HOST…                      credentials for every host's agent")
				x.say("  tsunamid --access %s --tls-cert FILE --tls-key FILE --listen 0.0.0.0:4222", shellWord(x.dir))
			})
		},
	}
}

// shellWord is a file's name as a shell takes it.
func shellWord(name string) string {
	if name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:@,", r)
	}) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// identityView is an identity in json.
type identityView struct {
	Name     string          `json:"name"`
	Role     subjects.Role   `json:"role"`
	Key      string          `json:"key"`
	Token    bool            `json:"token,omitempty"` // for HTTP alone
	Issued   time.Time       `json:"issued"`
	Expires  time.Time       `json:"expires,omitzero"`
	Revoked  time.Time       `json:"revoked,omitzero"`
	Standing access.Standing `json:"standing"`
}

// identities are all that were issued, or those of a name.
func (x *accessApp) identities(name string) ([]identityView, error) {
	s, err := access.Open(x.dir)
	if err != nil {
		return nil, err
	}
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	if name != "" {
		all = slices.DeleteFunc(all, func(e access.Entry) bool { return e.Name != name })
	}
	standings, err := s.Standings(all, time.Now())
	if err != nil {
		return nil, err
	}
	views := make([]identityView, len(all))
	for i, e := range all {
		views[i] = identityView{e.Name, e.Role, e.Key, e.Bearer, e.Issued, e.Expires, e.Revoked, standings[i]}
	}
	return views, nil
}

func (x *accessApp) identitiesCommand() *cobra.Command {
	var role string
	var every bool
	cmd := &cobra.Command{
		Use: "list", Short: "List identities, and when they expire",
		Long: `List the identities that are good now, and when they expire; with --all those
too that have expired, were revoked or ended with the key that issued them.
Hosts that joined by a token are in the audit log: tsunamictl audit.`,
		Example: `  tsunamictl access list --role agent
  tsunamictl access list --all -o json`,
		Args: arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var only subjects.Role
			if role != "" {
				var err error
				if only, err = subjects.ParseRole(role); err != nil {
					return usagef("--role: %v: want one of %s", err, roleNames(subjects.Roles))
				}
			}
			views, err := x.identities("")
			if err != nil {
				return err
			}
			views = slices.DeleteFunc(views, func(v identityView) bool {
				return !every && v.Standing != access.Good || only != "" && v.Role != only
			})
			return x.emit(views, func() { x.identityTable(views, time.Now()) })
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "of this `role` only")
	cmd.Flags().BoolVar(&every, "all", false, "those too that aren't good any more")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(strings.Split(roleNames(subjects.Roles), ", "), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (x *accessApp) identityTable(views []identityView, now time.Time) {
	columns := []string{"NAME", "ROLE", "STANDING", "ISSUED", "EXPIRES"}
	if x.wide() {
		columns = append(columns, "KEY")
	}
	t := newTable(columns...)
	for _, v := range views {
		t.row(v.Name, roleText(v), v.Standing, local(v.Issued), orNever(v.Expires, now), v.Key)
	}
	t.print(x.out)
}

func roleText(v identityView) string {
	if v.Token {
		return string(v.Role) + " (token)"
	}
	return string(v.Role)
}

func orNever(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return moment(t, now)
}

func roleNames(roles []subjects.Role) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

func (x *accessApp) identityCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "An identity: its keys, and what it may do on the broker",
		Example:           "  tsunamictl access show web1.lon2.example.net",
		Args:              arguments("NAME"),
		ValidArgsFunction: x.completeIdentities,
		RunE: func(_ *cobra.Command, args []string) error {
			views, err := x.identities(args[0])
			if err != nil {
				return err
			}
			if len(views) == 0 {
				return fmt.Errorf("%s: %w: 'tsunamictl access list' lists them", args[0], access.ErrNobody)
			}
			return x.emit(views, func() {
				for i, v := range views {
					if i > 0 {
						fmt.Fprintln(x.out)
					}
					x.identityFields(v, time.Now())
				}
			})
		},
	}
}

func (x *accessApp) identityFields(v identityView, now time.Time) {
	var f fields
	f.add("name", v.Name)
	f.add("role", roleText(v))
	f.add("standing", v.Standing)
	f.add("key", v.Key)
	f.add("issued", moment(v.Issued, now))
	f.add("expires", orNever(v.Expires, now))
	f.add("revoked", moment(v.Revoked, now))
	f.print(x.out)
	if v.Token || v.Standing != access.Good {
		return
	}
	p := subjects.PermissionsOf(v.Role)
	of := strings.NewReplacer("{{name()}}", v.Name, "{{subject()}}", v.Key)
	for _, side := range []struct {
		title string
		list  []subjects.Permission
	}{{"may publish", p.Publish}, {"may hear", p.Subscribe}} {
		fmt.Fprintf(x.out, "\n%s\n", side.title)
		t := newTable("SUBJECT", "TO")
		for _, each := range side.list {
			t.row(of.Replace(each.Subject), each.Why)
		}
		t.print(x.out)
	}
}

// completeIdentities completes the names of identities that are good.
func (x *accessApp) completeIdentities(_ *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	views, err := x.identities("")
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, v := range views {
		if v.Standing == access.Good && strings.HasPrefix(v.Name, begun) && len(names) < mostCompleted {
			names = append(names, cobra.CompletionWithDesc(v.Name, roleText(v)))
		}
	}
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}

// noCompletion is for names that don't exist yet.
func noCompletion(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func (x *accessApp) pushCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "push --server URL", Short: "Give an external nats-server the identities as they are",
		Long: `Give a nats-server that runs apart from tsunamid who is revoked, which keys issue
identities, and what roles may do. tsunamid's own broker reads it by itself.`,
		Example: "  tsunamictl access push --server tls://nats.example.net:4222 --ca ca.pem",
		Args:    arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := access.Open(x.dir)
			if err != nil {
				return err
			}
			if err := s.Refresh(); err != nil {
				return err
			}
			return x.push(cmd.Context(), s)
		},
	}
	return cmd
}

// spread tells how a change reaches the brokers, and with --server takes it
// there.
func (x *accessApp) spread(ctx context.Context, s *access.Store) error {
	if x.given("server") {
		return x.push(ctx, s)
	}
	x.say("  tsunamid takes it within a second from %s; an external nats-server by: tsunamictl access push --server URL", s.ServerDir())
	return nil
}
