package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// The exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

const usage = `Usage: tsunami-agent --server URL --host NAME --role ROLE [--label k=v]... --state DIR [--config FILE] [--creds FILE --trust FILE] [--observe-only]
       tsunami-agent join --server https://HOST:8422 --token-file FILE [--config FILE] (see "tsunami-agent join --help")

Makes this host's desired state true with the host's own programs, and reports
what the host is, has and runs. Flags win over the file.

  --server URL      the broker (default ` + hostagent.DefaultServer + `)
  --host NAME       this host's DNS name, lower case (default: the machine's own)
  --role ROLE       what the host is for
  --label k=v       any other fact, such as zone=lon2-a; as often as needed
  --state DIR       the state directory (default ` + hostagent.DefaultState + `)
  --config FILE     the agent's file: enactors, checks, and all of the above
  --creds FILE      the host's credentials, which nobody else may read
  --trust FILE      the keys that seal desired state; the host takes nothing else.
                    "none" takes whatever the broker says
  --ca FILE         the authorities whose certificates the broker may show
                    (default: the machine's)
  --cert FILE, --key FILE
                    what the host shows where the broker asks for a certificate
  --observe-only    report, and change nothing on this host
  --log-level LEVEL debug, info, warn or error (default info)
  --version         print the version
  --help            print this

The files of these five are looked at while the agent runs, and taken when they
change. SIGTERM stops it: a running enactor gets 30 seconds. Exit codes: 0 stopped
as asked, 1 failed, 2 wrong usage or configuration.
`

// run is the whole program: it returns the exit code when everything that it
// started has stopped. The end of ctx asks it to stop.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "join" {
		return runJoin(ctx, args[1:], stdout, stderr)
	}
	wrong := func(err error) int {
		fmt.Fprintf(stderr, "tsunami-agent: %v\nTry \"tsunami-agent --help\".\n", err)
		return exitUsage
	}
	f, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitDone
	case err != nil:
		return wrong(err)
	case f.version:
		fmt.Fprintln(stdout, version.Print("tsunami-agent"))
		return exitDone
	}
	c, err := f.configuration()
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return wrong(err)
	}
	err = hostagent.Run(ctx, hostagent.Options{
		Connect: bus.ConnectOptions{URL: c.Server},
		Config:  c,
		Version: version.Version, ObserveOnly: f.observeOnly,
		Logger: promslog.New(&promslog.Config{Level: f.level, Writer: stderr}),
	})
	if errors.Is(err, hostagent.ErrIdentity) {
		return wrong(err)
	}
	if err != nil {
		fmt.Fprintf(stderr, "tsunami-agent: %v\n", err)
		return exitFailed
	}
	return exitDone
}

type flags struct {
	server, host, role, state, config string
	creds, trust, ca, cert, key       string
	labels                            map[rollout.Word]rollout.Word
	level                             *promslog.Level
	version, observeOnly              bool
}

// parse reads the flags. Its error is flag.ErrHelp where help was asked for.
func parse(args []string) (*flags, error) {
	f := &flags{labels: make(map[rollout.Word]rollout.Word), level: promslog.NewLevel()}
	if err := f.level.Set("info"); err != nil {
		return nil, err
	}
	set := flag.NewFlagSet("tsunami-agent", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	for name, to := range map[string]*string{
		"server": &f.server, "host": &f.host, "role": &f.role, "state": &f.state, "config": &f.config,
		"creds": &f.creds, "trust": &f.trust, "ca": &f.ca, "cert": &f.cert, "key": &f.key,
	} {
		set.StringVar(to, name, "", "")
	}
	set.BoolVar(&f.version, "version", false, "")
	set.BoolVar(&f.observeOnly, "observe-only", false, "")
	set.Func("log-level", "", f.level.Set)
	set.Func("label", "", f.label)
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("%q: it takes no arguments, only flags", set.Arg(0))
	}
	return f, nil
}

func (f *flags) label(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want name=value, such as zone=lon2-a")
	}
	name, err := rollout.ParseWord("label", k)
	if err != nil {
		return err
	}
	value, err := rollout.ParseWord("label value", v)
	if err != nil {
		return err
	}
	f.labels[name] = value
	return nil
}

// configuration is the file's, with the flags over it. It isn't checked yet.
func (f *flags) configuration() (hostagent.Config, error) {
	var c hostagent.Config
	if f.config != "" {
		var err error
		if c, err = hostagent.LoadConfig(f.config); err != nil {
			return c, err
		}
	}
	over := func(to *string, flag string) {
		if flag != "" {
			*to = flag
		}
	}
	over(&c.Server, f.server)
	over(&c.State, f.state)
	over(&c.Creds, f.creds)
	over(&c.Trust, f.trust)
	over(&c.CA, f.ca)
	over(&c.Cert, f.cert)
	over(&c.Key, f.key)
	if f.host != "" {
		c.Host = rollout.Host(f.host)
	}
	if f.role != "" {
		c.Role = rollout.Word(f.role)
	}
	if c.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("no --host is given, and the machine's name can't be read: %w", err)
		}
		c.Host = rollout.Host(strings.ToLower(name))
	}
	for k, v := range f.labels {
		if c.Labels == nil {
			c.Labels = make(map[rollout.Word]rollout.Word)
		}
		c.Labels[k] = v
	}
	return c, nil
}
