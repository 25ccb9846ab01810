package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of an input, so that a hostile one costs little.
const (
	maxDepth  = 20
	maxColumn = 2000 // of a token that nests: deep indentation is depth too
	maxNodes  = 200_000
	maxKeys   = 1000 // of one mapping
	// maxTokens bounds one document: the YAML parser's work grows with the
	// square of it.
	maxTokens = 10_000
)

// position is a place in a file, from 1.
type position struct{ line, column int }

// fault is an error at a place.
type fault struct {
	at      position
	field   string
	problem string
}

// nodeKind is what a node is. The scalars tell what YAML or JSON takes the
// text for.
type nodeKind string

const (
	isMapping  nodeKind = "a mapping"
	isSequence nodeKind = "a list"
	isText     nodeKind = "text"
	isInteger  nodeKind = "an integer"
	isNumber   nodeKind = "a number"
	isBoolean  nodeKind = "true or false"
	isNull     nodeKind = "nothing"
)

// node is a value as it stands in a file, YAML or JSON alike.
type node struct {
	kind  nodeKind
	at    position
	text  string // a scalar: text without its quotes, others as they are written
	keys  []key  // a mapping, in order
	items []*node
}

type key struct {
	name  string
	at    position
	value *node
}

func (n *node) scalar() bool {
	return n.kind != isMapping && n.kind != isSequence && n.kind != isNull
}

func (n *node) get(name string) (key, bool) {
	i := slices.IndexFunc(n.keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return key{}, false
	}
	return n.keys[i], true
}

// parseNodes reads all documents of a file. Empty ones are left out.
func parseNodes(data []byte) ([]*node, *fault) {
	if t := bytes.TrimLeft(data, " \t\r\n\ufeff"); len(t) > 0 && (t[0] == '{' || t[0] == '[') {
		if nodes, ok := parseJSON(data); ok {
			return nodes, nil
		}
	}
	return parseYAML(data)
}

