package notify

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Config is who is told what, and how.
type Config struct {
	HeldAfter rollout.Duration `json:"heldAfter,omitempty"` // how long a rollout stands still before that is told
	MaxAge    rollout.Duration `json:"maxAge,omitempty"`    // older events aren't sent
	Receivers []Receiver       `json:"receivers"`
}

// Receiver is who is told: by exactly one of Webhook and Exec.
type Receiver struct {
	Name     rollout.ID `json:"name"`
	Events   []Kind     `json:"events,omitempty"`   // default: all
	Rollouts []string   `json:"rollouts,omitempty"` // patterns of ids; default: all; the red button is everybody's
	Format   string     `json:"format,omitempty"`   // json or slack
	Template string     `json:"template,omitempty"`
	Webhook  *Webhook   `json:"webhook,omitempty"`
	Exec     *Exec      `json:"exec,omitempty"`

	body *template.Template // nil: the event's JSON
}

// Webhook is an HTTP POST.
type Webhook struct {
	URL         string           `json:"url,omitempty"`
	URLFile     string           `json:"urlFile,omitempty"`     // where the URL itself is a secret
	HeadersFile string           `json:"headersFile,omitempty"` // Name: value, a line each
	SecretFile  string           `json:"secretFile,omitempty"`  // what signs the body
	CA          string           `json:"ca,omitempty"`          // the receiver's authorities, if not the machine's
	Timeout     rollout.Duration `json:"timeout,omitempty"`     // of one attempt
	RetryFor    rollout.Duration `json:"retryFor,omitempty"`    // from when the event was queued
}

// Exec is a program to run.
type Exec struct {
	Command []string         `json:"command"` // the program and its arguments: no shell
	Timeout rollout.Duration `json:"timeout,omitempty"`
}

// Defaults and bounds.
const (
	defaultHeldAfter = 5 * time.Minute
	defaultMaxAge    = time.Hour
	defaultRetryFor  = 15 * time.Minute
	defaultTimeout   = 5 * time.Second  // of a webhook
	defaultExecTime  = 30 * time.Second // of a program

	maxReceivers = 50
	maxTimeout   = 10 * time.Minute
	maxRetryFor  = 24 * time.Hour
)

const (
	formatJSON  = "json"
	formatSlack = "slack"
)

// Load reads and checks a file, and all files that it names; relative names are
// relative to it. Secrets must be readable by their owner alone. The error names
// the place of each fault.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	return c, c.open(file)
}

// parse reads and checks the document alone.
func parse(file string, data []byte) (*Config, error) {
	c := &Config{}
	if err := control.DecodeSettings(file, data, c, c.valid); err != nil {
		return nil, err
	}
	c.defaults()
	return c, nil
}

// valid returns *field.Error, joined.
func (c *Config) valid() error {
	var errs []error
	fail := func(at, format string, args ...any) { errs = append(errs, field.Errorf(at, format, args...)) }
	if n := len(c.Receivers); n == 0 || n > maxReceivers {
		fail("receivers", "%d of them: want 1 to %d", n, maxReceivers)
	}
	seen := make(map[rollout.ID]bool)
	for i := range c.Receivers {
		r := &c.Receivers[i]
		at := fmt.Sprintf("receivers[%d]", i)
		if r.Name == "" {
			fail(at+".name", "is missing: want a name, such as oncall")
		} else if seen[r.Name] {
			fail(at+".name", "there is another receiver %s", r.Name)
		}
		seen[r.Name] = true
		r.valid(at, fail)
	}
	return errors.Join(errs...)
}

