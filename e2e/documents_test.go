package e2e

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// written are the directories of complete examples, in the order in which they
// can be applied: each is one request.
var written = []string{"../docs/documents", "../docs/documents/later"}

// unwritten are the fields that no document of a person's has, and why.
var unwritten = map[string]string{
	"Variable.value":   "rollouts move it",
	"Pin.by":           "it is who applied the document",
	"Rollout.rollback": "only the rollback verb makes such a rollout",
}

// TestDocumentsAreComplete looks for every field of every kind among the
// examples, with a comment at one of its places at least.
func TestDocumentsAreComplete(t *testing.T) {
	t.Parallel()
	want := map[string]bool{} // whether it has a comment
	for _, d := range []control.Document{{Variable: new(rollout.Variable)}, {Rollout: new(rollout.Spec)}, {Objective: new(slo.Objective)}, {Blackout: new(rollout.Blackout)}, {Pin: new(rollout.Pin)}} {
		for _, field := range fieldsOf(reflect.TypeOf(content(d)).Elem(), d.Kind()) {
			want[field] = false
		}
	}
	for field, why := range unwritten {
		if _, ok := want[field]; !ok {
			t.Errorf("there is no field %s to leave out because %s", field, why)
		}
		delete(want, field)
	}
	seen := map[string]bool{}
	for _, file := range examples(t, written...) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents, err := control.ParseDocuments(file, data)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(data), "\n")
		for _, d := range documents {
			for _, f := range fieldsSet(reflect.ValueOf(content(d.Document)).Elem(), d.Kind(), "") {
				seen[f.name] = true
				want[f.name] = want[f.name] || explained(lines, f.path, d.Line(f.path))
			}
		}
	}
	for _, field := range slices.Sorted(maps.Keys(want)) {
		switch {
		case unwritten[field] != "":
			t.Errorf("an example has %s, but %s", field, unwritten[field])
		case !seen[field]:
			t.Errorf("no example has %s", field)
		case !want[field]:
			t.Errorf("no comment says what %s is", field)
		}
	}
}

// content is the document's own struct, by pointer.
func content(d control.Document) any {
	switch {
	case d.Variable != nil:
		return d.Variable
	case d.Rollout != nil:
		return d.Rollout
	case d.Objective != nil:
		return d.Objective
	case d.Blackout != nil:
		return d.Blackout
	}
	return d.Pin
}

// examples are the files of directories.
func examples(t *testing.T, dirs ...string) []string {
	t.Helper()
	var all []string
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", dir, files, err)
		}
		all = append(all, files...)
	}
	return all
}

// scalar says whether a document writes the type as one value.
func scalar(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) ||
		t.Kind() != reflect.Struct && t.Kind() != reflect.Slice && t.Kind() != reflect.Pointer
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldsOf are the names of all fields that hold no others, with those before
// them: Rollout.limits.percent. Rules are the same wherever they stand.
func fieldsOf(t reflect.Type, name string) []string {
	switch {
	case scalar(t):
		return []string{name}
	case t.Kind() != reflect.Struct:
		return fieldsOf(t.Elem(), name)
	case t == reflect.TypeFor[rollout.Rule]():
		name = "Rule"
	}
	var all []string
	for f := range t.Fields() {
		all = append(all, fieldsOf(f.Type, join(name, jsonName(f)))...)
	}
	return all
}

// field is one that a document has: its name as fieldsOf gives it, and its path
// there: limits[0].percent.
type field struct{ name, path string }

// fieldsSet are those of the fields that aren't zero.
func fieldsSet(v reflect.Value, name, path string) []field {
	t := v.Type()
	element := t
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		element = t.Elem()
	}
	var all []field
	switch {
	case v.IsZero():
	case scalar(element): // 0 is a value, where there is a pointer to it
		return []field{{name, path}}
	case t.Kind() == reflect.Pointer:
		return fieldsSet(v.Elem(), name, path)
	case t.Kind() == reflect.Slice:
		for i := range v.Len() {
			all = append(all, fieldsSet(v.Index(i), name, fmt.Sprintf("%s[%d]", path, i))...)
		}
	default:
		if t == reflect.TypeFor[rollout.Rule]() {
			name = "Rule"
		}
		for i := range v.NumField() {
			n := jsonName(t.Field(i))
			all = append(all, fieldsSet(v.Field(i), join(name, n), join(path, n))...)
		}
	}
	return all
}

// explained says whether the field, whose value is in a line, counted from 1,
// has a comment there or in the line above its name.
func explained(lines []string, path string, line int) bool {
	name := path[strings.LastIndex(path, ".")+1:] + ":"
	for line > 1 && !strings.Contains(lines[line-1], name) {
		line-- // its value begins below it
	}
	above := ""
	if line > 1 {
		above = strings.TrimPrefix(strings.TrimSpace(lines[line-2]), "- ")
	}
	return strings.Contains(lines[line-1], " # ") || strings.HasPrefix(above, "# ")
}