// parseYAML keeps the library away from what could exhaust it, and turns its
// tree into nodes.
func parseYAML(data []byte) (nodes []*node, bad *fault) {
	// The scanner and the parser are other people's, and their input is
	// whatever is in a file: should they panic after all, it is a fault of the
	// file.
	defer func() {
		if r := recover(); r != nil {
			nodes, bad = nil, &fault{at: position{1, 1}, problem: fmt.Sprintf("isn't YAML that can be read (%v)", r)}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if bad := precheck(tokens); bad != nil {
		return nil, bad
	}
	b := yamlBuilder{}
	for _, part := range split(tokens) {
		if len(part) > maxTokens {
			return nil, &fault{at: at(part[maxTokens]), problem: "the document has too many values: split it"}
		}
		file, err := parser.Parse(part, 0, parser.AllowDuplicateMapKey()) // which the nodes find, with words of their own
		if err != nil {
			return nil, yamlFault(err)
		}
		for _, d := range file.Docs {
			if d.Body == nil {
				continue
			}
			n := b.build(d.Body, 1)
			if b.bad != nil {
				return nil, b.bad
			}
			if n.kind != isNull {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes, nil
}

// split parts the tokens into documents. Left to itself, the parser loses the
// document after an empty one.
func split(tokens token.Tokens) []token.Tokens {
	var out []token.Tokens
	var part token.Tokens
	end := func() {
		if len(part) > 0 {
			part[len(part)-1].Next = nil
			out = append(out, part)
		}
		part = nil
	}
	for _, t := range tokens {
		switch t.Type {
		case token.DocumentHeaderType, token.DocumentEndType:
			end()
			continue
		case token.CommentType:
			continue
		}
		t.Prev, t.Next = nil, nil
		if n := len(part); n > 0 {
			t.Prev, part[n-1].Next = part[n-1], t
		}
		part = append(part, t)
	}
	end()
	return out
}

func yamlFault(err error) *fault {
	f := &fault{at: position{1, 1}, problem: err.Error()}
	var ye yaml.Error
	if errors.As(err, &ye) {
		f.problem = ye.GetMessage()
		if t := ye.GetToken(); t != nil {
			f.at = at(t)
		}
	}
	f.problem = "isn't YAML: " + shorten(f.problem, 300)
	return f
}

func at(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{1, 1}
	}
	return position{max(1, t.Position.Line), max(1, t.Position.Column)}
}

func precheck(tokens token.Tokens) *fault {
	if len(tokens) > maxNodes {
		return &fault{at: at(tokens[maxNodes]), problem: "the file has too many values"}
	}
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return &fault{at: at(t), problem: "anchors, aliases and merge keys aren't taken: write the value out, and put text that starts with & or * in quotes"}
		case token.DirectiveType:
			return &fault{at: at(t), problem: "directives aren't taken: leave it out"}
		case token.TagType:
			return &fault{at: at(t), problem: "tags aren't taken: put text that starts with ! in quotes"}
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.InvalidType:
			return &fault{at: at(t), problem: "isn't YAML: " + shorten(t.Error, 300)}
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			if at(t).column > maxColumn {
				return &fault{at: at(t), problem: "is indented too deep"}
			}
		}
		if depth > maxDepth {
			return &fault{at: at(t), problem: fmt.Sprintf("is nested deeper than %d", maxDepth)}
		}
	}
	return nil
}

type yamlBuilder struct {
	count int
	bad   *fault
}

func (b *yamlBuilder) fail(t *token.Token, problem string) *node {
	if b.bad == nil {
		b.bad = &fault{at: at(t), problem: problem}
	}
	return nil
}

func (b *yamlBuilder) build(n ast.Node, depth int) *node {
	b.count++
	switch {
	case b.bad != nil:
		return nil
	case depth > maxDepth:
		return b.fail(n.GetToken(), fmt.Sprintf("is nested deeper than %d", maxDepth))
	case b.count > maxNodes:
		return b.fail(n.GetToken(), "the file has too many values")
	}
	out := &node{at: at(n.GetToken())}
	scalar := func(k nodeKind) *node {
		out.kind, out.text = k, strings.TrimSpace(n.GetToken().Value)
		return out
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = isMapping
		for _, v := range n.Values {
			b.entry(out, v, depth)
		}
		if len(out.keys) > 0 && !n.IsFlowStyle {
			out.at = out.keys[0].at
		}
		return out
	case *ast.MappingValueNode:
		out.kind = isMapping
		b.entry(out, n, depth)
		if len(out.keys) > 0 {
			out.at = out.keys[0].at
		}
		return out
	case *ast.SequenceNode:
		out.kind = isSequence
		for _, v := range n.Values {
			if item := b.build(v, depth+1); item != nil {
				out.items = append(out.items, item)
			}
		}
		return out
	case *ast.StringNode:
		out.kind, out.text = isText, n.Value
		return out
	case *ast.LiteralNode:
		out.kind, out.text = isText, n.Value.Value
		return out
	case *ast.IntegerNode:
		return scalar(isInteger)
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar(isNumber)
	case *ast.BoolNode:
		return scalar(isBoolean)
	case *ast.NullNode:
		out.kind = isNull
		return out
	default:
		return b.fail(n.GetToken(), "isn't a mapping, a list or a scalar")
	}
}

func (b *yamlBuilder) entry(out *node, v *ast.MappingValueNode, depth int) {
	t := v.Key.GetToken()
	var name string
	switch k := v.Key.(type) {
	case *ast.StringNode:
		name = k.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		name = t.Value
	default:
		b.fail(t, "a field's name must be plain text")
		return
	}
	if len(out.keys) == maxKeys {
		b.fail(t, fmt.Sprintf("a mapping of more than %d fields", maxKeys))
		return
	}
	if _, ok := out.get(name); ok {
		b.fail(t, fmt.Sprintf("%s stands here twice", strconv.Quote(shorten(name, 60))))
		return
	}
	if value := b.build(v.Value, depth+1); value != nil {
		if value.kind == isNull || value.at.line == 0 {
			value.at = at(t)
		}
		out.keys = append(out.keys, key{name, at(t), value})
	}
}

// parseJSON reads JSON values, one after the other; ok is false where the
// input isn't JSON.
func parseJSON(data []byte) (nodes []*node, ok bool) {
	p := jsonParser{data: data, d: json.NewDecoder(bytes.NewReader(data))}
	p.d.UseNumber()
	for {
		n, err := p.value(1)
		if err == io.EOF {
			return nodes, true
		}
		if err != nil {
			return nil, false // YAML's parser has the better words for it
		}
		if n.kind != isNull {
			nodes = append(nodes, n)
		}
	}
}

type jsonParser struct {
	data  []byte
	d     *json.Decoder
	count int
	// Positions are asked for in order.
	offset, line, start int
}

var errNotJSON = errors.New("not JSON")

func (p *jsonParser) next() (json.Token, position, error) {
	from := int(p.d.InputOffset())
	t, err := p.d.Token()
	if err != nil {
		return nil, position{}, err
	}
	if p.count++; p.count > maxNodes {
		return nil, position{}, errNotJSON
	}
	for from < len(p.data) && strings.IndexByte(" \t\r\n,:", p.data[from]) >= 0 {
		from++
	}
	for ; p.offset < from; p.offset++ {
		if p.data[p.offset] == '\n' {
			p.line, p.start = p.line+1, p.offset+1
		}
	}
	return t, position{p.line + 1, from - p.start + 1}, nil
}

func (p *jsonParser) value(depth int) (*node, error) {
	t, at, err := p.next()
	if err != nil {
		return nil, err
	}
	return p.rest(t, at, depth)
}

func (p *jsonParser) rest(t json.Token, at position, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errNotJSON
	}
	n := &node{at: at}
	switch t := t.(type) {
	case json.Delim:
		n.kind = isMapping
		if t == '[' {
			n.kind = isSequence
		}
		for p.d.More() {
			t, at, err := p.next()
			if err != nil {
				return nil, errNotJSON
			}
			if n.kind == isSequence {
				item, err := p.rest(t, at, depth+1)
				if err != nil {
					return nil, errNotJSON
				}
				n.items = append(n.items, item)
				continue
			}
			name, _ := t.(string)
			value, err := p.value(depth + 1)
			if err != nil {
				return nil, errNotJSON
			}
			if _, twice := n.get(name); twice || len(n.keys) == maxKeys {
				return nil, errNotJSON
			}
			n.keys = append(n.keys, key{name, at, value})
		}
		if _, _, err := p.next(); err != nil { // the closing delimiter
			return nil, errNotJSON
		}
	case string:
		n.kind, n.text = isText, t
	case json.Number:
		n.kind, n.text = isInteger, t.String()
		if strings.ContainsAny(n.text, ".eE") {
			n.kind = isNumber
		}
	case bool:
		n.kind, n.text = isBoolean, fmt.Sprint(t)
	default:
		n.kind = isNull
	}
	return n, nil
}
