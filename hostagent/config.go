package hostagent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// NoTrust as Config.Trust says, on purpose, that desired state isn't verified.
const NoTrust = "none"

// Config is what an agent is told about its own host: the file that --config
// names. Every key is optional in the file; a flag of the program wins over
// it. Host and Role must be there by the time the agent starts.
type Config struct {
	Server string                        `json:"server,omitempty"` // the broker's URL; default nats://127.0.0.1:4222
	Host   rollout.Host                  `json:"host,omitempty"`
	Role   rollout.Word                  `json:"role,omitempty"`
	Labels map[rollout.Word]rollout.Word `json:"labels,omitempty"`
	State  string                        `json:"state,omitempty"` // the state directory; default /var/lib/tsunami
	// Creds is the host's credentials file. The agent looks at it, and at the
	// four that follow, while it runs, and takes what has changed.
	Creds string `json:"creds,omitempty"`
	// Trust is the file of the keys that seal desired state. The host takes what
	// one of them has sealed and nothing else. [NoTrust] takes what the broker
	// says. With Creds it must be there.
	Trust string `json:"trust,omitempty"`
	// CA is the file of the authorities whose certificates the broker may show;
	// Cert and Key are the files that the host shows where the broker asks.
	CA   string `json:"ca,omitempty"`
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
	// Facts is a file that gets the desired state as flat JSON, beside
	// desired.json in the state directory: where Facter reads it, say.
	Facts string `json:"facts,omitempty"`
	// Env is a file that gets the desired state as NAME="value" lines, which
	// both a shell and systemd's EnvironmentFile read.
	Env string `json:"env,omitempty"`
	// Hold is a file that, as long as it is there, keeps the agent from
	// changing the host; default hold in the state directory.
	Hold   string                   `json:"hold,omitempty"`
	Enact  map[rollout.Name]Enactor `json:"enact,omitempty"`
	Checks map[rollout.ID]Check     `json:"checks,omitempty"`
}

// Enactor says how one variable is made true on this host.
type Enactor struct {
	// Exec is the program and its arguments; the value is added as the last
	// argument. No shell is involved. Empty: the variable is only observed.
	Exec []string `json:"exec,omitempty"`
	// Observe prints what the machine runs, on one line, or nothing where it
	// runs none. Without it, exit 0 of Exec counts.
	Observe []string `json:"observe,omitempty"`
	// Timeout bounds one run of Exec; default 10m. Observe gets the same, but
	// never more than a minute.
	Timeout rollout.Duration `json:"timeout,omitempty"`
	Retry   Retry            `json:"retry,omitzero"`
	// Drift is what is done when Observe says something else than was enacted;
	// default DriftReport.
	Drift Drift `json:"drift,omitempty"`
}

// Retry says how a failed enactment is tried again. The wait doubles from
// First to Max, each with jitter.
type Retry struct {
	First rollout.Duration `json:"first,omitempty"` // default 10s
	Max   rollout.Duration `json:"max,omitempty"`   // default 10m
	// Attempts is after how many failures the enactment has failed for good.
	// It is tried on, every Max. Default 5.
	Attempts int `json:"attempts,omitempty"`
}

// Check says whether the host is well. It has exactly one of Exec, HTTP, TCP
// and Systemd.
type Check struct {
	Exec    []string `json:"exec,omitempty"`    // a program: exit status 0
	HTTP    string   `json:"http,omitempty"`    // a URL: GET answers 2xx
	TCP     string   `json:"tcp,omitempty"`     // host:port: it takes a connection
	Systemd string   `json:"systemd,omitempty"` // a unit: it is active
	// Exporter is a metric that the host's exporters show.
	Exporter *Exporter `json:"exporter,omitempty"`

	Every   rollout.Duration `json:"every,omitempty"`   // from one start to the next; default 15s
	Timeout rollout.Duration `json:"timeout,omitempty"` // default 5s
	// For is how long the check must pass without a break before it counts as
	// passing; default 0s, which is once.
	For rollout.Duration `json:"for,omitempty"`
}

// The defaults of a Config.
const (
	DefaultServer = "nats://127.0.0.1:4222"
	DefaultState  = "/var/lib/tsunami"

	defaultTimeout  = rollout.Duration(10 * time.Minute)
	defaultFirst    = rollout.Duration(10 * time.Second)
	defaultMax      = rollout.Duration(10 * time.Minute)
	defaultAttempts = 5
	defaultEvery    = rollout.Duration(15 * time.Second)
	defaultCheck    = rollout.Duration(5 * time.Second)

	maxConfig   = 1 << 20
	maxAttempts = 1000
	maxWait     = rollout.Duration(7 * 24 * time.Hour)
	minEvery    = rollout.Duration(100 * time.Millisecond)
)

// withDefaults fills what was left out, in maps of its own.
func (c Config) withDefaults() Config {
	c.Server = orElse(c.Server, DefaultServer)
	c.State = orElse(c.State, DefaultState)
	c.Hold = orElse(c.Hold, filepath.Join(c.State, holdFile))
	c.Enact, c.Checks = maps.Clone(c.Enact), maps.Clone(c.Checks)
	for name, e := range c.Enact {
		e.Timeout = orElse(e.Timeout, defaultTimeout)
		if e.Retry.Max == 0 {
			e.Retry.Max = max(defaultMax, e.Retry.First)
		}
		e.Retry.First = orElse(e.Retry.First, min(defaultFirst, e.Retry.Max))
		e.Retry.Attempts = orElse(e.Retry.Attempts, defaultAttempts)
		c.Enact[name] = e
	}
	for id, k := range c.Checks {
		k.Every = orElse(k.Every, defaultEvery)
		k.Timeout = orElse(k.Timeout, defaultCheck)
		c.Checks[id] = k
	}
	return c
}

