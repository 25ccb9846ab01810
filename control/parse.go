package control

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// MaxFile bounds what ParseDocuments reads, in bytes.
const MaxFile = 1 << 20

// maxFaults bounds how many faults one file is told of.
const maxFaults = 50

// Located is a document and where it stands.
type Located struct {
	Document
	File string

	root *node
	at   map[string]*node
}

// Position returns the line and the column, from 1, of a field given as a path
// such as limits[0].percent. Where the field isn't written down they are those
// of what it would stand in.
func (l Located) Position(field string) (line, column int) {
	for {
		if n := l.at[field]; n != nil {
			return n.at.line, n.at.column
		}
		i := strings.LastIndexAny(field, ".[")
		if i < 0 {
			break
		}
		field = field[:i]
	}
	if l.root == nil {
		return 1, 1
	}
	return l.root.at.line, l.root.at.column
}

// Line returns the line of a field, as Position does.
func (l Located) Line(field string) int {
	line, _ := l.Position(field)
	return line
}

// Locate gives a fault that the service found the place where it stands:
// file:line:column: field: problem. Where a value was written without quotes
// and read as something else than its text, it says so.
func (l Located) Locate(f Fault) error {
	line, column := l.Position(f.Field)
	return &LocatedError{File: l.File, Line: line, Column: column, Field: f.Field, Problem: f.Problem + l.unquoted(f)}
}

// unquoted adds to "put it in quotes" how it then has to look: 1.10 is the
// number 1.1 by the time that anybody knows that text was meant.
func (l Located) unquoted(f Fault) string {
	n := l.at[f.Field]
	if n == nil || !n.scalar() || n.kind == isText || !strings.Contains(f.Problem, "quotes") || strings.Contains(f.Problem, strconv.Quote(n.text)) {
		return ""
	}
	return fmt.Sprintf(" (it is written %s: write %q)", shorten(n.text, 60), shorten(n.text, 60))
}

// LocatedError is a fault in a file.
type LocatedError struct {
	File    string
	Line    int // from 1
	Column  int // from 1
	Field   string
	Problem string
}

// Error gives file:line:column: field: problem.
func (e *LocatedError) Error() string {
	at := fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Field == "" {
		return at + e.Problem
	}
	return at + e.Field + ": " + e.Problem
}

// ParseDocuments reads the documents of a file, whose name is only for errors:
// YAML or JSON, many to a file, also as one list, such as `tsunamictl get -o
// json` prints. It checks all that can be known without the service, and its
// errors are *LocatedError, joined, those of all documents; where there are
// some, no document is returned. An empty file has no documents.
func ParseDocuments(name string, data []byte) ([]Located, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s: the file has %d bytes: at most %d are read; split it", name, len(data), MaxFile)
	}
	nodes, bad := parseNodes(data)
	if bad != nil {
		return nil, located(name, *bad)
	}
	var out []Located
	var faults []fault
	types := make(map[rollout.Name]rollout.Type)
	for _, n := range flatten(nodes) {
		l, bad := parseDocument(n, types)
		l.File = name
		out, faults = append(out, l), append(faults, bad...)
	}
	faults = append(faults, twice(out)...)
	if len(faults) == 0 {
		return out, nil
	}
	slices.SortStableFunc(faults, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.column, b.at.column))
	})
	errs := make([]error, 0, min(len(faults), maxFaults+1))
	for i, f := range faults {
		if i == maxFaults {
			errs = append(errs, located(name, fault{at: f.at, problem: fmt.Sprintf("and %d more faults from here on", len(faults)-i)}))
			break
		}
		errs = append(errs, located(name, f))
	}
	return nil, errors.Join(errs...)
}

func located(file string, f fault) error {
	return &LocatedError{File: file, Line: f.at.line, Column: f.at.column, Field: f.field, Problem: f.problem}
}

// flatten takes lists of documents apart.
func flatten(nodes []*node) []*node {
	var out []*node
	for _, n := range nodes {
		if n.kind == isSequence {
			out = append(out, n.items...)
		} else {
			out = append(out, n)
		}
	}
	return out
}

