package hostagent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
)

// ErrIdentity says that the host's credentials, or the keys that it is to trust,
// can't be used.
var ErrIdentity = errors.New("the host's identity")

// identity is who the host is to the broker, and whose word it takes.
type identity struct {
	creds   *access.Credentials // nil: it has none
	keyring *access.Keyring     // nil: the file names none
}

// identity reads the files. Its errors wrap ErrIdentity.
func (c Config) identity() (id identity, err error) {
	if c.Creds != "" {
		if id.creds, err = access.LoadCredentials(c.Creds); err != nil {
			return id, fmt.Errorf("%w: creds: %w", ErrIdentity, err)
		}
		if name := id.creds.Name(); name != string(c.Host) {
			return id, fmt.Errorf("%w: creds: %s is of %q, and this is host %s: give the host its own credentials, or its own name by --host",
				ErrIdentity, c.Creds, printable(name, maxHeld), c.Host)
		}
	}
	if c.Trust != "" && c.Trust != NoTrust {
		if id.keyring, err = access.LoadKeyring(c.Trust); err != nil {
			return id, fmt.Errorf("%w: trust: %w", ErrIdentity, err)
		}
	}
	return id, nil
}

// fileStamp is by what a changed file is told.
type fileStamp struct {
	modified time.Time
	size     int64
}

// stamps are those of the files of the identity, the pinned keys' last.
func (c Config) stamps() []fileStamp {
	var all []fileStamp
	for _, path := range []string{c.Creds, c.CA, c.Cert, c.Key, c.Trust} {
		var s fileStamp
		if path != "" {
			if info, err := os.Stat(path); err == nil {
				s = fileStamp{info.ModTime(), info.Size()}
			}
		}
		all = append(all, s)
	}
	return all
}

// watching is what the agent knows of the files of its identity.
type watching struct {
	creds  *access.Credentials
	stamps []fileStamp // as they were when they were read
	fault  string      // why the newer ones can't be used; empty: they can
}

// readIdentity reads the files for the first time.
func (a *agent) readIdentity() error {
	a.stamps = a.Config.stamps()
	id, err := a.Config.identity()
	if err != nil {
		return err
	}
	a.creds = id.creds
	if id.keyring != nil {
		a.keyring = id.keyring
	}
	if a.Config.Trust == NoTrust {
		a.Logger.Warn("desired state isn't verified, since trust is none: whoever holds the broker can order this host", "host", a.host)
	}
	return nil
}

// lookAtIdentity reads the files again when one has changed. What can't be used
// changes nothing, and is tried at each look.
func (a *agent) lookAtIdentity(now time.Time) {
	stamps := a.Config.stamps()
	if slices.Equal(stamps, a.stamps) {
		return
	}
	id, err := a.Config.identity()
	last := len(stamps) - 1
	if err == nil && !slices.Equal(stamps[:last], a.stamps[:last]) {
		err = a.reconnect(id.creds)
	}
	if err != nil {
		if a.fault != err.Error() {
			a.fault = err.Error()
			a.Logger.Warn("changed credentials or keys can't be used; the agent goes on with those that it has", "host", a.host, "err", err)
		}
		return
	}
	if stamps[last] != a.stamps[last] && id.keyring != nil {
		// What waits was verified by the keys before. The read brings it again.
		a.keyring = id.keyring
		a.pending, a.pendingErr, a.unproven = nil, nil, nil
		a.readAt, a.refused = now, 0
		a.changed(now)
		a.Logger.Info("the pinned keys were replaced", "host", a.host, "keys", a.keyring.Keys())
	}
	a.stamps, a.fault = stamps, ""
}

// reconnect makes the connection anew with what the files say now. It is a new
// one, since the subjects of answers bear the host's key. The old one serves
// until the new one can at least be tried.
func (a *agent) reconnect(creds *access.Credentials) error {
	old, was := a.nc, a.creds
	a.creds = creds
	if err := a.connect(); err != nil {
		a.creds = was
		return err
	}
	old.Close()
	a.sub = nil
	a.Logger.Info("new credentials or certificates are in use", "host", a.host)
	return nil
}
