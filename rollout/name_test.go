package rollout

import (
	"encoding/json"
	"strings"
	"testing"
)

// hostile is what no kind of name allows.
var hostile = []string{
	"", ">", "*", ".", "..", "a..b", ".a", "a.", "A", "wEb1", "a b", " a", "a ", "a\n", "\na", "a\x00b", "a/b", "../a", `a\b`, "a>b", "*.lon2", "a.>",
	"-a", "a-", "_a", "a_", "ä", "аdmin" /* Cyrillic */, "a\u200bb", "名", "\xff", "a,b", "$JS", "a:b", "a@b", "a+b", "a%00", "a'b", strings.Repeat("a", 300), strings.Repeat("a.", 130) + "a",
}

func TestNames(t *testing.T) {
	kinds := []struct {
		kind  string
		parse func(string) error
		good  []string
		bad   []string // beside the hostile ones
	}{
		{"host", func(s string) error { _, err := ParseHost(s); return err },
			[]string{"a", "0", "web1", "web1.lon2.example.net", "x--y", "1.2.3.4", strings.Repeat("a", 63), strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 61)},
			[]string{strings.Repeat("a", 64), strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 62), "a_b", "a.-b", "a-.b"}},
		{"variable", func(s string) error { _, err := ParseName(s); return err },
			[]string{"a", "docker_version", "a_", "a0", strings.Repeat("a", 63)},
			[]string{strings.Repeat("a", 64), "0a", "a-b", "a.b"}},
		{"rollout", func(s string) error { _, err := ParseID("rollout", s); return err },
			[]string{"a", "0", "docker-1-12-3", "x--y", strings.Repeat("a", 63)},
			[]string{strings.Repeat("a", 64), "a.b", "a_b"}},
		{"role", func(s string) error { _, err := ParseWord("role", s); return err },
			[]string{"a", "0", "lon2-a", "a_b", "a.b", strings.Repeat("a", 63)},
			[]string{strings.Repeat("a", 64), "a.b-"}},
	}
	// What some kinds allow: a_ is a variable, a..b a word.
	allowed := map[string][]string{"variable": {"a_"}, "role": {"a..b"}}
	for _, k := range kinds {
		for _, s := range k.good {
			if err := k.parse(s); err != nil {
				t.Errorf("%s %q: %v", k.kind, s, err)
			}
		}
		for _, s := range append(k.bad, hostile...) {
			if strings.Contains(strings.Join(allowed[k.kind], " "), s) && s != "" && s != "." && s != ".." {
				continue
			}
			err := k.parse(s)
			if err == nil {
				t.Errorf("%s %q is allowed", k.kind, s)
				continue
			}
			if !strings.Contains(err.Error(), "want") || len(err.Error()) > 600 {
				t.Errorf("%s %.40q: the error doesn't say what is allowed: %v", k.kind, s, err)
			}
		}
	}
}

func TestNamesAreCheckedWhereTheyAreDecoded(t *testing.T) {
	for _, s := range hostile {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var h Host
		if json.Unmarshal(b, &h) == nil {
			t.Errorf("host %q was decoded as %q", s, h)
		}
		var doc Document
		if json.Unmarshal([]byte(`{`+string(b)+`:1}`), &doc) == nil && s != "a_" {
			t.Errorf("document with the variable %q was decoded as %v", s, doc)
		}
		var id ID
		if json.Unmarshal(b, &id) == nil && s != "" {
			t.Errorf("id %q was decoded as %q", s, id)
		}
		var w Word
		if json.Unmarshal(b, &w) == nil && s != "a..b" {
			t.Errorf("word %q was decoded as %q", s, w)
		}
	}
}