func (r *Receiver) valid(at string, fail func(at, format string, args ...any)) {
	for i, k := range r.Events {
		if !k.known() {
			fail(fmt.Sprintf("%s.events[%d]", at, i), "%q isn't an event: want some of %s", field.Shorten(string(k)), list(Kinds))
		}
	}
	for i, p := range r.Rollouts {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			fail(fmt.Sprintf("%s.rollouts[%d]", at, i), "%q isn't a pattern of ids: want one such as docker-*", field.Shorten(p))
		}
	}
	switch {
	case r.Format != "" && r.Format != formatJSON && r.Format != formatSlack:
		fail(at+".format", "%q isn't a format: want %s or %s, or give a template", field.Shorten(r.Format), formatJSON, formatSlack)
	case r.Format != "" && r.Template != "":
		fail(at+".template", "and format are both given: leave one out")
	}
	switch {
	case r.Webhook != nil && r.Exec != nil:
		fail(at+".exec", "and webhook are both given: make two receivers of them")
	case r.Webhook != nil:
		r.Webhook.valid(at+".webhook", fail)
	case r.Exec != nil:
		if len(r.Exec.Command) == 0 || r.Exec.Command[0] == "" {
			fail(at+".exec.command", "is missing: want the program and its arguments, such as [/usr/local/bin/page, oncall]")
		}
		within(at+".exec.timeout", r.Exec.Timeout, maxTimeout, fail)
	default:
		fail(at, "has neither webhook nor exec: give one")
	}
}

func (w *Webhook) valid(at string, fail func(at, format string, args ...any)) {
	switch {
	case w.URL == "" && w.URLFile == "":
		fail(at+".url", "is missing: give it, or urlFile")
	case w.URL != "" && w.URLFile != "":
		fail(at+".urlFile", "and url are both given: leave one out")
	case w.URL != "":
		if err := checkURL(w.URL); err != nil {
			fail(at+".url", "%v", err)
		}
	}
	within(at+".timeout", w.Timeout, maxTimeout, fail)
	within(at+".retryFor", w.RetryFor, maxRetryFor, fail)
}

func within(at string, d rollout.Duration, most time.Duration, fail func(at, format string, args ...any)) {
	if time.Duration(d) > most {
		fail(at, "%s is too long: at most %s", d, rollout.Duration(most))
	}
}

// checkURL doesn't repeat what it was given: a URL may be a secret.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("isn't a URL that can be posted to: want https://host/path")
	}
	return nil
}

func (c *Config) defaults() {
	or := func(d *rollout.Duration, v time.Duration) {
		if *d == 0 {
			*d = rollout.Duration(v)
		}
	}
	or(&c.HeldAfter, defaultHeldAfter)
	or(&c.MaxAge, defaultMaxAge)
	for i := range c.Receivers {
		if w := c.Receivers[i].Webhook; w != nil {
			or(&w.Timeout, defaultTimeout)
			or(&w.RetryFor, defaultRetryFor)
		}
		if x := c.Receivers[i].Exec; x != nil {
			or(&x.Timeout, defaultExecTime)
		}
	}
}

// open finds the files that the document names, and reads each once: what is
// wrong with one is said at the start, not at the first event.
func (c *Config) open(file string) error {
	dir := filepath.Dir(file)
	var errs []error
	for i := range c.Receivers {
		r := &c.Receivers[i]
		names := []*string{&r.Template}
		if w := r.Webhook; w != nil {
			names = append(names, &w.URLFile, &w.HeadersFile, &w.SecretFile, &w.CA)
		}
		for _, name := range names {
			if *name != "" && !filepath.IsAbs(*name) {
				*name = filepath.Join(dir, *name)
			}
		}
		err := r.compile()
		if err == nil && r.Webhook != nil {
			_, err = r.Webhook.read()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: receiver %s: %w", file, r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// wants says whether the receiver is told of an event.
func (r *Receiver) wants(e *Event) bool {
	if len(r.Events) > 0 && !slices.Contains(r.Events, e.Kind) {
		return false
	}
	if e.Rollout == "" || len(r.Rollouts) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Rollouts, func(p string) bool {
		ok, _ := path.Match(p, string(e.Rollout)) // it was checked
		return ok
	})
}

func list(kinds []Kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}
