package rollout

import (
	"slices"
	"strconv"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Selection is whom a rollout's document selects, compiled, and into which unit
// of targets each of them falls. A rollback selects by what hosts were told,
// which a Selection doesn't know: that of a rollback selects every host, in the
// group of its role.
type Selection struct {
	where   Where
	exclude []Host
	limits  []Where
}

// Selection compiles the document's expressions. Its error is a *FieldError.
func (s *Spec) Selection() (*Selection, error) {
	where, err := ParseWhere(s.Where)
	if err != nil {
		return nil, field.Errorf("where", "%v", err)
	}
	limits := make([]Where, len(s.Limits))
	for i, l := range s.Limits {
		if limits[i], err = ParseWhere(l.Where); err != nil {
			return nil, field.Errorf("limits["+strconv.Itoa(i)+"].where", "%v", err)
		}
	}
	return &Selection{where, s.Exclude, limits}, nil
}

// Group says in which group the host is, if it is selected: its role, or, where
// a limit cuts a part out of that, the role and the limit's number, as in
// "web/0". It is the key of [Record.Theta].
func (s *Selection) Group(h Host, role Word, labels map[Word]Word) (group string, ok bool) {
	if !s.selects(h, role, labels) {
		return "", false
	}
	return groupKey(role, s.limit(h, role, labels)), true
}

func (s *Selection) selects(h Host, role Word, labels map[Word]Word) bool {
	ok, err := s.where.Selects(h, role, labels)
	return ok && err == nil && !slices.Contains(s.exclude, h)
}

// limit is the index of the first limit that matches the host, or -1.
func (s *Selection) limit(h Host, role Word, labels map[Word]Word) int {
	return slices.IndexFunc(s.limits, func(w Where) bool {
		ok, err := w.Selects(h, role, labels)
		return ok && err == nil
	})
}

func groupKey(role Word, limit int) string {
	if limit < 0 {
		return string(role)
	}
	return string(role) + "/" + strconv.Itoa(limit)
}
