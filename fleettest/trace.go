package fleettest

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// tracer writes what happens in a fleet, as people would tell it: the script's
// commands, and below each what came of it.
type tracer struct {
	on    bool
	out   io.Writer
	began time.Time
	hold  map[string]rollout.Code // by rollout
}

func (t *tracer) command(l line) {
	t.printf("%s\n", l.text)
	for row := range strings.Lines(l.documents) {
		t.printf("  %s", row)
	}
}

func (t *tracer) printf(format string, args ...any) {
	if t.on {
		fmt.Fprintf(t.out, format, args...) // into a buffer
	}
}

func (t *tracer) records(all []bus.Msg) {
	if !t.on {
		return
	}
	if t.hold == nil {
		t.hold = make(map[string]rollout.Code)
	}
	var last string
	n := 0
	flush := func() {
		if n > 0 {
			t.printf("    %s\n", strings.Replace(last, "%d hosts", strconv.Itoa(n)+" hosts", 1))
		}
		n = 0
	}
	for _, m := range all {
		what := t.record(m)
		if what == "" {
			continue
		}
		what = since(t.began, m.Time.Add(time.Second/2)) + "  " + what
		if what != last {
			flush()
		}
		last = what
		n++
	}
	flush()
}

func (t *tracer) record(m bus.Msg) string {
	kind, name, err := subjects.ParseKey(m.Subject)
	if err != nil {
		return ""
	}
	switch kind {
	case subjects.KindDesired:
		c, err := subjects.DecodeChange(rollout.Host(name), m.Header, m.Data)
		switch {
		case err != nil:
			return fmt.Sprintf("%s: put by hand: %q", name, m.Data)
		case c.Decommissioned:
			return fmt.Sprintf("%s is decommissioned by %s", name, c.Actor)
		case c.Reason.Code == rollout.ByPin:
			return fmt.Sprintf("%s gets %s: %s", name, m.Data, c.Reason)
		case c.Rollout == "":
			// Which of them come first at one instant is nobody's business.
			return fmt.Sprintf("%%d hosts get %s: %s", m.Data, c.Reason)
		}
		return fmt.Sprintf("%s tells %s %s: %s", c.Rollout, name, m.Data, c.Reason)
	case subjects.KindRollout:
		r, err := subjects.Decode[rollout.Record](m.Data)
		if err != nil {
			return fmt.Sprintf("rollout.%s: put by hand: %q", name, m.Data)
		}
		return fmt.Sprintf("%s is %s by %s: %s", name, r.State, r.By, r.Why)
	case subjects.KindProgress:
		p, err := subjects.Decode[rollout.Progress](m.Data)
		if err != nil || p.Hold.Code == t.hold[name] {
			return ""
		}
		t.hold[name] = p.Hold.Code
		if p.Hold.Code == "" {
			return name + " goes on"
		}
		return fmt.Sprintf("%s holds: %s", name, p.Hold.Code)
	case subjects.KindAbort, subjects.KindStop:
		a := subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
		if a.Released {
			return "stop is released: " + a.Why
		}
		return fmt.Sprintf("%s: %s", kind.Key(name), a.Why)
	case subjects.KindVariable, subjects.KindBlackout, subjects.KindPin:
		if m.Header.Deleted() {
			return kind.Key(name) + " is deleted"
		}
		return fmt.Sprintf("%s %s: %s", kind, name, m.Data)
	}
	return ""
}
