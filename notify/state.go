package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// StateFile is the name of the state in its directory.
const StateFile = "notify.json"

// maxState bounds the file, in bytes.
const maxState = 64 << 20

// state is what outlives a restart. It is one file, so that the position and what
// was made of the records up to it can't differ.
type state struct {
	// Position is the sequence in the bucket up to which records have been turned
	// into events.
	Position uint64                     `json:"position"`
	Rollouts map[rollout.ID]*marks      `json:"rollouts,omitempty"`
	Queues   map[rollout.ID][]*delivery `json:"queues,omitempty"` // by receiver, the oldest first
}

// delivery is an event that a receiver is to get.
type delivery struct {
	Event  Event     `json:"event"`
	Queued time.Time `json:"queued"`
}

// loadState reads the state; nil where there is none yet.
func loadState(dir string) (*state, error) {
	file := filepath.Join(dir, StateFile)
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxState {
		err = fmt.Errorf("%s: %d bytes are more than %d", file, info.Size(), maxState)
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// save replaces the file. It is the owner's alone, as what it says of rollouts is
// whoever's that may read them.
func (s *state) save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return access.WriteSecret(filepath.Join(dir, StateFile), data)
}
