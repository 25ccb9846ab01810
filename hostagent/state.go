package hostagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The files in the state directory.
const (
	stateFile   = "state.json"
	desiredFile = "desired.json"
	holdFile    = "hold" // see Config.Hold
)

const stateFormat = 1

// state is what an agent must not forget: the newest document that it took,
// and what it has enacted of it. It is one file, so that it is always of one
// moment.
type state struct {
	Format     int                           `json:"format"`
	Host       rollout.Host                  `json:"host"`
	Generation uint64                        `json:"generation"`        // of the document; 0: none was ever taken
	Rollout    rollout.ID                    `json:"rollout,omitempty"` // that told the generation
	Epoch      time.Time                     `json:"epoch,omitzero"`    // beside which it was taken
	Values     rollout.Document              `json:"values,omitempty"`
	Orders     map[rollout.Name]order        `json:"orders,omitempty"`  // one for each of Values
	Enacted    map[rollout.Name]enactedValue `json:"enacted,omitempty"` // the last success for each of Values
}

// order is who told a variable's value, and when.
type order struct {
	Generation uint64     `json:"generation"` // of the document that first carried it
	Rollout    rollout.ID `json:"rollout,omitempty"`
	// Previous is the value in the document before.
	Previous rollout.Value `json:"previous,omitzero"`
	Pin      bool          `json:"pin,omitempty"` // it was a pin
}

// enactedValue is what was made true, and the generation of the order that it
// fulfilled. It is written after the fact: a kill in between makes the agent
// observe, and if need be enact, once more.
type enactedValue struct {
	Value      rollout.Value `json:"value"`
	Generation uint64        `json:"generation"`
}

// with gives the state after taking a change. It shares nothing that is
// written later with s.
func (s *state) with(c *subjects.Change) *state {
	n := &state{
		Format:     stateFormat,
		Host:       s.Host,
		Generation: c.Desired.Generation,
		Rollout:    c.Rollout,
		Values:     c.Desired.Values,
		Orders:     make(map[rollout.Name]order, len(c.Desired.Values)),
		Enacted:    make(map[rollout.Name]enactedValue, len(s.Enacted)),
	}
	if n.Values == nil { // a body of null
		n.Values = rollout.Document{}
	}
	for name, value := range n.Values {
		before, was := s.Orders[name]
		o := order{Generation: c.Desired.Generation, Rollout: c.Rollout, Previous: s.Values[name]}
		if t, ok := c.Desired.Told[name]; ok && t.Generation > 0 {
			o.Generation, o.Rollout, o.Pin = min(t.Generation, c.Desired.Generation), t.Rollout, t.Pin
		} else if was && s.Values[name] == value {
			o = before
		}
		if was && o.Generation == before.Generation {
			o.Previous = before.Previous
		}
		if o.Previous.IsZero() && c.Variable == name {
			o.Previous = c.Previous
		}
		n.Orders[name] = o
		if e, ok := s.Enacted[name]; ok {
			n.Enacted[name] = e
		}
	}
	return n
}

// fulfilled says whether the newest order for the variable was enacted.
func (s *state) fulfilled(name rollout.Name) bool {
	e, ok := s.Enacted[name]
	return ok && e.Generation == s.Orders[name].Generation && e.Value == s.Values[name]
}

// withEnacted gives the state after an order for a variable was fulfilled.
func (s *state) withEnacted(name rollout.Name, e enactedValue) *state {
	n := *s
	n.Enacted = maps.Clone(s.Enacted)
	if n.Enacted == nil {
		n.Enacted = make(map[rollout.Name]enactedValue)
	}
	n.Enacted[name] = e
	return &n
}

func (s *state) encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// decodeState reads a state file. Fields that it doesn't know are those of a
// newer agent that kept the format, and are left aside.
func decodeState(host rollout.Host, data []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	switch {
	case s.Format != stateFormat:
		return nil, fmt.Errorf("format %d: want %d", s.Format, stateFormat)
	case s.Host != host:
		return nil, fmt.Errorf("it belongs to host %q, and this is %s", s.Host, host)
	case s.Generation == 0:
		return nil, errors.New("it has no generation")
	case len(s.Orders) != len(s.Values):
		return nil, errors.New("values and orders don't name the same variables")
	}
	for name, v := range s.Values {
		o, ok := s.Orders[name]
		if !ok || v.IsZero() || o.Generation == 0 || o.Generation > s.Generation {
			return nil, fmt.Errorf("variable %s: its value or its order isn't valid", name)
		}
	}
	for name, e := range s.Enacted {
		if _, ok := s.Values[name]; !ok || e.Value.IsZero() || e.Generation == 0 {
			return nil, fmt.Errorf("variable %s: what was enacted isn't valid", name)
		}
	}
	return &s, nil
}

// loadState reads the state of a host from its state directory. A missing file
// is a host that was never told anything.
func loadState(dir string, host rollout.Host) (*state, error) {
	path := filepath.Join(dir, stateFile)
	data, err := readBounded(path, 8*subjects.MaxBody)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Format: stateFormat, Host: host}, nil
	}
	if err == nil {
		var s *state
		if s, err = decodeState(host, data); err == nil {
			return s, nil
		}
		err = fmt.Errorf("%s: %w", path, err)
	}
	return nil, fmt.Errorf("the agent can't tell what this host was told before, so it takes nothing new: restore the file, or remove it to start as a new host: %w", err)
}

// lockState makes sure that one agent at a time uses a state directory. The
// lock ends with the process, however it ends.
func lockState(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the state directory %s: is another agent running with it? %w", dir, err)
	}
	return func() { f.Close() }, nil
}
