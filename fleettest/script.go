package fleettest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// ScriptOptions say how scripts are run.
type ScriptOptions struct {
	Update bool // write traces anew
	Long   bool // run each script with its `more` seeds too
}

// RunScript runs a script, once for each of its seeds, and compares its trace
// with the file of the same name that ends in .golden, if it has `trace`. With
// Update that file is written instead.
func RunScript(t *testing.T, path string, how ScriptOptions) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines, head, err := parseScript(string(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	seeds := head.seeds
	if how.Long {
		seeds += head.more
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed%d", seed+1), func(t *testing.T) {
			o := head.options
			o.Seed = uint64(seed) + 1
			var out bytes.Buffer
			Run(t, o, func(f *Fleet) {
				s := &script{
					Fleet: f, path: filepath.Base(path), types: make(map[rollout.Name]rollout.Type),
					plans: make(map[rollout.ID]plannedAt), said: make(map[rollout.ID]verdict),
					trace: tracer{on: head.trace, out: &out, began: f.Began},
				}
				s.run(lines)
			})
			if head.trace && !t.Failed() {
				golden(t, strings.TrimSuffix(path, ".txt")+".golden", out.Bytes(), how.Update)
			}
		})
	}
}

func golden(t *testing.T, path string, have []byte, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(path, have, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: write it with -update", err)
	}
	if bytes.Equal(have, want) {
		return
	}
	h, w := strings.Split(string(have), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(h), len(w)) {
		if a, b := at(h, i), at(w, i); a != b {
			t.Errorf("%s:%d: the trace has\n  %s\nand the file\n  %s\n(-update writes it anew)", path, i+1, a, b)
			return
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// header is what a script says before its first command.
type header struct {
	options     Options
	seeds, more int
	trace       bool
}

// line is one command of a script, with the lines that repeat repeats, or the
// documents below it.
type line struct {
	number    int
	text      string
	words     []string
	block     []line
	documents string
}

// parseScript reads a script: its header, and its commands.
func parseScript(text string) ([]line, header, error) {
	head := header{seeds: 1}
	var stack [][]line
	var all []line
	rows := strings.Split(text, "\n")
	for i := 0; i < len(rows); i++ {
		text, n := rows[i], i+1
		fail := func(err error) ([]line, header, error) {
			return nil, head, fmt.Errorf("line %d: %s: %w", n, strings.TrimSpace(text), err)
		}
		words, err := split(text)
		if err != nil {
			return fail(err)
		}
		if len(words) == 0 {
			continue
		}
		l := line{number: n, text: strings.TrimSpace(text), words: words}
		if takesDocuments[words[len(words)-1]] {
			var below int
			l.documents, below = indented(rows[i+1:], indent(text))
			i += below
		}
		switch words[0] {
		case "fleet":
			if len(all) > 0 || len(stack) > 0 {
				return fail(errors.New("the fleet is described before the first command"))
			}
			if err := head.fleet(words[1:]); err != nil {
				return fail(err)
			}
		case "repeat":
			all = append(all, l)
			stack = append(stack, all)
			all = nil
		case "end":
			if len(stack) == 0 {
				return fail(errors.New("there is no repeat"))
			}
			block := all
			all = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			all[len(all)-1].block = block
		default:
			if commands[words[0]] == nil {
				return fail(errors.New("no such command"))
			}
			all = append(all, l)
		}
	}
	if len(stack) > 0 {
		return nil, head, errors.New("a repeat has no end")
	}
	return all, head, nil
}

// takesDocuments has the commands that, standing last in a line, take the
// indented lines below as documents.
var takesDocuments = map[string]bool{"apply": true, "plan": true}

func indent(row string) int { return len(row) - len(strings.TrimLeft(row, " ")) }

// indented gives the rows that stand deeper than above, with the first one's
// indentation taken away, and how many they are.
func indented(rows []string, above int) (text string, n int) {
	var b strings.Builder
	for most := 0; n < len(rows); n++ {
		row := strings.TrimRight(rows[n], " \r")
		switch {
		case row == "":
			b.WriteString("\n")
			continue
		case indent(row) <= above:
			return b.String(), n
		case most == 0:
			most = indent(row)
		}
		b.WriteString(row[min(most, indent(row)):] + "\n")
	}
	return b.String(), n
}

// fleet reads the words of `fleet`.
func (h *header) fleet(words []string) error {
	durations := map[string]*time.Duration{
		"heartbeat": &h.options.Heartbeat, "reread": &h.options.Reread, "renew": &h.options.Renew,
		"lease": &h.options.Lease, "confirm": &h.options.Confirm,
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch d := durations[key]; {
		case d != nil:
			*d, err = duration(value)
		case w == "agents":
			h.options.Agents = true
		case w == "consume":
			h.options.Consume = true
		case w == "sealed":
			h.options.Sealed = true
		case w == "exact":
			h.options.Exact = true
		case w == "trace":
			h.trace = true
		case key == "at":
			h.options.At, err = readTime(value)
		case key == "seeds":
			h.seeds, err = strconv.Atoi(value)
		case key == "more":
			h.more, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("%q says nothing of a fleet", w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// split splits a line into words. Within double quotes a space splits nothing;
// # begins a comment.
func split(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quoted := false, false
	flush := func() {
		if in {
			words = append(words, word.String())
			word.Reset()
			in = false
		}
	}
	for _, c := range text {
		switch {
		case c == '"':
			quoted, in = !quoted, true
		case quoted:
			word.WriteRune(c)
		case c == '#':
			flush()
			return words, nil
		case c == ' ' || c == '\t' || c == '\r':
			flush()
		default:
			in = true
			word.WriteRune(c)
		}
	}
	if quoted {
		return nil, errors.New(`a " is missing`)
	}
	flush()
	return words, nil
}

// readTime reads 2027-03-28T01:30+01:00, with seconds or without.
func readTime(s string) (time.Time, error) {
	t, err := time.Parse("2006-01-02T15:04Z07:00", s)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	return t, err
}

func duration(s string) (time.Duration, error) {
	d, err := rollout.ParseDuration(s)
	return time.Duration(d), err
}

// plannedAt is a plan, as it was when the script asked for it.
type plannedAt struct {
	control.PlanView
	asked time.Time
}

// script is a script that runs.
type script struct {
	*Fleet
	path  string
	line  int
	types map[rollout.Name]rollout.Type
	plans map[rollout.ID]plannedAt
	said  map[rollout.ID]verdict // by the script's guard
	hosts int                    // so many were named
	trace tracer

	documents string // below the command that runs
}

func (s *script) run(lines []line) {
	s.T.Helper()
	for _, l := range lines {
		s.line = l.number
		if l.words[0] == "repeat" {
			n, err := strconv.Atoi(at(l.words, 1))
			if err != nil {
				s.T.Fatalf("%s:%d: %s: %v", s.path, l.number, l.text, err)
			}
			for range n {
				s.run(l.block)
			}
			continue
		}
		s.trace.command(l)
		s.documents = l.documents
		err := commands[l.words[0]](s, l.words[1:])
		s.check()
		if err != nil {
			s.T.Fatalf("%s:%d (%s): %s: %v", s.path, l.number, since(s.Began, time.Now()), l.text, err)
		}
		if s.T.Failed() {
			s.T.FailNow()
		}
	}
}

// check checks and traces what was written up to now.
func (s *script) check() {
	s.T.Helper()
	from := s.bucket.taken
	s.fault(s.Check())
	s.trace.records(s.bucket.between(from, s.bucket.taken))
}

func (s *script) fault(all []Violation) {
	s.T.Helper()
	for i, v := range all {
		if i == 5 {
			s.T.Errorf("%s:%d: and %d more violations", s.path, s.line, len(all)-i)
			return
		}
		s.T.Errorf("%s:%d (%s): %s", s.path, s.line, since(s.Began, time.Now()), v)
	}
}

// since gives a time as days, hours and minutes from when a fleet began.
func since(began, t time.Time) string {
	m := int(t.Sub(began) / time.Minute)
	return fmt.Sprintf("%dd%02d:%02d", m/(24*60), m/60%24, m%60)
}
