package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

const defaultServer = "nats://127.0.0.1:4222"

// defaultTimeout bounds a request. Watching has no bound of its own.
const defaultTimeout = rollout.Duration(15 * time.Second)

// app is one run of the program.
type app struct {
	in         io.Reader
	out, errs  io.Writer
	isTerminal bool
	terminal   int // the file descriptor, where it is one

	server, creds, ca, cert, key, context, actor, output string
	timeout                                              durationFlag
	noColor                                              bool

	given  func(flag string) bool // whether a global flag was given
	client *control.Client
	close_ []func()

	misnamed error // help was asked for with a command that doesn't exist
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tsunamictl",
		Short: "Make gradual changes to a fleet, and stop them",
		Long: `tsunamictl makes unattended, gradual changes to a fleet, and stops them.

A variable has a name and the values that it can take. A rollout moves one
variable to one value, across the hosts that it selects, over time. Every
change that a host was ever told is on the audit log with its reason.`,
		Example: `  tsunamictl apply -f docker.yaml
  tsunamictl rollout start docker_version 1.12.3 --over 2w
  tsunamictl rollout watch docker-version-1-12-3
  tsunamictl rollout abort docker-version-1-12-3 --why "users see errors"
  tsunamictl why web1.example.net docker_version`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkGlobals() },
	}
	group(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if typed := cmd.Flags().Args(); cmd.HasSubCommands() && len(typed) > 0 {
			return unknownCommand(cmd, typed[0]) // whose flags can't be known either
		}
		return &usageError{err}
	})
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", envOr("TSUNAMI_SERVER", defaultServer), "NATS `URL`, or several with commas (env TSUNAMI_SERVER)")
	f.StringVar(&a.creds, "creds", os.Getenv("TSUNAMI_CREDS"), "NATS credentials `file`: who one is (env TSUNAMI_CREDS)")
	f.StringVar(&a.ca, "ca", os.Getenv("TSUNAMI_CA"), "certificates of who vouches for the broker's, a `file` (default the machine's; env TSUNAMI_CA)")
	f.StringVar(&a.cert, "cert", "", "a certificate to show to the broker, a `file`, where it asks for one")
	f.StringVar(&a.key, "key", "", "the private key of --cert, a `file`")
	f.StringVar(&a.context, "context", "", "a `context` of the nats command: where to connect to and as whom; --server and --creds go before it")
	f.StringVar(&a.actor, "actor", operator(), "who the audit log names; with credentials it is whose they are")
	f.StringVarP(&a.output, "output", "o", "table", "table, wide, json or yaml")
	f.Var(&a.timeout, "timeout", "how long to wait, such as 30s (default 15s, and for watch no end)")
	f.BoolVar(&a.noColor, "no-color", os.Getenv("NO_COLOR") != "", "no colors (env NO_COLOR)")
	a.given = f.Changed
	root.AddCommand(
		a.applyCommand(), a.diffCommand(), a.getCommand(), a.deleteCommand(),
		a.variableCommand(), a.hostCommand(), a.rolloutCommand(), a.blackoutCommand(), a.objectiveCommand(),
		a.stopCommand(), a.startCommand(), a.statusCommand(),
		a.whyCommand(), a.auditCommand(), a.accessCommand(), a.versionCommand(),
	)
	a.help(root)
	a.completions(root)
	return root
}

// help makes asking for help with a command that doesn't exist a wrong usage,
// as running it is.
func (a *app) help(root *cobra.Command) {
	show := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if typed := cmd.Flags().Args(); cmd.HasSubCommands() && len(typed) > 0 {
			a.misnamed = unknownCommand(cmd, typed[0])
			return
		}
		show(cmd, args)
	})
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil || help == root {
		return
	}
	help.Example, help.Args = "  tsunamictl help rollout start", cobra.ArbitraryArgs
	help.Run, help.RunE = nil, func(_ *cobra.Command, words []string) error {
		cmd, rest, err := root.Find(words)
		if err != nil {
			return &usageError{err}
		}
		if cmd.HasSubCommands() && len(rest) > 0 {
			return unknownCommand(cmd, rest[0])
		}
		cmd.InitDefaultHelpFlag()
		return cmd.Help()
	}
}

var outputs = []string{"table", "wide", "json", "yaml"}

