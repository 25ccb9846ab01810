package subjects

import (
	"errors"
	"time"
)

// EpochFresh is how far an epoch may be from a host's own clock, either way,
// for the host to take new state beside it.
const EpochFresh = 10 * time.Minute

// Epoch is the value of the key epoch: the scheduler lives, and it was so late
// by its clock. It is sealed as every record is; nobody but the scheduler can
// make one, so a broker without its scheduler can give no host anything new.
type Epoch struct {
	Time time.Time `json:"time"`
	// Led is what the leaders' clock showed then, see [Leader]: the lease, which
	// bears no seal, is not believed about it.
	Led time.Duration `json:"led,omitempty"`
}

// DecodeEpoch reads the epoch's body strictly.
func DecodeEpoch(body []byte) (Epoch, error) {
	e, err := Decode[Epoch](body)
	if err != nil {
		return Epoch{}, err
	}
	if e.Time.IsZero() {
		return Epoch{}, errors.New("it has no time")
	}
	return *e, nil
}
