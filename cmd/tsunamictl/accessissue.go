package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Where an agent reads its identity on its host.
const (
	agentCreds = "/etc/tsunami/agent.creds"
	agentTrust = "/etc/tsunami/trust.txt"
)

// issuedView is an identity that was issued, in json.
type issuedView struct {
	Name    string        `json:"name"`
	Role    subjects.Role `json:"role"`
	Key     string        `json:"key"`
	Expires time.Time     `json:"expires,omitzero"`
	File    string        `json:"file,omitempty"` // the credentials
	Context string        `json:"context,omitempty"`
}

func (x *accessApp) enrollCommand() *cobra.Command {
	var list, out string
	var expires durationFlag
	var missing, token bool
	var roles []string
	var uses int
	check := func(cmd *cobra.Command, args []string) error {
		switch hosts := len(args) > 0; {
		case !token && (len(roles) > 0 || cmd.Flags().Changed("uses")):
			return usagef("--roles and --uses are of a token: add --token")
		case token && (list != "" || out != "" || missing):
			return usagef("--token issues nothing yet: leave out --file, --out and --missing")
		case token && hosts == (len(roles) > 0), token && len(args) > 1:
			return usagef("a token is for one HOST, or for --roles")
		case token && hosts && uses != 1:
			return usagef("a token for one HOST is used once: leave out --uses")
		case !token && hosts == (list != ""):
			return usagef("HOST is missing: wants the hosts, or --file with one on each line")
		}
		return notEmpty(cmd, "file", "out", "roles", "expires")
	}
	cmd := &cobra.Command{
		Use: "enroll HOST… | -f FILE", Short: "Issue hosts' credentials, or a token by which they join",
		Long: `Issue credentials for hosts' agents: HOST.creds for each. A host can then read its
own desired state, report about itself, and nothing else.

With --token nothing is issued yet: it prints a token, which 'tsunami-agent join'
exchanges for credentials over TLS; the private key never leaves the host. A token
is for one host, or with --roles for any hosts of these roles, --uses of them.
The first one makes server/join.nk, by which a server can issue hosts.`,
		Example: `  tsunamictl access enroll web1.lon2.example.net
  tsunamictl access enroll -f hosts.txt --out creds/ --expires 90d
  tsunamictl access enroll --token web1.lon2.example.net
  tsunamictl access enroll --token --roles web,db --uses 20 --expires 1h`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return err
			}
			if list != "" {
				var err error
				if args, err = x.hostsIn(list); err != nil {
					return err
				}
			}
			for _, name := range args {
				if _, err := hostArg(name); err != nil {
					return err
				}
			}
			s, err := access.Open(x.dir)
			if err != nil {
				return err
			}
			if token {
				return x.joinToken(s, args, roles, uses, expires)
			}
			return x.enroll(s, args, out, expiry(expires), missing)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&list, "file", "f", "", "a `file` with a host on each line; # begins a comment, - is the standard input")
	f.StringVar(&out, "out", "", "the `file` of credentials, or the directory for several (default HOST.creds here)")
	f.Var(&expires, "expires", "for how long, such as 90d (default: for ever, a token for 1h)")
	f.BoolVar(&missing, "missing", false, "leave out hosts that have an identity")
	f.BoolVar(&token, "token", false, "print a token by which the host joins, instead")
	f.StringSliceVar(&roles, "roles", nil, "hosts of these `roles` may use the token")
	f.IntVar(&uses, "uses", 1, "how many hosts may use the token")
	_ = cmd.RegisterFlagCompletionFunc("out", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	return cmd
}

// expiry is when what is issued now expires; zero means never.
func expiry(d durationFlag) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(d))
}