func (a *app) checkGlobals() error {
	if !slices.Contains(outputs, a.output) {
		return usagef("--output: %q isn't a format: want table, wide, json or yaml", a.output)
	}
	if _, err := rollout.ParseID("operator", a.actor); err != nil {
		return usagef("--actor: %v", err)
	}
	if (a.cert == "") != (a.key == "") {
		return usagef("--cert and --key go together: the one is nothing without the other")
	}
	return nil
}

func (a *app) wide() bool { return a.output == "wide" }

func envOr(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

// operator makes an operator's name of the user's: who the audit log names
// until identities say it.
func operator() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	return clean(name)
}

func clean(name string) string {
	name = name[strings.LastIndexByte(name, '\\')+1:] // a Windows domain
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	name = strings.Trim(name[:min(len(name), 63)], "-")
	if name == "" {
		return "operator"
	}
	return name
}

// connect connects once, for the rest of the run.
func (a *app) connect() (*control.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	nc, who, err := a.dial()
	if err != nil {
		return nil, err
	}
	a.close_ = append(a.close_, nc.Close)
	if who != nil {
		a.client, err = control.NewClientWith(nc, who)
	} else {
		a.client, err = control.NewClient(nc, rollout.ID(a.actor))
	}
	return a.client, err
}

// identify reads credentials, "" for none, and makes whoever they are the
// actor.
func (a *app) identify(file string) (*access.Credentials, error) {
	if file == "" {
		return nil, nil
	}
	who, err := access.LoadCredentials(file)
	if err != nil {
		return nil, usagef("the credentials: %v", err)
	}
	if a.given("actor") && a.actor != who.Name() {
		return nil, usagef("--actor %s: the credentials are %s's, and the audit log names who one is: leave it out", a.actor, who.Name())
	}
	a.actor = who.Name()
	return who, nil
}

// dial connects, as whom the credentials are, if there are any.
func (a *app) dial() (*nats.Conn, *access.Credentials, error) {
	if a.given("context") {
		return a.dialContext()
	}
	who, err := a.identify(a.creds)
	if err != nil {
		return nil, nil, err
	}
	o := bus.ConnectOptions{URL: a.server, Creds: a.creds, CA: a.ca, Cert: a.cert, Key: a.key, Name: a.connection()}
	if who != nil {
		o.Inbox = who.Inbox(true)
	}
	nc, err := bus.Connect(o)
	if err != nil {
		return nil, nil, fmt.Errorf("can't reach the broker at %s: %w; is tsunamid running there? (--server or TSUNAMI_SERVER say where, --creds or --context who one is)", a.server, err)
	}
	return nc, who, nil
}

// connection is the connection's name in the broker's list.
func (a *app) connection() string { return "tsunamictl " + a.actor }

func (a *app) close() {
	for _, f := range slices.Backward(a.close_) {
		f()
	}
}

// bounded ends a request's context after --timeout.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	d := rollout.Duration(a.timeout)
	if d == 0 {
		d = defaultTimeout
	}
	return context.WithTimeout(ctx, time.Duration(d))
}

// call makes one request. An error about something that isn't there says what
// is.
func (a *app) call(ctx context.Context, verb control.Verb, req, resp any) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	bounded, cancel := a.bounded(ctx)
	defer cancel()
	err = c.Call(bounded, verb, req, resp)
	if e, ok := errors.AsType[*control.Error](err); ok && e.Code == control.NotFound {
		return a.listing(ctx, c, e)
	}
	return err
}

// mostListed is how many names an error lists.
const mostListed = 10

// listing adds to an error about something that isn't there what is, where
// that is short and can be had at once.
func (a *app) listing(ctx context.Context, c *control.Client, e *control.Error) error {
	kind, _, _ := strings.Cut(e.Message, " ")
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	names, err := existing(ctx, c, kind)
	if err != nil || len(names) > mostListed {
		return e
	}
	return control.Errorf(control.NotFound, "%s: %s", e.Message, thereAre(names, "there is none"))
}

// existing names what there is of a kind, of hosts a few more than are listed.
func existing(ctx context.Context, c *control.Client, kind string) (names []string, err error) {
	switch kind {
	case "host":
		req := control.HostListRequest{Limit: mostListed + 1}
		for more := true; more && err == nil && len(names) <= mostListed; {
			var page control.HostListResponse
			err = c.Call(ctx, control.HostList, req, &page)
			for i := range page.Hosts {
				req.After = page.Hosts[i].Host
				names = append(names, string(req.After))
			}
			more = page.More && len(page.Hosts) > 0
		}
	case "rollout":
		var views []control.RolloutView
		err = c.Call(ctx, control.RolloutList, nil, &views)
		for i := range views {
			names = append(names, string(views[i].ID))
		}
	default:
		var resp control.GetResponse
		err = c.Call(ctx, control.Get, control.GetRequest{Kind: kind}, &resp)
		for _, d := range resp.Documents {
			names = append(names, d.Name())
		}
	}
	return names, err
}

