package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// read reads the documents of files and directories, and the faults of all.
func (a *app) read(names []string) ([]control.Located, error) {
	if len(names) == 0 {
		return nil, usagef("-f FILE is missing: the documents to read, or - for the standard input")
	}
	var docs []control.Located
	var errs []error
	for _, name := range names {
		more, err := a.readOne(name)
		docs = append(docs, more...)
		errs = append(errs, err)
	}
	seen := make(map[string]control.Located)
	for _, d := range docs {
		k := d.Kind() + " " + d.Name()
		if first, ok := seen[k]; ok && first.File != d.File {
			errs = append(errs, d.Locate(control.Fault{Field: "name", Problem: fmt.Sprintf("%s stands in %s:%d already", k, first.File, first.Line("name"))}))
		} else if !ok {
			seen[k] = d
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, usagef("no documents in %s", strings.Join(names, ", "))
	}
	return docs, nil
}

func (a *app) readOne(name string) ([]control.Located, error) {
	if name == "-" {
		b, err := readBounded(a.in)
		if err != nil {
			return nil, fmt.Errorf("read the standard input: %w", err)
		}
		return control.ParseDocuments("<stdin>", b)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return readFile(name)
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var docs []control.Located
	var errs []error
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		more, err := readFile(filepath.Join(name, e.Name()))
		docs, errs = append(docs, more...), append(errs, err)
	}
	return docs, errors.Join(errs...)
}

func readFile(name string) ([]control.Located, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	b, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return control.ParseDocuments(name, b)
}

// readBounded reads a little more than is allowed, which ParseDocuments then
// refuses in its own words.
func readBounded(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, control.MaxFile+1))
}

// locate brings the faults that the service found back to their lines.
func locate(docs []control.Located, err error) error {
	e, ok := errors.AsType[*control.Error](err)
	if !ok || len(e.Faults) == 0 {
		return err
	}
	var errs []error
	for _, f := range e.Faults {
		if f.Document < 0 || f.Document >= len(docs) {
			errs = append(errs, errors.New(f.String()))
			continue
		}
		errs = append(errs, docs[f.Document].Locate(f))
	}
	if e.Message != "" {
		errs = append(errs, errors.New(e.Message))
	}
	joined := errors.Join(errs...)
	if e.Code == control.Usage {
		return joined
	}
	return &exitError{exitCode(&control.Error{Code: e.Code}), joined}
}

// kinds are the kinds of documents, as people type them.
var kinds = []struct{ word, kind string }{
	{"variable", control.KindVariable}, {"rollout", control.KindRollout}, {"objective", control.KindObjective}, {"blackout", control.KindBlackout}, {"pin", control.KindPin},
}

// kindOf reads a kind as people type it.
func kindOf(s string) (string, error) {
	var words []string
	for _, k := range kinds {
		if lower := strings.ToLower(s); lower == k.word || lower == k.word+"s" {
			return k.kind, nil
		}
		words = append(words, k.word)
	}
	return "", usagef("%q isn't a kind: want %s", s, strings.Join(words, ", "))
}

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get KIND [NAME]", Short: "Show documents as they were applied",
		Long: `Show documents of a kind (variable, rollout, objective, blackout or pin) as they
were applied; a pin's name is its host. With -o yaml or -o json the output is what
apply reads.`,
		Example: `  tsunamictl get variable -o yaml > variables.yaml
  tsunamictl get blackout christmas -o yaml`,
		Args:      arguments("KIND [NAME]"),
		ValidArgs: []string{"variable", "rollout", "objective", "blackout", "pin"},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			req := control.GetRequest{Kind: kind}
			if len(args) > 1 {
				req.Name = args[1]
				if err := checkName(kind, req.Name); err != nil {
					return err
				}
			}
			resp := control.GetResponse{Documents: []control.Document{}}
			if err := a.call(cmd.Context(), control.Get, req, &resp); err != nil {
				return err
			}
			return a.emitDocuments(kind, req.Name != "", resp.Documents)
		},
	}
}

func checkName(kind, name string) (err error) {
	switch kind {
	case control.KindVariable:
		_, err = rollout.ParseName(name)
	case control.KindPin:
		_, err = rollout.ParseHost(name)
	default:
		_, err = rollout.ParseID(strings.ToLower(kind), name)
	}
	if err != nil {
		return &usageError{err}
	}
	return nil
}