func orElse[T comparable](v, other T) T {
	if v == *new(T) {
		return other
	}
	return v
}

// Validate checks a Config that is about to be used: names, durations, paths,
// and that host and role are there. Its errors are *rollout.FieldError, joined.
func (c Config) Validate() error {
	var faults []error
	if c.Host == "" {
		faults = append(faults, &rollout.FieldError{Field: "host", Problem: "is missing: the machine's DNS name, by --host or in the file"})
	}
	if c.Role == "" {
		faults = append(faults, &rollout.FieldError{Field: "role", Problem: "is missing: what the host is for, by --role or in the file"})
	}
	if c.Creds != "" && c.Trust == "" {
		faults = append(faults, &rollout.FieldError{Field: "trust", Problem: "is missing: with credentials it is the file of the keys that seal desired state, trust.txt, by --trust or in the file; " + NoTrust + " takes whatever the broker says"})
	}
	if (c.Cert == "") != (c.Key == "") {
		faults = append(faults, &rollout.FieldError{Field: "cert", Problem: "cert and key go together: want both, or none"})
	}
	for _, f := range c.faults() {
		faults = append(faults, f)
	}
	return errors.Join(faults...)
}

// faults finds what is wrong with what is there; nothing is missing to it.
func (c Config) faults() []*rollout.FieldError {
	var all []*rollout.FieldError
	add := func(field, format string, args ...any) {
		all = append(all, &rollout.FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	name := func(field string, err error) {
		if err != nil {
			add(field, "%v", err)
		}
	}
	duration := func(field string, d, least rollout.Duration) {
		if d != 0 && d < least || d < 0 || d > maxWait {
			add(field, "%s is out of range: want %s to %s", d, least, maxWait)
		}
	}
	program := func(field string, argv []string) {
		if len(argv) > 0 && argv[0] == "" {
			add(field, "the program's name is empty")
		}
		for _, a := range argv {
			if strings.ContainsRune(a, 0) {
				add(field, "an argument has a NUL byte")
			}
		}
	}
	if c.Host != "" {
		_, err := rollout.ParseHost(string(c.Host))
		name("host", err)
	}
	if c.Role != "" {
		_, err := rollout.ParseWord("role", string(c.Role))
		name("role", err)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		field := "labels." + string(k)
		_, err := rollout.ParseWord("label", string(k))
		name(field, err)
		_, err = rollout.ParseWord("label value", string(c.Labels[k]))
		name(field, err)
	}
	for _, f := range []struct{ field, path string }{{"facts", c.Facts}, {"env", c.Env}, {"hold", c.Hold}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			add(f.field, "%q isn't an absolute path", f.path)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Enact)) {
		e, field := c.Enact[k], "enact."+string(k)
		_, err := rollout.ParseName(string(k))
		name(field, err)
		if len(e.Exec) == 0 && len(e.Observe) == 0 {
			add(field, "has neither exec nor observe: want at least one of them")
		}
		program(field+".exec", e.Exec)
		program(field+".observe", e.Observe)
		duration(field+".timeout", e.Timeout, rollout.Duration(time.Millisecond))
		duration(field+".retry.first", e.Retry.First, rollout.Duration(time.Millisecond))
		duration(field+".retry.max", e.Retry.Max, rollout.Duration(time.Millisecond))
		if e.Retry.Max != 0 && e.Retry.First > e.Retry.Max {
			add(field+".retry.first", "%s is over max %s", e.Retry.First, e.Retry.Max)
		}
		if e.Retry.Attempts < 0 || e.Retry.Attempts > maxAttempts {
			add(field+".retry.attempts", "%d is out of range: want 1 to %d", e.Retry.Attempts, maxAttempts)
		}
		switch {
		case e.Drift != "" && e.Drift != DriftReport && e.Drift != DriftEnact:
			add(field+".drift", "%q isn't known: want %s or %s", e.Drift, DriftReport, DriftEnact)
		case e.Drift == DriftEnact && (len(e.Exec) == 0 || len(e.Observe) == 0):
			add(field+".drift", "enact needs both exec and observe: without observe no drift is seen")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Checks)) {
		h, field := c.Checks[k], "checks."+string(k)
		_, err := rollout.ParseID("check", string(k))
		name(field, err)
		for _, f := range h.kindFaults() {
			f.Field = field + f.Field
			all = append(all, f)
		}
		program(field+".exec", h.Exec)
		duration(field+".every", h.Every, minEvery)
		duration(field+".timeout", h.Timeout, rollout.Duration(time.Millisecond))
		duration(field+".for", h.For, 0)
	}
	return all
}

// LoadConfig reads and checks an agent's file. An error names the file and
// the line, and for an unknown key the known ones; several faults come joined.
// Host and Role may still be missing, since flags can give them.
func LoadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	return ParseConfig(path, data)
}
