package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commands are all that a person can type, but for what cobra brings along.
func commands() (all []*cobra.Command) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		all = append(all, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{out: new(bytes.Buffer), errs: new(bytes.Buffer)}).root())
	return all
}

// Every command that does something has an example, whose flags it knows and
// whose arguments it takes.
func TestEveryCommandHasAnExample(t *testing.T) {
	for _, c := range commands() {
		if c.HasSubCommands() {
			continue
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		examples := 0
		for line := range strings.Lines(c.Example) {
			for command := range strings.SplitSeq(line, "||") {
				_, command, ok := strings.Cut(command, "tsunamictl ")
				if !ok {
					t.Errorf("%s: %q isn't an example", c.CommandPath(), line)
					continue
				}
				examples++
				args := words(command)
				root := c.Root()
				found, rest, err := root.Find(args)
				if err != nil {
					t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
					continue
				}
				if !strings.Contains(c.Example, "diff") && found != c {
					t.Errorf("%s: %q is an example of %s", c.CommandPath(), line, found.CommandPath())
				}
				if err := found.ParseFlags(rest); err != nil {
					t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
				}
				if found.Args == nil {
					t.Errorf("%s doesn't say what arguments it takes", c.CommandPath())
				} else if err := found.Args(found, found.Flags().Args()); err != nil {
					t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
				}
			}
		}
		if examples == 0 {
			t.Errorf("%s has no example", c.CommandPath())
		}
	}
}

// words takes a line apart as a shell does, up to a redirection.
func words(line string) (all []string) {
	var word strings.Builder
	quote, inside := rune(0), false
	flush := func() {
		if inside {
			all = append(all, word.String())
		}
		word.Reset()
		inside = false
	}
	for _, r := range strings.TrimSpace(line) {
		switch {
		case r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, inside = r, true
		case quote == 0 && (r == '>' || r == '|'):
			flush()
			return all
		case quote == 0 && r == ' ':
			flush()
		default:
			inside = true
			word.WriteRune(r)
		}
	}
	flush()
	return all
}

// A verb with a typing error brings up the right one.
func TestMistypedVerbsSuggest(t *testing.T) {
	for _, c := range commands() {
		if name := c.Name(); c.HasParent() && len(name) > 4 {
			typed := name[:2] + name[3:] // a letter is missing
			if near := c.Parent().SuggestionsFor(typed); len(near) == 0 || !strings.Contains(strings.Join(near, " "), name) {
				t.Errorf("%s for %s suggests %q", typed, c.CommandPath(), near)
			}
		}
	}
}

// A wrong flag is a wrong usage everywhere, and is answered in words.
func TestWrongFlags(t *testing.T) {
	for _, c := range commands() {
		var out, errs bytes.Buffer
		args := append(strings.Fields(c.CommandPath())[1:], "--nope")
		if got := run(t.Context(), args, strings.NewReader(""), &out, &errs); got != exitUsage || !strings.Contains(errs.String(), "unknown flag: --nope") {
			t.Errorf("%s --nope: %d, %s", c.CommandPath(), got, &errs)
		}
	}
}
