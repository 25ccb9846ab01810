package control

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// DecodeSettings reads a file of settings, YAML or JSON, into the struct that v
// points to, as strictly as documents are read: an unknown field is an error
// with its place. Then it asks valid, whose errors are *rollout.FieldError,
// joined, and gives them theirs. The name is only for errors, which are
// *LocatedError, joined.
func DecodeSettings(name string, data []byte, v any, valid func() error) error {
	if len(data) > MaxFile {
		return fmt.Errorf("%s: the file has %d bytes: at most %d are read", name, len(data), MaxFile)
	}
	nodes, bad := parseNodes(data)
	switch {
	case bad != nil:
		return located(name, *bad)
	case len(nodes) == 0:
		return located(name, fault{at: position{1, 1}, problem: "the file is empty"})
	case len(nodes) > 1:
		return located(name, fault{at: nodes[1].at, problem: "a second document: the file holds one"})
	}
	d := &decoder{at: make(map[string]*node)}
	d.decode(nodes[0], "", reflect.ValueOf(v).Elem())
	faults := d.faults
	if len(faults) == 0 {
		faults = d.validation(Located{root: nodes[0], at: d.at}, valid())
	}
	slices.SortStableFunc(faults, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.column, b.at.column))
	})
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = located(name, f)
	}
	return errors.Join(errs...)
}
