package rollout

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Variable says which values a variable can take. It is the document that an
// operator applies and, with Value, the record that the scheduler keeps.
type Variable struct {
	Name    Name     `json:"name"`
	Type    Type     `json:"type"`
	Allowed []Value  `json:"allowed,omitempty"` // if given, no other
	Pattern string   `json:"pattern,omitempty"` // strings: an RE2 expression that the whole value matches
	Min     *float64 `json:"min,omitempty"`     // integers and numbers, inclusive
	Max     *float64 `json:"max,omitempty"`     // integers and numbers, inclusive
	// Initial is what the fleet runs when the variable is created. Afterwards
	// rollouts move it.
	Initial Value `json:"initial,omitzero"`
	// Enact "file" means that being in the host's files is all there is to it:
	// a host that took the document has enacted it.
	Enact string `json:"enact,omitempty"`
	// Value is what the fleet's hosts are on by default: Initial, then the
	// value of the last rollout that completed with full coverage.
	Value Value `json:"value,omitzero"`
}

// Validate checks the document by itself. Its errors are *FieldError, joined.
func (v *Variable) Validate() error {
	var errs []error
	add := func(path, format string, args ...any) {
		errs = append(errs, field.Errorf(path, format, args...))
	}
	if _, err := ParseName(string(v.Name)); err != nil {
		add("name", "%v", err)
	}
	numeric := v.Type == Integer || v.Type == Number
	switch v.Type {
	case String, Integer, Number, Boolean:
	case "":
		add("type", "is missing: want string, integer, number or boolean")
		return errors.Join(errs...)
	default:
		add("type", "%q isn't a type: want string, integer, number or boolean", v.Type)
		return errors.Join(errs...)
	}
	for i, a := range v.Allowed {
		if err := v.checkType(a); err != nil {
			add(fmt.Sprintf("allowed[%d]", i), "%v", err)
		}
	}
	if v.Pattern != "" && v.Type != String {
		add("pattern", "only a string variable takes a pattern; this one is %s", article(v.Type))
	} else if _, err := regexp.Compile(v.Pattern); err != nil {
		add("pattern", "%v", err)
	}
	if (v.Min != nil || v.Max != nil) && !numeric {
		add("min", "only an integer or number takes min and max; this one is %s", article(v.Type))
	}
	if v.Min != nil && v.Max != nil && *v.Min > *v.Max {
		add("min", "%v is over max %v", *v.Min, *v.Max)
	}
	if v.Enact != "" && v.Enact != "file" {
		add("enact", "%q isn't allowed: want file, or nothing", v.Enact)
	}
	if len(errs) == 0 && !v.Initial.IsZero() {
		if err := v.Accept(v.Initial); err != nil {
			add("initial", "%v", err)
		}
	}
	return errors.Join(errs...)
}

// Accept says whether the variable can take the value, and if not, why and
// what it can take.
func (v *Variable) Accept(w Value) error {
	if err := v.checkType(w); err != nil {
		return err
	}
	if len(v.Allowed) > 0 && !slices.ContainsFunc(v.Allowed, w.Matches) {
		all := make([]string, len(v.Allowed))
		for i, a := range v.Allowed {
			all[i] = a.Text()
		}
		return fmt.Errorf("%s doesn't allow %q: allowed are %s", v.Name, w.Text(), strings.Join(all, ", "))
	}
	if v.Pattern != "" {
		re, err := regexp.Compile(`^(?:` + v.Pattern + `)$`)
		if err != nil {
			return fmt.Errorf("pattern of %s: %w", v.Name, err)
		}
		if !re.MatchString(w.Text()) {
			return fmt.Errorf("%s doesn't allow %q: it must match %s", v.Name, w.Text(), v.Pattern)
		}
	}
	if v.Min != nil || v.Max != nil {
		f := w.float()
		if v.Min != nil && f < *v.Min {
			return fmt.Errorf("%s doesn't allow %s: the least is %v", v.Name, w.Text(), *v.Min)
		}
		if v.Max != nil && f > *v.Max {
			return fmt.Errorf("%s doesn't allow %s: the most is %v", v.Name, w.Text(), *v.Max)
		}
	}
	return nil
}

func (v *Variable) checkType(w Value) error {
	switch {
	case w.IsZero():
		return errors.New("no value")
	case w.kind == v.Type, w.kind == Integer && v.Type == Number:
		return nil
	case v.Type == String:
		return fmt.Errorf("%s is a string and %s is %s: put it in quotes", v.Name, w.Text(), article(w.kind))
	default:
		return fmt.Errorf("%s is %s and %q is %s", v.Name, article(v.Type), field.Shorten(w.Text()), article(w.kind))
	}
}
