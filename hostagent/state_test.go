package hostagent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func str(s string) rollout.Value {
	v, err := rollout.StringValue(s)
	if err != nil {
		panic(err)
	}
	return v
}

func parsed(t rollout.Type, s string) rollout.Value {
	v, err := rollout.ParseValue(t, s)
	if err != nil {
		panic(err)
	}
	return v
}

// change is what a scheduler tells: values, and the generation of each
// variable's order.
func change(generation uint64, id rollout.ID, values rollout.Document, told map[rollout.Name]uint64) *subjects.Change {
	c := &subjects.Change{
		Host: "h1", Rollout: id, Time: time.Unix(1_800_000_000, 0).UTC(), Reason: rollout.Reason{Code: rollout.ByRamp},
		Desired: rollout.Desired{Values: values, Generation: generation, Told: make(map[rollout.Name]rollout.Told)},
	}
	for name := range values {
		g, ok := told[name]
		if !ok {
			g = generation
		}
		c.Desired.Told[name] = rollout.Told{Rollout: id, Generation: g, Time: c.Time}
	}
	return c
}

func TestStateWith(t *testing.T) {
	s := &state{Format: stateFormat, Host: "h1"}
	s = s.with(change(3, "first", rollout.Document{"a": str("1"), "b": str("x")}, nil))
	if s.Generation != 3 || s.Orders["a"] != (order{Generation: 3, Rollout: "first"}) || s.fulfilled("a") {
		t.Fatalf("%+v", s)
	}
	s = s.withEnacted("a", enactedValue{str("1"), 3})
	if !s.fulfilled("a") || s.fulfilled("b") {
		t.Fatalf("%+v", s)
	}

	next := s.with(change(4, "second", rollout.Document{"a": str("2"), "b": str("x")}, map[rollout.Name]uint64{"b": 3}))
	if o := next.Orders["a"]; o != (order{Generation: 4, Rollout: "second", Previous: str("1")}) || next.fulfilled("a") {
		t.Errorf("a changed value: %+v", o)
	}
	if o := next.Orders["b"]; o.Generation != 3 {
		t.Errorf("an unchanged value: %+v", o)
	}
	if s.Generation != 3 || s.Values["a"] != str("1") {
		t.Error("the old state was changed")
	}

	// Told again, the same value is a new order.
	again := s.with(change(4, "third", rollout.Document{"a": str("1"), "b": str("x")}, map[rollout.Name]uint64{"b": 3}))
	if again.fulfilled("a") {
		t.Error("a new order for the same value counts as fulfilled")
	}
	// A record whose headers don't say who told a variable: what is unchanged
	// keeps its order.
	c := change(5, "fourth", rollout.Document{"a": str("1"), "b": str("y")}, nil)
	c.Desired.Told = nil
	bare := s.with(c)
	if !bare.fulfilled("a") || bare.Orders["b"].Generation != 5 {
		t.Errorf("%+v", bare)
	}
	// A variable that went is forgotten.
	gone := s.with(change(4, "", rollout.Document{"b": str("x")}, nil))
	if len(gone.Orders) != 1 || len(gone.Enacted) != 0 {
		t.Errorf("%+v", gone)
	}
	for _, st := range []*state{s, next, again, bare, gone} {
		b, err := st.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeState("h1", b)
		if err != nil {
			t.Fatalf("%v:\n%s", err, b)
		}
		if back.Generation != st.Generation || !sameValues(back.Values, st.Values) || !reflect.DeepEqual(back.Orders, st.Orders) {
			t.Errorf("read back %+v, want %+v", back, st)
		}
	}
}

func TestLoadState(t *testing.T) {
	good, err := (&state{Format: stateFormat, Host: "h1"}).with(change(7, "", rollout.Document{"a": str("1")}, nil)).encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, data, want string }{
		{"empty", "", "unexpected end"},
		{"cut", string(good[:len(good)/2]), "unexpected end"},
		{"zeros", strings.Repeat("\x00", 100), "invalid character"},
		{"more", string(good) + "x", "invalid character"},
		{"null", "null", "format 0"},
		{"later format", strings.Replace(string(good), `"format": 1`, `"format": 2`, 1), "format 2: want 1"},
		{"other host", strings.Replace(string(good), `"h1"`, `"h2"`, 1), `belongs to host "h2"`},
		{"no generation", strings.Replace(string(good), `"generation": 7`, `"generation": 0`, 1), "no generation"},
		{"negative", strings.Replace(string(good), `"generation": 7`, `"generation": -7`, 1), "cannot unmarshal"},
		{"order from the future", strings.Replace(string(good), `"generation": 7`, `"generation": 6`, 1), "isn't valid"},
		{"no orders", `{"format":1,"host":"h1","generation":7,"values":{"a":"1"}}`, "don't name the same"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, stateFile)
			if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := loadState(dir, "h1")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error %v, want one with %q and the path", err, tt.want)
			}
		})
	}
	if s, err := loadState(t.TempDir(), "h1"); err != nil || s.Generation != 0 {
		t.Errorf("a new host: %+v, %v", s, err)
	}
}