// hostsIn reads a file of hosts.
func (x *accessApp) hostsIn(file string) (hosts []string, err error) {
	in := x.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() // it was only read
		in = f
	}
	seen := map[string]bool{}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if _, err := rollout.ParseHost(line); err != nil {
			return nil, usagef("%s:%d: %v", file, n, err)
		}
		if !seen[line] {
			seen[line] = true
			hosts = append(hosts, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(hosts) == 0 {
		return nil, usagef("%s: there is no host in it: want one on each line", file)
	}
	return hosts, nil
}

// enroll issues the identities of hosts, all or none.
func (x *accessApp) enroll(s *access.Store, hosts []string, out string, expires time.Time, missing bool) error {
	have, err := s.Of(time.Now(), func(e access.Entry) bool { return e.Role == subjects.RoleAgent && !e.Bearer })
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range have {
		known[e.Name] = true
	}
	wanted := make([]access.Wanted, 0, len(hosts))
	for _, h := range hosts {
		switch {
		case !known[h]:
			wanted = append(wanted, access.Wanted{Name: h, Role: subjects.RoleAgent, Expires: expires})
		case !missing:
			return &exitError{exitRefused, fmt.Errorf("refused: %s has an identity: 'tsunamictl access rotate %s' gives it another, 'revoke' ends it, and --missing leaves out hosts that have one", h, h)}
		}
	}
	files, err := destinations(out, wanted)
	if err != nil {
		return err
	}
	issued, err := s.Issue(wanted...)
	if err != nil {
		return err
	}
	views, err := x.keep(issued, files)
	if err != nil {
		return err
	}
	return x.emit(views, func() {
		switch len(views) {
		case 0:
			x.say("every one of the %d hosts has an identity; nothing was issued", len(hosts))
			return
		case 1:
			x.say("%s has an identity%s; put on the host, readable by the agent's user alone:", views[0].Name, until(expires))
			x.say("  %s as %s", views[0].File, agentCreds)
		default:
			x.say("%d hosts have an identity%s; put on each, readable by the agent's user alone:", len(views), until(expires))
			x.say("  %s as %s", filepath.Join(filepath.Dir(views[0].File), "HOST.creds"), agentCreds)
		}
		x.say("  %s as %s", s.TrustFile(), agentTrust)
		x.say("then delete the credentials here: they are kept nowhere else, and needed nowhere else")
	})
}

// until says when what was issued expires.
func until(expires time.Time) string {
	if expires.IsZero() {
		return ""
	}
	return " until " + local(expires)
}

// destinations says which file each identity's credentials go to. Nothing that is
// there is overwritten: it would be somebody's only key.
func destinations(out string, wanted []access.Wanted) ([]string, error) {
	info, err := os.Stat(out)
	dir := out == "" || len(wanted) > 1 || strings.HasSuffix(out, "/") || err == nil && info.IsDir()
	files := make([]string, len(wanted))
	for i, w := range wanted {
		files[i] = out
		if dir {
			files[i] = filepath.Join(out, w.Name+".creds")
		}
		if _, err := os.Lstat(files[i]); !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(&exitError{exitRefused, fmt.Errorf("refused: %s is there already, and may be the only copy of a key: move it away or name another place with --out", files[i])}, err)
		}
		if err := os.MkdirAll(filepath.Dir(files[i]), 0o700); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// keep writes credentials to files that only their owner may read.
func (x *accessApp) keep(issued []access.Issued, files []string) ([]issuedView, error) {
	views := make([]issuedView, len(issued))
	for i, each := range issued {
		if err := writeNew(files[i], each.Credentials); err != nil {
			return nil, fmt.Errorf("%w: %s has no file of its credentials, nor has anybody after it: 'tsunamictl access rotate %s' issues others", err, each.Name, each.Name)
		}
		views[i] = issuedView{Name: each.Name, Role: each.Role, Key: each.Key, Expires: each.Expires, File: files[i]}
	}
	return views, nil
}

// writeNew writes a file that isn't there yet.
func writeNew(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// joinToken prints a token, and beside it on the standard error what to do with
// it.
func (x *accessApp) joinToken(s *access.Store, hosts, roles []string, uses int, expires durationFlag) error {
	now := time.Now()
	t := access.JoinToken{Uses: uses, Expires: now.Add(cmp.Or(time.Duration(expires), time.Hour))}
	who := fmt.Sprintf("%d hosts of role %s", uses, strings.Join(roles, " or "))
	command := "--host NAME --role ROLE"
	if len(hosts) > 0 {
		t.Host, who, command = rollout.Host(hosts[0]), hosts[0], "--host "+hosts[0]+" --role ROLE"
	}
	for _, r := range roles {
		word, err := rollout.ParseWord("role", r)
		if err != nil {
			return &usageError{err}
		}
		t.Roles = append(t.Roles, word)
	}
	first := !s.Joining()
	text, err := s.JoinToken(t, now)
	if err != nil {
		return &usageError{err}
	}
	if err := x.printToken(text, t.Expires); err != nil {
		return err
	}
	if first {
		if err := x.hint("joining by tokens is enabled: server/join.nk issues hosts; an external nats-server takes it by: tsunamictl access push --server URL"); err != nil {
			return err
		}
	}
	return x.hint("good for %s until %s; on the host, as the agent's user:\n  tsunami-agent join --server https://TSUNAMID:8422 --ca FILE %s --token-file FILE", who, local(t.Expires), command)
}

// printToken prints a token alone, so that a script can take it.
func (x *accessApp) printToken(text string, expires time.Time) error {
	v := struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires,omitzero"`
	}{text, expires.UTC().Truncate(time.Second)}
	return x.emit(v, func() { x.say("%s", text) })
}

// hint says on the standard error what the result is for.
func (x *accessApp) hint(format string, args ...any) error {
	_, err := fmt.Fprintf(x.errs, format+"\n", args...)
	return err
}

func (x *accessApp) tokenCommand() *cobra.Command {
	var role, host string
	expires := durationFlag(30 * 24 * time.Hour)
	cmd := &cobra.Command{
		Use: "token [NAME] [--host HOST]", Short: "Print a token for HTTP: of a viewer, of Alertmanager, or of one host",
		Long: `Print a token for tsunamid's HTTP side: a viewer's, or one host's, which reads
that host's document alone. --role alerter is for Alertmanager, which says what
fires and reads nothing. Whoever has it is believed, so it is good for HTTP
alone, never for the broker, and expires. 'tsunamictl access revoke' ends it.`,
		Example: `  tsunamictl access token prometheus
  tsunamictl access token --host web1.lon2.example.net --expires 90d`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := notEmpty(cmd, "host", "role", "expires"); err != nil {
				return err
			}
			if host != "" && cmd.Flags().Changed("role") {
				return usagef("--role is a person's: leave it out with --host")
			}
			if (len(args) == 1) == (host != "") || len(args) > 1 {
				return usagef("NAME is missing: wants whose it is, or --host HOST")
			}
			return nil
		},
		ValidArgsFunction: noCompletion,
		RunE: func(_ *cobra.Command, args []string) error {
			w := access.Wanted{Role: subjects.RoleAgent, Name: host, Bearer: true, Expires: expiry(expires)}
			if host == "" {
				var err error
				w.Name, w.Role = args[0], subjects.RoleAlerter
				if role != string(subjects.RoleAlerter) {
					w.Role, err = personsRole(role)
				}
				if err != nil {
					return err
				}
			}
			s, err := access.Open(x.dir)
			if err != nil {
				return err
			}
			issued, err := s.Issue(w)
			if err != nil {
				return &usageError{err}
			}
			if err := x.printToken(issued[0].JWT, issued[0].Expires); err != nil {
				return err
			}
			return x.hint("good for HTTP until %s, as the header:\n  Authorization: Bearer TOKEN", local(issued[0].Expires))
		},
	}
	cmd.Flags().StringVar(&role, "role", string(subjects.RoleViewer), "what it may do: the `role`, a person's or alerter")
	cmd.Flags().StringVar(&host, "host", "", "the `host` whose document it reads")
	cmd.Flags().Var(&expires, "expires", "for how long")
	personsRoles(cmd)
	return cmd
}

func personsRole(s string) (subjects.Role, error) {
	if r := subjects.Role(s); r.Person() {
		return r, nil
	}
	return "", usagef("--role: %q isn't a person's role: want one of %s", s, roleNames(subjects.People))
}

func personsRoles(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(strings.Split(roleNames(subjects.People), ", "), cobra.ShellCompDirectiveNoFileComp))
}

