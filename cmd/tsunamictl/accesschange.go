package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func (x *accessApp) revokeCommand() *cobra.Command {
	var role, key string
	cmd := &cobra.Command{
		Use: "revoke [NAME] [--key KEY]", Short: "End identities at once: their connections are cut",
		Long: `End every identity of a name, its tokens too: whoever is connected with one is
cut off within a second, and can't come back. A host that joined by a token isn't
on the list: say its --key, which the audit log has.`,
		Example: `  tsunamictl access revoke ada
  tsunamictl access revoke web1.lon2.example.net --server tls://nats.example.net:4222
  tsunamictl access revoke --key UCY34UK7VLVWBOEX2RQKFQXGMQFTGLHMSXLCI5RHWLGMBMXBUKD2QVWB`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := notEmpty(cmd, "role", "key", "ca"); err != nil {
				return err
			}
			if (len(args) == 1) == (key != "") || len(args) > 1 {
				return usagef("NAME is missing: wants one name, or --key")
			}
			if key != "" && role != "" {
				return usagef("--role goes with NAME")
			}
			return nil
		},
		ValidArgsFunction: x.completeIdentities,
		RunE: func(cmd *cobra.Command, args []string) error {
			var only subjects.Role
			if role != "" {
				var err error
				if only, err = subjects.ParseRole(role); err != nil {
					return usagef("--role: %v: want one of %s", err, roleNames(subjects.Roles))
				}
			}
			s, err := access.Open(x.dir)
			if err != nil {
				return err
			}
			var ended []access.Entry
			if key != "" {
				ended, err = s.RevokeKey(key)
			} else {
				ended, err = s.Revoke(args[0], only)
			}
			if err != nil {
				return err
			}
			if err := x.emit(entryViews(ended), func() {
				for _, e := range ended {
					x.say("%s (%s) is revoked, key %s", e.Name, e.Role, e.Key)
				}
			}); err != nil {
				return err
			}
			return x.spread(cmd.Context(), s)
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "the identity of this `role` only")
	cmd.Flags().StringVar(&key, "key", "", "the identity of this public `key`, whoever issued it")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(strings.Split(roleNames(subjects.Roles), ", "), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func entryViews(all []access.Entry) []issuedView {
	views := make([]issuedView, len(all))
	for i, e := range all {
		views[i] = issuedView{Name: e.Name, Role: e.Role, Key: e.Key, Expires: e.Expires}
	}
	return views
}

func (x *accessApp) rotateCommand() *cobra.Command {
	var finish, force bool
	var out string
	cmd := &cobra.Command{
		Use: "rotate seal | join | ROLE | NAME", Short: "Replace a key, and nobody is cut off", SuggestFor: []string{"renew"},
		Long: `Replace a key in two steps, so that nobody is cut off: the first makes the new one
beside the old one, and --finish ends the old one when the new one is everywhere.

  seal   the key that seals what the scheduler writes. Bring trust.txt to every
         host before --finish
  join   the key that issues hosts for join tokens: tokens of the old one are refused
         from now on, hosts that joined by it stay good until --finish. To end
         joining alone, delete server/join.nk
  ROLE   the key that issues a role's identities (agent, operator, …). All of them
         are issued anew, into --out: bring them to their owners before --finish
  NAME   the credentials of one host or person`,
		Example: `  tsunamictl access rotate seal
  tsunamictl access rotate seal --finish
  tsunamictl access rotate agent --out creds/
  tsunamictl access rotate web1.lon2.example.net --out web1.creds`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := arguments("KEY")(cmd, args); err != nil {
				return err
			}
			return notEmpty(cmd, "out", "ca")
		},
		ValidArgsFunction: x.completeRotation,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := access.Open(x.dir)
			if err != nil {
				return err
			}
			role, err := subjects.ParseRole(args[0])
			switch isRole := err == nil; {
			case args[0] == "seal":
				return x.rotateSeal(s, finish)
			case args[0] == "join":
				err = x.rotateJoin(s, finish)
			case isRole && finish:
				err = x.finishRole(s, role, force)
			case finish:
				err = x.finishName(s, args[0])
			case isRole:
				err = x.rotateRole(s, role, out)
			default:
				return x.rotateName(s, args[0], out)
			}
			if err != nil {
				return err
			}
			return x.spread(cmd.Context(), s)
		},
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "the second step: the old one ends")
	cmd.Flags().BoolVar(&force, "force", false, "finish although identities that have no newer one end with it")
	cmd.Flags().StringVar(&out, "out", "", "the `file` of credentials, or the directory for several (default NAME.creds here)")
	return cmd
}

func (x *accessApp) completeRotation(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	names, directive := x.completeIdentities(cmd, args, begun)
	for _, word := range append([]string{"seal", "join"}, strings.Split(roleNames(subjects.Roles), ", ")...) {
		if len(args) == 0 && strings.HasPrefix(word, begun) && !slices.Contains(names, word) {
			names = append(names, word)
		}
	}
	return names, directive
}

// begunError says what to do about a rotation that is where it isn't expected.
func begunError(what string, err error) error {
	switch {
	case errors.Is(err, access.ErrBegun):
		return &exitError{exitRefused, fmt.Errorf("refused: %s: %w: 'tsunamictl access rotate %s --finish' ends the old one", what, err, what)}
	case errors.Is(err, access.ErrNotBegun):
		return &exitError{exitRefused, fmt.Errorf("refused: %s: %w: 'tsunamictl access rotate %s' begins it", what, err, what)}
	case errors.Is(err, access.ErrInUse):
		return &exitError{exitRefused, fmt.Errorf("refused: %s: %w: 'tsunamictl access rotate NAME' issues one, --force cuts them off", what, err)}
	}
	return err
}

