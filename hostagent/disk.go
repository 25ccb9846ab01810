package hostagent

import (
	"path/filepath"
	"time"
)

// disk is what still has to be written.
type disk struct {
	unsaved   bool  // state.json is behind the state in memory
	outletErr error // why the files that others read are behind
	diskRetry backoff
}

const (
	firstDiskRetry = time.Second
	maxDiskRetry   = time.Minute
)

// save puts the state on disk, durably, or changes nothing there.
func (a *agent) save(s *state) error {
	data, err := s.encode()
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(a.Config.State, stateFile), data, 0o600)
}

func (a *agent) diskFailed(now time.Time) {
	if a.diskRetry.ready(now) {
		a.diskRetry.failed(now, firstDiskRetry, maxDiskRetry, a.Random)
	}
}

func (a *agent) diskBehind() bool {
	return a.unsaved || a.held == "" && (a.pending != nil && a.unproven == nil || a.outletErr != nil)
}

func (a *agent) diskDue() time.Time {
	if !a.diskBehind() {
		return never
	}
	return a.diskRetry.at
}

// retryDisk tries again what the disk refused.
func (a *agent) retryDisk(now time.Time) {
	if !a.diskBehind() {
		a.diskRetry = backoff{}
		return
	}
	if !a.diskRetry.ready(now) {
		return
	}
	if a.pending != nil && a.unproven == nil && a.held == "" {
		a.take(a.pending, now)
		a.askEpoch(now)
		return
	}
	if a.unsaved {
		a.persist(now)
	}
	if a.outletErr != nil && a.held == "" {
		a.writeOutlets(now)
		a.settle(now, false)
	}
}

// persist writes the state that is in memory. A failure is tried again; until
// then a killed agent would enact once more what it has enacted.
func (a *agent) persist(now time.Time) {
	err := a.save(a.state)
	if err != nil {
		if !a.unsaved {
			a.Logger.Error("what was enacted can't be put on disk; trying on", "host", a.host, "err", err)
		}
		a.diskFailed(now)
	}
	a.unsaved = err != nil
}

// writeOutlets writes the files that others read.
func (a *agent) writeOutlets(now time.Time) {
	err := writeOutlets(a.outlets, a.state.Values)
	if err != nil {
		if a.outletErr == nil {
			a.Logger.Error("the desired state can't be written where other programs read it; nothing is enacted until it can", "host", a.host, "err", err)
		}
		a.diskFailed(now)
	}
	if (err == nil) != (a.outletErr == nil) {
		a.changed(now)
	}
	a.outletErr = err
}
