package scheduler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// difference lists the fields in which two documents differ, by path; with a
// nil document, all that the other one sets.
func difference(from, to any) ([]control.FieldChange, error) {
	a, err := generic(from)
	if err != nil {
		return nil, err
	}
	b, err := generic(to)
	if err != nil {
		return nil, err
	}
	return differences(nil, "", a, b)
}

// generic is the document's JSON, taken apart.
func generic(document any) (v any, err error) {
	if document == nil {
		return nil, nil
	}
	body, err := subjects.Encode(document)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return v, d.Decode(&v)
}

func differences(out []control.FieldChange, path string, a, b any) ([]control.FieldChange, error) {
	var err error
	each := func(name string, a, b any) {
		if err == nil {
			out, err = differences(out, path+name, a, b)
		}
	}
	x, xo := a.(map[string]any)
	y, yo := b.(map[string]any)
	if (xo || a == nil) && (yo || b == nil) && (xo || yo) {
		all := maps.Clone(x)
		if all == nil {
			all = map[string]any{}
		}
		maps.Copy(all, y)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			at := name
			if path != "" {
				at = "." + name
			}
			each(at, x[name], y[name])
		}
		return out, err
	}
	p, pl := a.([]any)
	q, ql := b.([]any)
	if (pl || a == nil) && (ql || b == nil) && (pl || ql) {
		for i := range max(len(p), len(q)) {
			each(fmt.Sprintf("[%d]", i), at(p, i), at(q, i))
		}
		return out, err
	}
	from, err := value(a)
	if err != nil {
		return nil, err
	}
	to, err := value(b)
	if err != nil || bytes.Equal(from, to) {
		return out, err
	}
	return append(out, control.FieldChange{Field: path, From: from, To: to}), nil
}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// value is the JSON of a scalar; nothing for nothing.
func value(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return subjects.Encode(v)
}

// sentence says what a change changes, in at most so many bytes as fit beside
// what a person says: "changed ramp.over from 2w to 1w".
func sentence(changes []control.FieldChange) string {
	if len(changes) == 0 {
		return ""
	}
	text := func(b json.RawMessage) string {
		var s string
		switch {
		case len(b) == 0:
			return "nothing"
		case json.Unmarshal(b, &s) == nil && s != "":
			return s
		}
		return string(b)
	}
	var b strings.Builder
	for i, c := range changes {
		part := fmt.Sprintf(", %s from %s to %s", c.Field, text(c.From), text(c.To))
		if i == 0 {
			part = "changed " + part[2:]
		}
		if b.Len()+len(part) > maxWhy {
			fmt.Fprintf(&b, " and %d more", len(changes)-i)
			break
		}
		b.WriteString(part)
	}
	return b.String()
}