// rotatedView is a step of a rotation in json.
type rotatedView struct {
	Key      string       `json:"key"`
	Finished bool         `json:"finished"`
	Issued   []issuedView `json:"issued,omitempty"`
}

func (x *accessApp) rotateSeal(s *access.Store, finish bool) error {
	step := s.RotateSeal
	if finish {
		step = s.FinishSeal
	}
	if err := step(); err != nil {
		return begunError("seal", err)
	}
	return x.emit(rotatedView{Key: "seal", Finished: finish}, func() {
		if finish {
			x.say("the new key seals as soon as tsunamid is started again; the old one stays trusted, since what it has sealed is still there")
			return
		}
		x.say("a new key is trusted beside the old one, which goes on sealing; next, in this order:")
		x.say("  bring %s to every host as %s", s.TrustFile(), agentTrust)
		x.say("  tsunamictl access rotate seal --finish")
		x.say("a host that hasn't the file by then keeps what it has, and takes nothing new until it has")
	})
}

func (x *accessApp) rotateJoin(s *access.Store, finish bool) error {
	if !s.Joining() {
		return &exitError{exitRefused, errors.New("refused: join: there is no such key: 'tsunamictl access enroll --token' makes it")}
	}
	step := s.RotateJoin
	if finish {
		step = s.FinishJoin
	}
	if err := step(); err != nil {
		return begunError("join", err)
	}
	return x.emit(rotatedView{Key: "join", Finished: finish}, func() {
		if finish {
			x.say("the old key is gone, and every host with it that joined by it and not anew")
			return
		}
		x.say("a new key issues hosts for join tokens; tokens that were made before are refused; next, in this order:")
		x.say("  let hosts that joined before join anew, or enroll them")
		x.say("  tsunamictl access rotate join --finish")
	})
}

func (x *accessApp) rotateRole(s *access.Store, role subjects.Role, out string) error {
	begun := s.RotateRole(role)
	if begun != nil && !errors.Is(begun, access.ErrBegun) {
		return begun
	}
	old, err := s.Outdated(role)
	if err != nil {
		return err
	}
	if begun != nil && len(old) == 0 { // else it goes on with those that are left
		return begunError(string(role), begun)
	}
	tokens, err := s.Of(time.Now(), func(e access.Entry) bool { return e.Role == role && e.Bearer })
	if err != nil {
		return err
	}
	views, err := x.renew(s, old, out)
	if err != nil {
		return err
	}
	return x.emit(rotatedView{Key: string(role), Issued: views}, func() {
		x.say("a new key issues role %s; the old one's identities stay good; next, in this order:", role)
		if len(views) > 0 {
			x.say("  bring the credentials of %d to their owners: %s", len(views), filepath.Join(filepath.Dir(views[0].File), "NAME.creds"))
		}
		if len(tokens) > 0 {
			x.say("  issue the tokens for HTTP anew, which end with the old key (%d): tsunamictl access token …", len(tokens))
		}
		x.say("  tsunamictl access rotate %s --finish", role)
	})
}

func (x *accessApp) rotateName(s *access.Store, name, out string) error {
	all, err := s.Of(time.Now(), func(e access.Entry) bool { return e.Name == name && !e.Bearer })
	if err != nil {
		return err
	}
	newest := map[subjects.Role]access.Entry{}
	for _, e := range all {
		if _, double := newest[e.Role]; double {
			return begunError(name, access.ErrBegun)
		}
		newest[e.Role] = e
	}
	switch {
	case len(all) == 0:
		return fmt.Errorf("%s: %w that is good now: 'tsunamictl access list' lists them", name, access.ErrNobody)
	case len(all) > 1:
		return &exitError{exitRefused, fmt.Errorf("refused: %s has %d roles: revoke the one with --role, and add it again", name, len(all))}
	}
	views, err := x.renew(s, all, out)
	if err != nil {
		return err
	}
	return x.emit(rotatedView{Key: name, Issued: views}, func() {
		if len(views) > 0 {
			x.say("%s has other credentials: %s; those before stay good; next, in this order:", name, views[0].File)
			x.say("  put the file in the place of the one before; an agent takes it by itself")
		} else {
			x.say("%s has other credentials, in %s; those before stay good; next:", name, s.ServerDir())
		}
		x.say("  tsunamictl access rotate %s --finish", name)
	})
}

// renew issues identities anew. Parts' credentials are where they belong
// already; the others' go to files.
func (x *accessApp) renew(s *access.Store, old []access.Entry, out string) ([]issuedView, error) {
	var wanted []access.Wanted
	for _, e := range old {
		if !access.IsPart(e) {
			wanted = append(wanted, access.Wanted{Name: e.Name})
		}
	}
	files, err := destinations(out, wanted)
	if err != nil {
		return nil, err
	}
	issued, err := s.Renew(old...)
	if err != nil {
		return nil, err
	}
	return x.keep(slices.DeleteFunc(issued, func(i access.Issued) bool { return access.IsPart(i.Entry) }), files)
}

func (x *accessApp) finishRole(s *access.Store, role subjects.Role, force bool) error {
	if err := s.FinishRole(role, force); err != nil {
		return begunError(string(role), err)
	}
	return x.emit(rotatedView{Key: string(role), Finished: true}, func() {
		x.say("the old key of role %s is gone, and every identity with it that it has issued", role)
	})
}

func (x *accessApp) finishName(s *access.Store, name string) error {
	ended, err := s.FinishName(name)
	if err != nil {
		return begunError(name, err)
	}
	return x.emit(rotatedView{Key: name, Finished: true}, func() {
		for _, e := range ended {
			x.say("%s (%s): the credentials before the newest are revoked, key %s", e.Name, e.Role, e.Key)
		}
	})
}
