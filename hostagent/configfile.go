package hostagent

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// ParseConfig reads the YAML (or JSON) of an agent's file; file is what errors
// call it. It is strict, as [LoadConfig] says. A plain scalar is taken as it
// is written, so the label `rack: 012` is the text 012.
func ParseConfig(file string, data []byte) (Config, error) {
	if len(data) > maxConfig {
		return Config{}, fmt.Errorf("%s: more than %d bytes", file, maxConfig)
	}
	if err := shallow(data); err != nil {
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil && e.GetToken().Position != nil {
			return Config{}, fmt.Errorf("%s:%d: %s", file, e.GetToken().Position.Line, e.GetMessage())
		}
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	r := &configReader{file: file, lines: make(map[string]int)}
	var c Config
	seen := false
	for _, doc := range tree.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if _, ok := doc.Body.(*ast.CommentGroupNode); ok {
			continue
		}
		if seen {
			r.fault(doc.Body, "", "a second document: the file holds one")
			break
		}
		seen = true
		r.config(doc.Body, &c)
	}
	if len(r.faults) == 0 {
		for _, f := range c.faults() {
			r.faults = append(r.faults, fmt.Errorf("%s:%d: %w", file, r.line(f.Field), f))
		}
	}
	if len(r.faults) > 0 {
		return Config{}, errors.Join(r.faults...)
	}
	return c, nil
}

// shallow refuses a file whose nesting could exhaust the parser's stack. An
// agent's file needs four levels.
func shallow(data []byte) error {
	const most = 1000
	if n := strings.Count(string(data), "[") + strings.Count(string(data), "{"); n > most {
		return fmt.Errorf("%d opening brackets: at most %d are allowed", n, most)
	}
	for number, line := range strings.Split(string(data), "\n") {
		// A run of "- - - -" or "? ? ?" nests as deep as it is long.
		if n := strings.Count(line, "- ") + strings.Count(line, "? "); n > most {
			return fmt.Errorf("line %d nests too deep", number+1)
		}
	}
	return nil
}

// configReader walks the syntax tree, so that every fault has its line.
type configReader struct {
	file   string
	lines  map[string]int // of the keys, by their path
	faults []error
}

func (r *configReader) fault(n ast.Node, field, format string, args ...any) {
	line := r.line(field)
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			line = t.Position.Line
		}
	}
	r.faults = append(r.faults, fmt.Errorf("%s:%d: %w", r.file, line, &rollout.FieldError{Field: orElse(field, "file"), Problem: fmt.Sprintf(format, args...)}))
}

// line finds where a field, or the nearest thing around it, stands.
func (r *configReader) line(field string) int {
	for {
		if l, ok := r.lines[field]; ok {
			return l
		}
		i := strings.LastIndexByte(field, '.')
		if i < 0 {
			return 1
		}
		field = field[:i]
	}
}

func (r *configReader) config(n ast.Node, c *Config) {
	var host, role string
	r.object(n, "", fields{
		{"server", text(&c.Server)},
		{"host", text(&host)},
		{"role", text(&role)},
		{"labels", func(r *configReader, n ast.Node, at string) {
			c.Labels = make(map[rollout.Word]rollout.Word)
			r.each(n, at, func(key string, n ast.Node, at string) {
				var v string
				text(&v)(r, n, at)
				c.Labels[rollout.Word(key)] = rollout.Word(v)
			})
		}},
		{"state", text(&c.State)},
		{"creds", text(&c.Creds)},
		{"trust", text(&c.Trust)},
		{"ca", text(&c.CA)},
		{"cert", text(&c.Cert)},
		{"key", text(&c.Key)},
		{"facts", text(&c.Facts)},
		{"env", text(&c.Env)},
		{"hold", text(&c.Hold)},
		{"enact", func(r *configReader, n ast.Node, at string) {
			c.Enact = make(map[rollout.Name]Enactor)
			r.each(n, at, func(key string, n ast.Node, at string) {
				c.Enact[rollout.Name(key)] = r.enactor(n, at)
			})
		}},
		{"checks", func(r *configReader, n ast.Node, at string) {
			c.Checks = make(map[rollout.ID]Check)
			r.each(n, at, func(key string, n ast.Node, at string) {
				c.Checks[rollout.ID(key)] = r.check(n, at)
			})
		}},
	})
	c.Host, c.Role = rollout.Host(host), rollout.Word(role)
}

func (r *configReader) enactor(n ast.Node, at string) (e Enactor) {
	r.object(n, at, fields{
		{"exec", list(&e.Exec)},
		{"observe", list(&e.Observe)},
		{"timeout", duration(&e.Timeout)},
		{"retry", func(r *configReader, n ast.Node, at string) {
			r.object(n, at, fields{
				{"first", duration(&e.Retry.First)},
				{"max", duration(&e.Retry.Max)},
				{"attempts", count(&e.Retry.Attempts)},
			})
		}},
		{"drift", func(r *configReader, n ast.Node, at string) {
			var s string
			text(&s)(r, n, at)
			e.Drift = Drift(s)
		}},
	})
	return e
}

