package archtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Violation is one place that departs from the architecture.
type Violation struct {
	Where string // file:line or a package, relative to the module's root
	What  string
}

func (v Violation) String() string { return v.Where + ": " + v.What }

// source is one Go file.
type source struct {
	name  string // relative to the root, with slashes
	pkg   string // relative to the module, "." for its root
	test  bool
	file  *ast.File
	lines int
}

type checker struct {
	root       string
	fset       *token.FileSet
	sources    []source
	violations []Violation
}

// Check reads the module at root and returns its violations, sorted. Its
// errors are of reading: a file that can't be read or parsed, or the go
// command.
func Check(root string) ([]Violation, error) {
	c := &checker{root: root, fset: token.NewFileSet()}
	if err := c.readFiles(); err != nil {
		return nil, fmt.Errorf("reading the module's files: %w", err)
	}
	for _, s := range c.sources {
		c.checkImports(s)
		c.checkCore(s)
		c.checkLength(s)
	}
	if err := c.checkLinked(); err != nil {
		return nil, fmt.Errorf("listing what the packages link: %w", err)
	}
	slices.SortFunc(c.violations, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.What, b.What))
	})
	return slices.Compact(c.violations), nil
}

func (c *checker) report(where, format string, args ...any) {
	c.violations = append(c.violations, Violation{where, fmt.Sprintf(format, args...)})
}

// readFiles checks every file's words, and parses the Go files of this module:
// a directory with a go.mod of its own is another's.
func (c *checker) readFiles() error {
	return filepath.WalkDir(c.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone since its directory was read
			}
			return err
		}
		rel, err := filepath.Rel(c.root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if slices.Contains(unread, rel) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		c.checkWords(rel, b)
		if !strings.HasSuffix(rel, ".go") || c.foreign(rel) {
			return nil
		}
		file, err := parser.ParseFile(c.fset, rel, b, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		c.sources = append(c.sources, source{
			name: rel, pkg: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"),
			file: file, lines: bytes.Count(b, []byte("\n")),
		})
		return nil
	})
}

// foreign says whether the file isn't part of the module's packages.
func (c *checker) foreign(rel string) bool {
	for dir := path.Dir(rel); dir != "."; dir = path.Dir(dir) {
		base := path.Base(dir)
		if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
			return true
		}
		if _, err := os.Stat(filepath.Join(c.root, filepath.FromSlash(dir), "go.mod")); err == nil {
			return true
		}
	}
	return false
}

// checkWords finds forbidden words in text files. A path counts only where it
// is absolute: x/root/y is another one.
func (c *checker) checkWords(rel string, b []byte) {
	if !utf8.Valid(b) {
		return
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		for _, f := range forbidden {
			if i := strings.Index(line, f.word); i >= 0 && (f.word[0] != '/' || absolute(line[:i])) {
				c.report(fmt.Sprintf("%s:%d", rel, n), "names %s: %s", f.word, f.why)
			}
		}
	}
}

func absolute(before string) bool {
	r, _ := utf8.DecodeLastRuneInString(before)
	return before == "" || strings.ContainsRune(" \t\"'`=:([{<>,;|&", r)
}

// below says whether pkg is base or lies below it.
func below(pkg, base string) bool { return pkg == base || strings.HasPrefix(pkg, base+"/") }

func belowAny(pkg string, bases []string) bool {
	return slices.ContainsFunc(bases, func(b string) bool { return below(pkg, b) })
}

func (c *checker) checkImports(s source) {
	if s.test {
		return
	}
	at := -1
	for i, r := range arrows {
		if below(s.pkg, r.pkg) && (at < 0 || len(r.pkg) > len(arrows[at].pkg)) {
			at = i
		}
	}
	if at < 0 {
		c.report(s.pkg, "has no place in the layout: give it a row in internal/archtest/rules.go")
		return
	}
	for _, spec := range s.file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has seen it
		}
		where := c.line(spec)
		if below(imported, natsServer) && !belowAny(s.pkg, servers) {
			c.report(where, "imports %s: only broker and tests may", imported)
		}
		if below(imported, "testing") && !belowAny(s.pkg, supports) {
			c.report(where, "imports %s: tests stay out of programs", imported)
		}
		if !below(imported, Module) {
			continue
		}
		own := strings.TrimPrefix(strings.TrimPrefix(imported, Module), "/")
		if !below(own, arrows[at].pkg) && !belowAny(own, arrows[at].may) {
			c.report(where, "%s may not import %s", s.pkg, own)
		}
	}
}

// checkCore holds a core to values: no clock, no chance, no I/O.
func (c *checker) checkCore(s source) {
	if s.test || !belowAny(s.pkg, cores) {
		return
	}
	timeName := ""
	for _, spec := range s.file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		where := c.line(spec)
		switch {
		case belowAny(imported, impure):
			c.report(where, "a core may not import %s", imported)
		case strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") && !below(imported, Module) && !below(imported, exprLang):
			c.report(where, "a core imports the standard library and %s only, not %s", exprLang, imported)
		case imported == "time":
			timeName = "time"
			if spec.Name != nil {
				timeName = spec.Name.Name
			}
			if timeName == "." {
				c.report(where, "a core may not import time as \".\": its clock could not be seen")
			}
		}
	}
	if timeName == "" {
		return
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains(clock, sel.Sel.Name) {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == timeName {
				c.report(c.line(sel), "a core may not use time.%s: now is an argument", sel.Sel.Name)
			}
		}
		return true
	})
}

func (c *checker) checkLength(s source) {
	most := maxLines
	if s.test {
		most = maxTestLines
	}
	if s.lines > most && longFiles[s.name] == "" {
		c.report(s.name, "has %d lines: past %d a reader looks for the two things inside", s.lines, most)
	}
}

func (c *checker) line(n ast.Node) string {
	p := c.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// checkLinked checks what a program or package pulls in behind its imports.
func (c *checker) checkLinked() error {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Deps", "./...")
	cmd.Dir = c.root
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go list: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	for d := json.NewDecoder(&stdout); ; {
		var p struct {
			ImportPath string
			Deps       []string
		}
		if err := d.Decode(&p); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		own := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, Module), "/")
		for _, w := range without {
			if own == w.pkg && slices.ContainsFunc(p.Deps, func(dep string) bool { return below(dep, w.dep) }) {
				c.report(own, "links %s: %s", w.dep, w.why)
			}
		}
		if !belowAny(own, cores) {
			continue
		}
		for _, dep := range p.Deps {
			if strings.Contains(strings.SplitN(dep, "/", 2)[0], ".") && !below(dep, Module) && !below(dep, exprLang) {
				c.report(own, "links %s: a core links the standard library and %s only", dep, exprLang)
			}
		}
	}
}