func parseDocument(n *node, types map[rollout.Name]rollout.Type) (Located, []fault) {
	l := Located{root: n, at: make(map[string]*node)}
	whole := func(at position, field, format string, args ...any) (Located, []fault) {
		return l, []fault{{at, field, fmt.Sprintf(format, args...)}}
	}
	if n.kind != isMapping {
		return whole(n.at, "", "a document is a mapping that starts with kind: %s, and this is %s", Kinds(), describe(n))
	}
	k, ok := n.get("kind")
	switch {
	case !ok:
		return whole(n.at, "kind", "is missing: want %s", Kinds())
	case k.value.kind != isText || !slices.Contains(kinds, k.value.text):
		if near := nearest(k.value.text, kinds); near != "" {
			return whole(k.value.at, "kind", "%q isn't a kind: did you mean %s?", shorten(k.value.text, 60), near)
		}
		return whole(k.value.at, "kind", "%q isn't a kind: want %s", shorten(k.value.text, 60), Kinds())
	}
	d := &decoder{at: l.at}
	l.Document, _ = blank(k.value.text)
	switch {
	case l.Variable != nil:
		d.decode(n, "", reflect.ValueOf(l.Variable).Elem(), "kind")
		types[l.Variable.Name] = l.Variable.Type
		d.quotes(l.Variable.Type, "initial")
		for i := range l.Variable.Allowed {
			d.quotes(l.Variable.Type, fmt.Sprintf("allowed[%d]", i))
		}
	case l.Rollout != nil:
		d.decode(n, "", reflect.ValueOf(l.Rollout).Elem(), "kind")
		d.quotes(types[l.Rollout.Variable], "to")
	case l.Objective != nil:
		d.decode(n, "", reflect.ValueOf(l.Objective).Elem(), "kind")
	case l.Blackout != nil:
		d.decode(n, "", reflect.ValueOf(l.Blackout).Elem(), "kind")
	case l.Pin != nil:
		d.decode(n, "", reflect.ValueOf(l.Pin).Elem(), "kind")
		for name := range l.Pin.Values {
			d.quotes(types[name], "values."+string(name))
		}
	}
	d.at["kind"] = k.value
	return l, append(d.faults, d.validation(l, l.validate())...)
}

// quotes finds a value that a string variable can't take because it has no
// quotes, and shows it as it is written.
func (d *decoder) quotes(t rollout.Type, path string) {
	n := d.at[path]
	if t != rollout.String || n == nil || !n.scalar() || n.kind == isText {
		return
	}
	d.faults = slices.DeleteFunc(d.faults, func(f fault) bool { return f.field == path })
	d.fail(n, path, "%s is read as %s, and the variable is a string: put it in quotes: %q", shorten(n.text, 60), n.kind, shorten(n.text, 60))
}

// validation adds what the core's validation found, but for fields that have a
// fault already.
func (d *decoder) validation(l Located, err error) []fault {
	if err == nil {
		return nil
	}
	var out []fault
	for _, f := range AsError(err).Faults {
		if slices.ContainsFunc(d.faults, func(g fault) bool {
			return g.field == f.Field || strings.HasPrefix(g.field, f.Field+"[") || strings.HasPrefix(g.field, f.Field+".") || strings.HasPrefix(f.Field, g.field+".") && d.at[g.field] != nil
		}) {
			continue
		}
		if _, want, ok := strings.Cut(f.Problem, `name "" isn't allowed: `); ok {
			f.Problem = "is missing: " + want
		}
		line, column := l.Position(f.Field)
		out = append(out, fault{position{line, column}, f.Field, f.Problem + l.unquoted(f)})
	}
	return out
}

// twice finds documents of the same kind and name.
func twice(all []Located) []fault {
	type id struct{ kind, name string }
	seen := make(map[id]int)
	var out []fault
	for _, l := range all {
		if l.Name() == "" {
			continue
		}
		k := id{l.Kind(), l.Name()}
		if line, ok := seen[k]; ok {
			field := "name"
			if l.Pin != nil {
				field = "host"
			}
			out = append(out, fault{l.root.at, field, fmt.Sprintf("%s %s stands in line %d already", k.kind, k.name, line)})
			continue
		}
		seen[k] = l.root.at.line
	}
	return out
}
