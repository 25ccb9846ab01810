package hostagent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// holding is whether this host may be changed.
type holding struct {
	held   string    // why not; empty: it may
	holdAt time.Time // of the next look for the hold file
}

// maxHeld bounds what a report says of the hold.
const maxHeld = 256

// mayChange looks for the hold file and says whether the host may be changed.
// It is asked every few seconds, and before every change, so that a file that
// is there is obeyed at once.
func (a *agent) mayChange(now time.Time) bool {
	a.holdAt = now.Add(a.jittered(a.Heartbeat / 4))
	was := a.held
	a.held = a.whyHeld()
	if a.held == was {
		return a.held == ""
	}
	a.changed(now)
	if a.held != "" {
		a.Logger.Warn("the host is held: the agent changes nothing", "host", a.host, "why", a.held)
		return false
	}
	a.Logger.Info("the host isn't held any more", "host", a.host, "was", was)
	if a.state.Generation > 0 {
		a.writeOutlets(now) // they may be behind since before
		a.settle(now, false)
	}
	return true
}

func (a *agent) whyHeld() string {
	var why []string
	if a.ObserveOnly {
		why = append(why, "observe-only")
	}
	if file := readHold(a.Config.Hold); file != "" {
		why = append(why, file)
	}
	return strings.Join(why, "; ")
}

// readHold gives the first line of the hold file, or says that there is one;
// empty: there is none. Whatever else stands in its place, or in the way to
// it, holds too. A link does as well, but isn't followed: the text goes into
// the report, and another file's contents don't.
func readHold(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if errors.Is(err, syscall.ELOOP) {
		return path + " is there, and is a link"
	}
	if err != nil {
		return printable(fmt.Sprintf("can't tell whether there is a hold file: %v", err), maxHeld)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		head := make([]byte, maxHeld)
		n, _ := io.ReadFull(f, head) // one that can't be read is as an empty one
		line, _, _ := strings.Cut(strings.TrimSpace(string(head[:n])), "\n")
		if line = printable(line, maxHeld); line != "" {
			return line
		}
	}
	return path + " is there"
}

// heldBack is what the report says of what the host was told and doesn't do.
func (a *agent) heldBack() string { return printable("held back: "+a.held, maxError) }
