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

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Make documents true",
		Long: `Make documents true: variables are created or changed, rollouts are started.

All documents are checked before the first is written; a fault in one refuses
all. FILE is YAML or JSON with any number of documents, a directory (its *.yaml,
*.yml and *.json, by name), or - for the standard input. Applying the same
documents again changes nothing.`,
		Example: "  tsunamictl apply -f docker.yaml --dry-run",
		Args:    arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := a.read(files)
			if err != nil {
				return err
			}
			return a.apply(cmd.Context(), docs, dry)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "`FILE`, directory or - to read; may be given several times")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check, and say what would be done")
	return cmd
}

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

func (a *app) apply(ctx context.Context, docs []control.Located, dry bool) error {
	req := control.ApplyRequest{DryRun: dry}
	for _, d := range docs {
		req.Documents = append(req.Documents, d.Document)
	}
	var resp control.ApplyResponse
	if err := a.call(ctx, control.Apply, req, &resp); err != nil {
		return locate(docs, err)
	}
	return a.emit(resp, func() {
		for _, r := range resp.Results {
			action := r.Action
			if dry && action != "unchanged" {
				action = "would be " + action
			}
			line := fmt.Sprintf("%s %s %s", r.Kind, r.Name, action)
			if r.Note != "" {
				line += ": " + r.Note
			}
			a.say("%s", printable(line))
			if r.Kind == control.KindRollout && r.Action == "created" && !dry {
				a.say("  watch it: tsunamictl rollout watch %s", r.Name)
				a.say("  stop it at once: tsunamictl rollout abort %s --why …", r.Name)
			}
		}
		if dry {
			a.say("nothing was written (--dry-run)")
		}
	})
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

// kindOf reads a kind as people type it.
func kindOf(s string) (string, error) {
	switch strings.ToLower(s) {
	case "variable", "variables":
		return control.KindVariable, nil
	case "rollout", "rollouts":
		return control.KindRollout, nil
	}
	return "", usagef("%q isn't a kind: want variable or rollout", s)
}

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get KIND [NAME]", Short: "Show documents as they were applied",
		Long: `Show documents of a kind (variable or rollout) as they were applied. With
-o yaml or -o json the output is what apply reads.`,
		Example:   "  tsunamictl get variable -o yaml > variables.yaml",
		Args:      arguments("KIND [NAME]"),
		ValidArgs: []string{"variable", "rollout"},
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
			var resp control.GetResponse
			if err := a.call(cmd.Context(), control.Get, req, &resp); err != nil {
				return err
			}
			return a.emitDocuments(kind, req.Name != "", resp.Documents)
		},
	}
}

func checkName(kind, name string) error {
	var err error
	if kind == control.KindVariable {
		_, err = rollout.ParseName(name)
	} else {
		_, err = rollout.ParseID("rollout", name)
	}
	if err != nil {
		return &usageError{err}
	}
	return nil
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
		var t *table
		if kind == control.KindVariable {
			t = newTable("NAME", "TYPE", "INITIAL", "ALLOWS")
		} else {
			t = newTable("NAME", "VARIABLE", "TO", "OVER", "WHERE")
		}
		for _, d := range docs {
			switch {
			case d.Variable != nil:
				v := d.Variable
				t.row(v.Name, v.Type, valueText(v.Initial), allows(v))
			case d.Rollout != nil:
				r := d.Rollout
				t.row(r.Name, r.Variable, valueText(r.To), r.Ramp.Over, r.Where)
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
		Use: "delete KIND NAME", Short: "Delete a variable that no host carries",
		Args:      arguments("KIND NAME"),
		ValidArgs: []string{"variable"},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if err := checkName(kind, args[1]); err != nil {
				return err
			}
			var resp control.DeleteResponse
			if err := a.call(cmd.Context(), control.Delete, control.DeleteRequest{Kind: kind, Name: args[1]}, &resp); err != nil {
				return err
			}
			return a.emit(resp, func() {
				a.say("%s %s deleted; its history stays in the audit log", resp.Kind, resp.Name)
			})
		},
	}
}
