package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Pin is the document that holds variables of one host at a value: no rollout
// tells it these while the pin is there.
type Pin struct {
	Host   Host     `json:"host"`
	Values Document `json:"values"`
	// Until is when the pin ends; the zero time: when somebody removes it.
	Until time.Time `json:"until,omitzero"`
	Why   string    `json:"why,omitempty"`
	// By is who made it. The scheduler keeps it; a document leaves it out.
	By ID `json:"by,omitempty"`
}

const (
	maxPinned = 100
	maxWhy    = 1024 // bytes of what a person says in a document
)

// Validate checks the document by itself. Its errors are *FieldError, joined.
func (p *Pin) Validate() error {
	var errs []error
	add := func(path, format string, args ...any) {
		errs = append(errs, field.Errorf(path, format, args...))
	}
	if _, err := ParseHost(string(p.Host)); err != nil {
		add("host", "%v", err)
	}
	if n := len(p.Values); n == 0 || n > maxPinned {
		add("values", "%d variables: want 1 to %d, such as {docker_version: \"1.10.3\"}", n, maxPinned)
	}
	for name, v := range p.Values {
		if v.IsZero() {
			add("values."+string(name), "no value")
		}
	}
	validateWhy(p.Why, add)
	return errors.Join(errs...)
}

func validateWhy(why string, add func(path, format string, args ...any)) {
	if len(why) > maxWhy {
		add("why", "%d bytes are too many: at most %d are allowed", len(why), maxWhy)
	}
	if strings.ContainsFunc(why, unicode.IsControl) {
		add("why", "has control characters: one line of text is allowed")
	}
}

// AdmitPin says whether the pin could be made now, with the variables as they
// will be by then; a variable that isn't among those is looked up. Its errors
// are *FieldError, joined, or wrap ErrNotFound.
func (s *Snapshot) AdmitPin(p *Pin, variables map[Name]*Variable, now time.Time) error {
	if err := p.Validate(); err != nil {
		return err
	}
	var errs []error
	if _, err := s.Host(p.Host); err != nil {
		errs = append(errs, field.Errorf("host", "there is no host %s", p.Host))
	}
	if !p.Until.IsZero() && !p.Until.After(now) {
		errs = append(errs, field.Errorf("until", "%s has passed", p.Until.Format(time.RFC3339)))
	}
	names := make([]Name, 0, len(p.Values))
	for name := range p.Values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v := variables[name]
		if v == nil {
			v = s.variables[name]
		}
		if v == nil {
			errs = append(errs, field.Errorf("values."+string(name), "there is no variable %s", name))
		} else if err := v.Accept(p.Values[name]); err != nil {
			errs = append(errs, field.Errorf("values."+string(name), "%v", err))
		}
	}
	return errors.Join(errs...)
}

// PutPin sets what is pinned on a host; nil: nothing.
func (s *Snapshot) PutPin(name Host, p *Pin) {
	if p == nil {
		delete(s.pins, name)
	} else {
		s.pins[name] = p
	}
	h := s.host(name)
	h.pin = p
	s.refresh(h)
}

// Pins lists the pins by host.
func (s *Snapshot) Pins() []*Pin {
	out := make([]*Pin, 0, len(s.pins))
	for _, p := range s.pins {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Pin) int { return strings.Compare(string(a.Host), string(b.Host)) })
	return out
}

// pinned says whether the host's variable is held at a value.
func (h *host) pinned(name Name) bool {
	if h.pin == nil {
		return false
	}
	_, ok := h.pin.Values[name]
	return ok
}

// unpinned names a variable that the host's pin holds at a value which the host
// hasn't been told by a pin yet; "" where there is none.
func (h *host) unpinned() Name {
	if h.pin == nil || h.desired == nil {
		return ""
	}
	found := Name("")
	for name, v := range h.pin.Values {
		if found != "" && name > found {
			continue
		}
		if t := h.desired.Told[name]; !t.Pin || h.desired.Values[name] != v {
			found = name
		}
	}
	return found
}

// expire is the step that ends the pins whose time has come.
func (s *Snapshot) expire(now time.Time, d *Decision) []Step {
	var over []Host
	for name, p := range s.pins {
		switch {
		case p.Until.IsZero():
		case p.Until.After(now):
			d.wake(p.Until)
		default:
			over = append(over, name)
		}
	}
	if len(over) == 0 {
		return nil
	}
	slices.Sort(over)
	return []Step{{Unpin: over[:min(len(over), MaxTells)]}}
}

// reason is what stands on a document that the pin tells.
func (p *Pin) reason() Reason { return Reason{Code: ByPin, Until: p.Until, Detail: p.Why} }

func pinned(t Told) Told { t.Pin = true; return t }

func (p *Pin) blocked() Reason {
	return Reason{Code: Pinned, Until: p.Until, Detail: fmt.Sprintf("by %s: %s", p.By, p.Why)}
}
