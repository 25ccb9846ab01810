package archtest

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

func TestThisModule(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "go.mod")); err != nil || !strings.Contains(string(b), "module "+Module+"\n") {
		t.Fatalf("%s isn't the root of %s: %v", root, Module, err)
	}
	violations, err := Check(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Error(v)
	}
}

// Each file of testdata is a small module, laid over base.txtar: its comment
// says, a line each, which violations must be seen, and no other.
func TestViolationsAreSeen(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal(err)
	}
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) < 2 {
		t.Fatalf("testdata: %v, %v", cases, err)
	}
	base := read(t, "testdata/base.txtar")
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			files := map[string][]byte{}
			seeded := read(t, name)
			for _, f := range slices.Concat(base.Files, seeded.Files) {
				files[f.Name] = f.Data
			}
			root := t.TempDir()
			for _, f := range slices.Sorted(maps.Keys(files)) {
				to := filepath.Join(root, filepath.FromSlash(f))
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					t.Fatal(err)
				}
				// A word in capitals stands for a forbidden one, which these
				// files can't hold either.
				data := strings.NewReplacer("HOMEDIR/", forbidden[1].word, "MODULEPROXY", forbidden[2].word).Replace(string(files[f]))
				if data, n := strings.CutPrefix(data, "// LINES\n"); n {
					write(t, to, data+strings.Repeat("// Another line.\n", maxTestLines))
					continue
				}
				write(t, to, data)
			}
			violations, err := Check(root)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range violations {
				got = append(got, strings.NewReplacer(forbidden[1].word, "HOMEDIR/", forbidden[2].word, "MODULEPROXY").Replace(v.String()))
			}
			var want []string
			for line := range strings.Lines(string(seeded.Comment)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					want = append(want, line)
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("violations seen:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
		})
	}
}

func read(t *testing.T, name string) *txtar.Archive {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return txtar.Parse(b)
}

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