// emit prints v as the operator asked for it; table prints it for people.
func (a *app) emit(v any, table func()) error {
	switch a.output {
	case "json":
		e := json.NewEncoder(a.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := asYAML(v)
		if err != nil {
			return err
		}
		_, err = a.out.Write(b)
		return err
	}
	table()
	return nil
}

// asYAML writes the same fields as JSON does, in the same order.
func asYAML(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var ordered any
	if err := yaml.UnmarshalWithOptions(b, &ordered, yaml.UseOrderedMap()); err != nil {
		return nil, fmt.Errorf("write yaml: %w", err)
	}
	out, err := yaml.MarshalWithOptions(ordered, yaml.UseLiteralStyleIfMultiline(true))
	return append(bytes.TrimRight(out, "\n"), '\n'), err
}

// say prints a line for people; with json and yaml there is none.
func (a *app) say(format string, args ...any) {
	if a.output == "table" || a.output == "wide" {
		fmt.Fprintf(a.out, format+"\n", args...)
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version",
		Example: "  tsunamictl version -o json",
		Args:    arguments(""),
		RunE: func(*cobra.Command, []string) error {
			info := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
			}{cmp.Or(version.Version, "0.0.0-dev"), version.Revision, version.GoVersion}
			return a.emit(info, func() {
				a.say("tsunamictl %s", info.Version)
				if a.wide() {
					a.say("%s", version.Print("tsunamictl"))
				}
			})
		},
	}
}

// durationFlag is a flag such as 2w.
type durationFlag rollout.Duration

func (d *durationFlag) Set(s string) error {
	v, err := rollout.ParseDuration(s)
	*d = durationFlag(v)
	return err
}

func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return rollout.Duration(*d).String()
}

func (d *durationFlag) Type() string { return "duration" }

// percentFlag is a flag such as 30 or 30%.
type percentFlag rollout.Percent

func (p *percentFlag) Set(s string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var v rollout.Percent
	err = v.UnmarshalJSON(b)
	*p = percentFlag(v)
	return err
}

func (p *percentFlag) String() string {
	if *p == 0 {
		return ""
	}
	return rollout.Percent(*p).String()
}

func (p *percentFlag) Type() string { return "percent" }

// group makes a command that only holds others say what it holds, and what was
// meant by a name that it doesn't have.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			if err := cmd.Help(); err != nil {
				return err
			}
			return &usageError{errors.New("a command is missing")}
		}
		return unknownCommand(cmd, args[0])
	}
	return cmd
}

// unknownCommand says what may have been meant.
func unknownCommand(cmd *cobra.Command, typed string) error {
	words := fmt.Sprintf("unknown command %q for %q", typed, cmd.CommandPath())
	near := cmd.SuggestionsFor(typed)
	for _, group := range cmd.Commands() {
		for _, sub := range group.Commands() {
			if sub.Name() == typed {
				near = append(near, group.Name()+" "+typed)
			}
		}
	}
	if len(near) > 0 {
		words += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{errors.New(words)}
}

// notEmpty refuses flags that are given with nothing in them: an empty variable
// in a script, as a rule, and never "everything".
func notEmpty(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if f := cmd.Flags().Lookup(name); f.Changed && (f.Value.String() == "" || f.Value.String() == "[]") {
			return usagef("--%s is empty: say which, or leave it out", name)
		}
	}
	return nil
}

// arguments wants exactly these, named as in the usage line. One in brackets
// may be left out.
func arguments(names string) cobra.PositionalArgs {
	want := strings.Fields(names)
	least := len(want)
	for _, w := range want {
		if strings.HasPrefix(w, "[") {
			least--
		}
	}
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > len(want) && len(want) == 0:
			return usagef("takes no arguments: %q is too much", args[0])
		case len(args) > len(want):
			return usagef("wants %s: %q is too much; put text with spaces in quotes", names, args[len(want)])
		case len(args) < least:
			return usagef("%s is missing: wants %s", want[len(args)], names)
		}
		return nil
	}
}