func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, s := range []string{"one", "two, which is longer", "3"} {
		if err := replaceFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != s {
			t.Fatalf("%q, %v", b, err)
		}
	}
	// What fails leaves the old file and nothing beside it.
	if err := os.MkdirAll(filepath.Join(dir, ".f.tmp", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, []byte("4"), 0o644); err == nil {
		t.Fatal("no error with a directory in the way")
	}
	if b, _ := os.ReadFile(path); string(b) != "3" {
		t.Fatalf("%q", b)
	}
	target := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(target, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(target, []byte("4"), 0o644); err == nil {
		t.Fatal("no error with a directory in the file's place")
	}
	if _, err := os.Stat(filepath.Join(dir, ".d.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
}

var awkward = rollout.Document{
	"plain":   str("1.12.3"),
	"empty":   str(""),
	"spaces":  str("  a  b "),
	"quotes":  str(`it's "so"`),
	"shell":   str("$HOME `id` $(id) ${x} \\ \\n !! # ; & | < > * ? ~ %h"),
	"slashes": str(`\\ \" \$ end\`),
	"unicode": str("Malmö – 東京"),
	"number":  parsed(rollout.Number, "2.5"),
	"yes":     parsed(rollout.Boolean, "true"),
	"count":   parsed(rollout.Integer, "-12"),
}

func TestEnvLinesInAShell(t *testing.T) {
	data, err := envLines(awkward)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "desired.env")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, v := range awkward {
		out, err := exec.Command("/bin/sh", "-c", `. "$1"; eval "printf %s. \"\$$2\""`, "sh", path, string(name)).CombinedOutput()
		if err != nil || string(out) != v.Text()+"." {
			t.Errorf("%s is %q in a shell, want %q (%v)", name, out, v.Text(), err)
		}
	}
}

// systemdValue reads a double-quoted value as systemd.exec(5) describes
// EnvironmentFile: a backslash keeps its meaning unless one of "\`$ follows.
func systemdValue(t *testing.T, s string) string {
	t.Helper()
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		t.Fatalf("%s isn't in double quotes", s)
	}
	var b strings.Builder
	s = s[1 : len(s)-1]
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			t.Fatalf("the quotes of %s end early", s)
		case s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\`$", s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func TestEnvLinesInSystemd(t *testing.T) {
	data, err := envLines(awkward)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) != len(awkward) {
		t.Fatalf("%d lines for %d variables", len(lines), len(awkward))
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		if got, want := systemdValue(t, value), awkward[rollout.Name(name)].Text(); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestOutlets(t *testing.T) {
	dir := t.TempDir()
	c := Config{State: dir, Facts: filepath.Join(dir, "facts.d", "tsunami.json"), Env: filepath.Join(dir, "run", "desired.env")}
	values := rollout.Document{"docker_version": str("1.12.3"), "a": parsed(rollout.Integer, "3")}
	for range 2 {
		if err := writeOutlets(c.outlets(), values); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(dir, desiredFile): `{"a":3,"docker_version":"1.12.3"}` + "\n",
		c.Facts:                         `{"a":3,"docker_version":"1.12.3"}` + "\n",
		c.Env:                           "a=\"3\"\ndocker_version=\"1.12.3\"\n",
	} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if b, err := flatJSON(nil); err != nil || string(b) != "{}\n" {
		t.Errorf("no document: %q, %v", b, err)
	}
}

func FuzzDecodeState(f *testing.F) {
	good, err := (&state{Format: stateFormat, Host: "h1"}).with(change(7, "r", rollout.Document{"a": str("1")}, nil)).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"host":"h1","generation":1,"values":{"a":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState("h1", data)
		if err != nil {
			return
		}
		b, err := s.encode()
		if err != nil {
			t.Fatalf("%+v was read and can't be written: %v", s, err)
		}
		if _, err := decodeState("h1", b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		for name := range s.Values {
			s.fulfilled(name)
		}
	})
}

func FuzzEnvLines(f *testing.F) {
	for _, v := range awkward {
		f.Add(v.Text())
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := rollout.StringValue(s)
		if err != nil {
			return
		}
		b, err := envLines(rollout.Document{"v": v})
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSuffix(string(b), "\n")
		if strings.Contains(line, "\n") {
			t.Fatalf("more than one line: %q", line)
		}
		if got := systemdValue(t, strings.TrimPrefix(line, "v=")); got != s {
			t.Fatalf("%q became %q", s, got)
		}
	})
}