func (r *configReader) check(n ast.Node, at string) (c Check) {
	r.object(n, at, fields{
		{"exec", list(&c.Exec)},
		{"http", text(&c.HTTP)},
		{"tcp", text(&c.TCP)},
		{"systemd", text(&c.Systemd)},
		{"exporter", func(r *configReader, n ast.Node, at string) { c.Exporter = r.exporter(n, at) }},
		{"every", duration(&c.Every)},
		{"timeout", duration(&c.Timeout)},
		{"for", orZero(&c.For)},
	})
	return c
}

func (r *configReader) exporter(n ast.Node, at string) *Exporter {
	var e Exporter
	var success string
	r.object(n, at, fields{
		{"from", text(&e.From)},
		{"metric", text(&e.Metric)},
		{"labels", func(r *configReader, n ast.Node, at string) {
			e.Labels = make(map[string]string)
			r.each(n, at, func(key string, n ast.Node, at string) {
				var v string
				text(&v)(r, n, at)
				e.Labels[key] = v
			})
		}},
		{"success", text(&success)},
		{"rate", truth(&e.Rate)},
	})
	e.Success = slo.Condition(success)
	return &e
}

type reader func(r *configReader, n ast.Node, at string)

// fields are the keys that an object may have.
type fields []struct {
	name string
	read reader
}

// object reads a mapping with known keys.
func (r *configReader) object(n ast.Node, at string, known fields) {
	r.each(n, at, func(key string, n ast.Node, at string) {
		names := make([]string, len(known))
		for i, f := range known {
			if f.name == key {
				f.read(r, n, at)
				return
			}
			names[i] = f.name
		}
		r.fault(n, at, "isn't a key here: known are %s", strings.Join(names, ", "))
	})
}

// each reads a mapping's pairs. The parser has refused a key that comes twice.
func (r *configReader) each(n ast.Node, at string, pair func(key string, value ast.Node, at string)) {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		r.fault(n, at, "want a mapping of keys to values")
		return
	}
	for _, p := range pairs {
		key, ok := scalar(p.Key)
		if !ok {
			r.fault(p, at, "a key must be plain text")
			continue
		}
		path := key
		if at != "" {
			path = at + "." + key
		}
		line := 1
		if t := p.Key.GetToken(); t != nil && t.Position != nil {
			line = t.Position.Line
		}
		r.lines[path] = line
		pair(key, p.Value, path)
	}
}

// scalar gives a scalar's text as it is written.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", false
		}
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func text(to *string) reader {
	return func(r *configReader, n ast.Node, at string) {
		s, ok := scalar(n)
		if !ok || s == "" {
			r.fault(n, at, "want a text")
			return
		}
		*to = s
	}
}

func list(to *[]string) reader {
	return func(r *configReader, n ast.Node, at string) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok || len(seq.Values) == 0 {
			r.fault(n, at, "want a list: the program and its arguments, such as [docker, info]")
			return
		}
		for i, v := range seq.Values {
			s, ok := scalar(v)
			if !ok {
				r.fault(v, at+"["+strconv.Itoa(i)+"]", "want a text")
				return
			}
			*to = append(*to, s)
		}
	}
}

// duration reads one that must be above 0; left out, it gets its default.
func duration(to *rollout.Duration) reader {
	return func(r *configReader, n ast.Node, at string) {
		orZero(to)(r, n, at)
		if s, ok := scalar(n); ok && *to == 0 {
			if _, err := rollout.ParseDuration(s); err == nil {
				r.fault(n, at, "must be above 0")
			}
		}
	}
}

func orZero(to *rollout.Duration) reader {
	return func(r *configReader, n ast.Node, at string) {
		s, ok := scalar(n)
		if !ok {
			r.fault(n, at, "want a duration such as 90s, 36h or 2w")
			return
		}
		d, err := rollout.ParseDuration(s)
		if err != nil {
			r.fault(n, at, "%v", err)
			return
		}
		*to = d
	}
}

func count(to *int) reader {
	return func(r *configReader, n ast.Node, at string) {
		s, _ := scalar(n)
		i, err := strconv.Atoi(s)
		if err != nil || i < 1 {
			r.fault(n, at, "want a whole number of at least 1")
			return
		}
		*to = i
	}
}

func truth(to *bool) reader {
	return func(r *configReader, n ast.Node, at string) {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			r.fault(n, at, "want true or false")
			return
		}
		*to = b.Value
	}
}
