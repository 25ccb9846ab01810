package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/control"
)

func (a *app) verifyCommand() *cobra.Command {
	var trust string
	var from uint64
	cmd := &cobra.Command{
		Use: "verify", Short: "Whether the audit log is whole, and the scheduler's own",
		Long: `Whether the audit log is whole, and the scheduler's own. It reads the whole log
beside the bucket and checks every seal by the keys in a trust file, that no
record is missing, doubled, moved or another than the bucket has, and that each
host's generations grow by one. It ends with exit code 1 where anything is wrong.

Without --trust the file is $TSUNAMI_TRUST or, where that is there, trust.txt of
the directory of identities; without a file seals aren't checked. A record that
an admin wrote by hand bears no seal, and neither does one from before there
were identities: --from begins after them.`,
		Example: `  tsunamictl audit verify --trust /etc/tsunami/trust.txt
  tsunamictl audit verify --from 4711 -o json`,
		Args: arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notEmpty(cmd, "trust"); err != nil {
				return err
			}
			o := control.VerifyOptions{From: from}
			if file := trustFile(trust); file != "" {
				keys, err := access.LoadKeyring(file)
				if errors.Is(err, fs.ErrNotExist) {
					return usagef("--trust: there is no file %s: it is the trust.txt that 'tsunamictl access init' wrote", file)
				}
				if err != nil {
					return fmt.Errorf("--trust: %w", err)
				}
				o.Trust = keys
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
			v, err := c.Verify(ctx, o)
			if err != nil {
				return err
			}
			if err := a.emit(v, func() { a.verification(v) }); err != nil {
				return err
			}
			if v.FindingsTotal > 0 {
				return &exitError{exitFailed, fmt.Errorf("the audit log has %s", plural(int(v.FindingsTotal), "fault"))}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&trust, "trust", "", "the keys whose seals are good, a `file`")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin at this `sequence` in the log (default its beginning)")
	return cmd
}

// trustFile is where the pinned keys are; "" where nobody has any.
func trustFile(given string) string {
	if file := cmp.Or(given, os.Getenv("TSUNAMI_TRUST")); file != "" {
		return file
	}
	file := filepath.Join(accessDir(), "trust.txt")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return file
}

func (a *app) verification(v *control.Verification) {
	if v.FindingsTotal > 0 {
		t := newTable("SEQUENCE", "ORIGIN", "KIND", "WHAT", "PROBLEM").numbers("SEQUENCE", "ORIGIN")
		for _, f := range v.Findings {
			t.row(orNothing(f.Sequence), orNothing(f.Origin), f.Kind, f.Name, f.Problem)
		}
		t.print(a.out)
		if more := v.FindingsTotal - uint64(len(v.Findings)); more > 0 {
			a.say("and %d more", more)
		}
		a.say("")
	}
	a.say("read:     %s, from %d to %d", plural(int(v.Records), "record"), v.First, v.Last)
	a.say("compared: %s that the bucket still keeps", plural(int(v.Compared), "record"))
	a.say("followed: the generations of %s, and %s that says what it was written over", plural(v.Hosts, "host"), plural(int(v.Chained), "record"))
	if v.SealsChecked {
		a.say("seals:    %d good; %d need none (aborts, stops, joins)", v.Seals, v.NeedNone)
	} else {
		a.say("seals:    not checked: --trust FILE says whose are good")
	}
	if v.FindingsTotal == 0 {
		a.say("nothing is wrong with it")
	}
}

// orNothing leaves a table's cell empty where there is no number.
func orNothing(n uint64) any {
	if n == 0 {
		return ""
	}
	return n
}
