package control

import (
	"errors"
	"strings"
	"testing"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

type settings struct {
	Every rollout.Duration `json:"every"`
	Names []string         `json:"names,omitempty"`
	Each  []setting        `json:"each,omitempty"`
}

type setting struct {
	Name  rollout.ID `json:"name"`
	Count int        `json:"count,omitempty"`
}

func TestDecodeSettings(t *testing.T) {
	for _, text := range []string{
		"every: 5m\nnames: [a, b]\neach:\n  - {name: x, count: 3}\n",
		`{"every": "5m", "names": ["a", "b"], "each": [{"name": "x", "count": 3}]}`,
	} {
		var s settings
		if err := DecodeSettings("f", []byte(text), &s, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if s.Every.String() != "5m" || len(s.Names) != 2 || len(s.Each) != 1 || s.Each[0] != (setting{"x", 3}) {
			t.Errorf("got %+v", s)
		}
	}
	valid := func() error {
		return errors.Join(&rollout.FieldError{Field: "each[1].count", Problem: "is too many"}, &rollout.FieldError{Field: "every", Problem: "is missing"})
	}
	for _, c := range []struct{ text, want string }{
		{"names: [a]\neach:\n  - {name: x}\n  - {name: y,\n     count: 3}\n", "f:1:1: every: is missing\nf:5:13: each[1].count: is too many"},
		{"every: 5m\neech: []\n", "f:2:1: eech: there is no such field: did you mean each?"},
		{"each: [{name: x, cont: 3}]\n", "f:1:18: each[0].cont: there is no such field: did you mean count?"},
		{"each: {name: x}\n", "each: is a mapping: want a list"},
		{"- every: 5m\n", "is a list: want a mapping with the fields every, names, each"},
		{"every: 5m\n---\nevery: 6m\n", "f:3:1: a second document"},
		{"# nothing\n", "f:1:1: the file is empty"},
		{"every: [\n", "isn't YAML"},
		{strings.Repeat("#", MaxFile+1), "at most 1048576 are read"},
	} {
		var s settings
		if err := DecodeSettings("f", []byte(c.text), &s, valid); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got %v\nwant %s", c.text, err, c.want)
		}
	}
}