// TestDocumentsApply applies all examples, twice, and looks at what they did.
func TestDocumentsApply(t *testing.T) {
	s := newSite(t)
	s.tsunamid()
	pinned := map[string]rollout.Document{}
	for _, d := range parsed(t, examples(t, written...)) {
		if d.Pin != nil {
			s.agent(string(d.Pin.Host), "web", "")
			pinned[string(d.Pin.Host)] = d.Pin.Values
		}
	}
	s.present(len(pinned))
	for _, dir := range written {
		documents := parsed(t, examples(t, dir))
		s.applies(dir, len(documents), func(kind, name string) string {
			for _, d := range documents {
				if d.Pin != nil && d.Name() == name && kind == d.Kind() && !d.Pin.Until.IsZero() && d.Pin.Until.Before(time.Now()) {
					delete(pinned, name)
					return "unchanged" // the example has grown old
				}
			}
			return "created"
		})
		s.applies(dir, len(documents), func(string, string) string { return "unchanged" })
	}
	s.applies(written[0], len(parsed(t, examples(t, written[0]))), func(string, string) string { return "unchanged" })
	for host, values := range pinned {
		eventually(t, time.Minute, host+" is told what is pinned", func() (bool, string) {
			desired := s.host(host).Desired
			for name, value := range values {
				if desired[name] != value {
					return false, describe(t, desired)
				}
			}
			return true, ""
		})
	}
}

// TestShortExamplesApply applies those that deploy/ ships, twice.
func TestShortExamplesApply(t *testing.T) {
	s := newSite(t)
	s.tsunamid()
	const dir = "../deploy/examples"
	documents := parsed(t, examples(t, dir))
	for _, action := range []string{"created", "unchanged"} {
		s.applies(dir, len(documents), func(string, string) string { return action })
	}
}

// applies applies a directory of n documents and compares what became of each.
func (s *site) applies(dir string, n int, want func(kind, name string) string) {
	s.t.Helper()
	results := ask[control.ApplyResponse](s, "apply", "-f", dir).Results
	if len(results) != n {
		s.t.Fatalf("%s: %d results of %d documents", dir, len(results), n)
	}
	for _, r := range results {
		if want := want(r.Kind, r.Name); r.Action != want {
			s.t.Errorf("%s: %s %s is %s: %s, want %s; %s", dir, r.Kind, r.Name, r.Action, r.Note, want, describe(s.t, r.Changes))
		}
	}
}

// present waits until so many hosts are online.
func (s *site) present(n int) {
	s.t.Helper()
	eventually(s.t, time.Minute, "every host is online", func() (bool, string) {
		r := s.ctl("host", "list", "-o", "json")
		var list []control.HostView
		if r.code != 0 || json.Unmarshal([]byte(r.stdout), &list) != nil {
			return false, r.String()
		}
		online := 0
		for _, h := range list {
			if h.Online {
				online++
			}
		}
		return online == n, r.stdout
	})
}

func parsed(t *testing.T, files []string) []control.Located {
	t.Helper()
	var all []control.Located
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents, err := control.ParseDocuments(file, data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, documents...)
	}
	return all
}

func describe(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestObjectivesGuide reads what docs/objectives.md shows, as the programs would.
func TestObjectivesGuide(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/objectives.md")
	if err != nil {
		t.Fatal(err)
	}
	objectives, checks := 0, 0
	for block := range strings.SplitSeq(string(text), "\n\n") {
		if !strings.HasPrefix(block, "    ") {
			continue
		}
		block = strings.ReplaceAll(block[4:], "\n    ", "\n")
		switch {
		case strings.HasPrefix(block, "kind: Objective"):
			objectives++
			documents, err := control.ParseDocuments("objectives.md", []byte(block+"\n"))
			if err != nil || len(documents) != 1 {
				t.Errorf("%v in:\n%s", err, block)
				continue
			}
			if err := documents[0].Objective.Validate(); err != nil {
				t.Errorf("%v in:\n%s", err, block)
			}
		case strings.HasPrefix(block, "# agent.yaml"):
			checks++
			file := write(t, filepath.Join(t.TempDir(), "agent.yaml"), 0o644, "host: h1\nrole: web\n"+block+"\n")
			if _, err := hostagent.LoadConfig(file); err != nil {
				t.Errorf("%v in:\n%s", err, block)
			}
		}
	}
	if objectives != 5 || checks != 2 {
		t.Errorf("%d objectives and %d checks are found, want 5 and 2", objectives, checks)
	}
}
