package rollout

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"
)

// Where is a compiled selection of hosts: an expression over role, labels and
// host that yields true or false. The zero Where selects every host.
type Where struct{ program *vm.Program }

// Bounds of an expression, so that a hostile one costs each host little: bytes
// of its source, its nodes, and what evaluating it may allocate, in elements.
const (
	maxWhere       = 4096
	maxNodes       = 500
	maxAllocations = 10_000
)

// loopFinder finds the predicates such as all and filter, which disabling the
// expression library's builtins leaves: nested ones cost without bound.
type loopFinder struct{ found string }

// Visit implements ast.Visitor.
func (l *loopFinder) Visit(node *ast.Node) {
	b, ok := (*node).(*ast.BuiltinNode)
	if !ok || l.found != "" {
		return
	}
	for _, a := range b.Arguments {
		if _, ok := a.(*ast.PredicateNode); ok {
			l.found = b.Name
		}
	}
}

type whereEnv struct {
	Role   string            `expr:"role"`
	Host   string            `expr:"host"`
	Labels map[string]string `expr:"labels"`
}

// ParseWhere compiles an expression such as
//
//	role != "database" && labels.zone in ["lon2-a", "lon2-b"]
//
// An empty one selects every host. A label that a host lacks is "". The error
// says where the expression is wrong.
func ParseWhere(source string) (Where, error) {
	if strings.TrimSpace(source) == "" {
		return Where{}, nil
	}
	if len(source) > maxWhere {
		return Where{}, fmt.Errorf("an expression of %d bytes: at most %d are allowed", len(source), maxWhere)
	}
	loops := &loopFinder{}
	p, err := expr.Compile(source, expr.Env(whereEnv{}), expr.AsBool(),
		expr.DisableAllBuiltins(), expr.EnableBuiltin("lower"), expr.EnableBuiltin("upper"), expr.EnableBuiltin("len"), expr.EnableBuiltin("split"), expr.EnableBuiltin("int"),
		expr.MaxNodes(maxNodes), expr.Patch(loops))
	if err != nil {
		first, rest, _ := strings.Cut(err.Error(), "\n")
		if rest != "" {
			rest = "\n" + rest
		}
		return Where{}, errors.New(first + rest)
	}
	if loops.found != "" {
		return Where{}, fmt.Errorf("%s() loops, and an expression over one host needs none: use in, matches, && and ||", loops.found)
	}
	return Where{p}, nil
}

// Selects says whether the expression holds for the host. It returns an error
// where the expression can't be evaluated for it; such a host isn't selected.
func (w Where) Selects(h Host, role Word, labels map[Word]Word) (bool, error) {
	if w.program == nil {
		return true, nil
	}
	env := whereEnv{Role: string(role), Host: string(h), Labels: make(map[string]string, len(labels))}
	for k, v := range labels {
		env.Labels[string(k)] = string(v)
	}
	machine := vm.VM{MemoryBudget: maxAllocations}
	out, err := machine.Run(w.program, env)
	if err != nil {
		return false, fmt.Errorf("where: host %s: %w", h, err)
	}
	return out.(bool), nil
}