var documentColumns = map[string][]string{
	control.KindVariable:  {"NAME", "TYPE", "INITIAL", "ALLOWS"},
	control.KindRollout:   {"NAME", "VARIABLE", "TO", "RAMP", "WHERE"},
	control.KindObjective: {"NAME", "BY", "AFTER A CHANGE", "STEADY"},
	control.KindBlackout:  {"NAME", "TIMES", "WHERE", "WHY"},
	control.KindPin:       {"HOST", "VALUES", "UNTIL", "WHY"},
}

func (a *app) emitDocuments(kind string, one bool, docs []control.Document) error {
	switch {
	case a.output == "yaml":
		for i, d := range docs {
			b, err := asYAML(d)
			if err != nil {
				return err
			}
			if i > 0 {
				fmt.Fprintln(a.out, "---")
			}
			fmt.Fprintf(a.out, "%s", b)
		}
		return nil
	case one && len(docs) == 1 && a.output == "json":
		return a.emit(docs[0], nil)
	}
	return a.emit(docs, func() {
		t := newTable(documentColumns[kind]...)
		for _, d := range docs {
			switch {
			case d.Variable != nil:
				v := d.Variable
				t.row(v.Name, v.Type, valueText(v.Initial), allows(v))
			case d.Rollout != nil:
				r := d.Rollout
				to := valueText(r.To)
				if r.Remove {
					to = "(removed)"
				}
				t.row(r.Name, r.Variable, to, rampText(r.Ramp), r.Where)
			case d.Objective != nil:
				o := d.Objective
				t.row(o.Name, o.Source(), withinText(o.WithinOfChange), steadyText(o.Steady))
			case d.Blackout != nil:
				t.row(d.Blackout.Name, blackoutTimes(d.Blackout), d.Blackout.Where, d.Blackout.Why)
			case d.Pin != nil:
				t.row(d.Pin.Host, pairs(d.Pin.Values), local(d.Pin.Until), d.Pin.Why)
			}
		}
		t.print(a.out)
	})
}

// allows says which values a variable takes.
func allows(v *rollout.Variable) string {
	var all []string
	if len(v.Allowed) > 0 {
		texts := make([]string, len(v.Allowed))
		for i, w := range v.Allowed {
			texts[i] = w.Text()
		}
		all = append(all, strings.Join(texts, ", "))
	}
	if v.Pattern != "" {
		all = append(all, "matching "+v.Pattern)
	}
	if v.Min != nil {
		all = append(all, fmt.Sprintf("at least %v", *v.Min))
	}
	if v.Max != nil {
		all = append(all, fmt.Sprintf("at most %v", *v.Max))
	}
	return strings.Join(all, "; ")
}

func (a *app) deleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete KIND NAME", Short: "Delete a variable that no host carries, an objective, a blackout, or a host's pin",
		Long: `Delete a variable that no host carries, an objective, a blackout, or all pins of a
host. Its history stays in the audit log. A variable that hosts carry is taken out of
their documents by 'tsunamictl rollout start VARIABLE --remove' first; a rollout is
ended by 'tsunamictl rollout cancel'.`,
		Example: `  tsunamictl delete variable old_flag
  tsunamictl delete objective docker-healthy
  tsunamictl delete blackout christmas
  tsunamictl delete pin web1.lon2.example.net`,
		Args:      arguments("KIND NAME"),
		ValidArgs: []string{"variable", "objective", "blackout", "pin"},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if kind == control.KindRollout {
				return usagef("a rollout can't be deleted, its id is never used again; to end it: tsunamictl rollout cancel %s", args[1])
			}
			return a.delete(cmd.Context(), kind, args[1])
		},
	}
}

func (a *app) delete(ctx context.Context, kind, name string) error {
	if err := checkName(kind, name); err != nil {
		return err
	}
	var resp control.DeleteResponse
	if err := a.call(ctx, control.Delete, control.DeleteRequest{Kind: kind, Name: name}, &resp); err != nil {
		return err
	}
	return a.emit(resp, func() {
		a.say("%s %s deleted; its history stays in the audit log", resp.Kind, resp.Name)
		switch kind {
		case control.KindObjective:
			a.say("  no rollout can name it any more")
		case control.KindBlackout:
			a.say("  what it held goes on from where it stood: tsunamictl rollout list")
		case control.KindPin:
			a.say("  the newest rollout that selects the host tells it what was pinned, else it keeps it")
		}
	})
}