func (x *accessApp) operatorAddCommand() *cobra.Command {
	var role, out string
	var expires durationFlag
	cmd := &cobra.Command{
		Use: "add NAME --role ROLE", Short: "Issue a person's credentials, with a context of the nats command",
		Long: `Issue a person's credentials, and write a context of the nats command beside, so
that 'tsunamictl --context tsunami-NAME' and 'nats --context tsunami-NAME' are that
person. The audit log names them.

  viewer    reads everything
  approver  reads, and approves rollouts
  operator  does everything through the scheduler, and may abort and stop without it
  admin     may write records by hand besides, which the audit log shows`,
		Example: `  tsunamictl access operator add ada --role operator
  tsunamictl access operator add bob --role viewer --out bob.creds --server tls://nats.example.net:4222 --ca ca.pem`,
		Args:              arguments("NAME"),
		ValidArgsFunction: noCompletion,
		RunE: func(cmd *cobra.Command, args []string) error {
			if role == "" {
				return usagef("--role is missing: want one of %s", roleNames(subjects.People))
			}
			r, err := personsRole(role)
			if err != nil {
				return err
			}
			if err := notEmpty(cmd, "out", "ca", "expires"); err != nil {
				return err
			}
			s, err := access.Open(x.dir)
			if err != nil {
				return err
			}
			return x.addOperator(s, access.Wanted{Name: args[0], Role: r, Expires: expiry(expires)}, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&role, "role", "", "what they may do: the `role`, one of "+roleNames(subjects.People))
	f.StringVar(&out, "out", "", "the `file` of credentials (default NAME.creds beside --dir)")
	f.Var(&expires, "expires", "for how long, such as 90d (default: for ever)")
	personsRoles(cmd)
	return cmd
}

func (x *accessApp) addOperator(s *access.Store, w access.Wanted, out string) error {
	have, err := s.Of(time.Now(), func(e access.Entry) bool { return e.Name == w.Name && e.Role == w.Role && !e.Bearer })
	if err != nil {
		return err
	}
	if len(have) > 0 {
		return &exitError{exitRefused, fmt.Errorf("refused: %s is %s already: 'tsunamictl access rotate %s' gives them other credentials, 'revoke' ends them", w.Name, w.Role, w.Name)}
	}
	files, err := destinations(cmp.Or(out, filepath.Join(filepath.Dir(x.dir), w.Name+".creds")), []access.Wanted{w})
	if err != nil {
		return err
	}
	if files[0], err = filepath.Abs(files[0]); err != nil {
		return err
	}
	name := "tsunami-" + w.Name
	file, err := x.contextFile(name, files[0])
	if err != nil {
		return err
	}
	issued, err := s.Issue(w)
	if err != nil {
		return &usageError{err}
	}
	views, err := x.keep(issued, files)
	if err != nil {
		return err
	}
	if err := x.writeContext(file, files[0], w); err != nil {
		return fmt.Errorf("%w: the credentials are in %s", err, files[0])
	}
	views[0].Context = name
	return x.emit(views[0], func() {
		x.say("%s is %s%s; the credentials are %s", w.Name, w.Role, until(w.Expires), files[0])
		x.say("  they are for %s alone; to hand them over, move the file and say --creds FILE there", w.Name)
		x.say("the context %s is made: tsunamictl --context %s status, nats --context %s kv ls", name, name, name)
	})
}

// contextFile is where a context of the nats command goes. One that is there and
// somebody else's is left alone.
func (x *accessApp) contextFile(name, creds string) (string, error) {
	dir, err := contextDir()
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, name+".json")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	if err != nil {
		return "", err
	}
	var c natsContext
	if err := json.Unmarshal(b, &c); err != nil || c.Creds != creds {
		return "", &exitError{exitRefused, fmt.Errorf("refused: there is a context %s of somebody else: %s; 'nats context rm %s' removes it", name, file, name)}
	}
	return file, nil
}

func (x *accessApp) writeContext(file, creds string, w access.Wanted) error {
	c := struct {
		Description string `json:"description"`
		URL         string `json:"url"`
		Creds       string `json:"creds"`
		CA          string `json:"ca,omitempty"`
		InboxPrefix string `json:"inbox_prefix"`
	}{fmt.Sprintf("Tsunami, as %s (%s)", w.Name, w.Role), x.server, creds, "", subjects.PersonInbox(w.Name)}
	if x.ca != "" {
		abs, err := filepath.Abs(x.ca)
		if err != nil {
			return err
		}
		c.CA = abs
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o600)
}
