package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFile replaces a file: written beside, synced, renamed. Whoever reads it
// meanwhile sees the one or the other, whole.
func writeFile(file string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	return err
}

// ErrBusy says that another run changes the access directory.
var ErrBusy = errors.New("another tsunamictl is changing it")

// locked runs a change of the access directory, one at a time.
func (s *Store) locked(change func() error) error {
	f, err := os.OpenFile(s.dir, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("the access directory: %w", err)
	}
	defer f.Close() // which releases the lock
	if err := flock(f); err != nil {
		return fmt.Errorf("the access directory %s: %w: %w", s.dir, ErrBusy, err)
	}
	return change()
}
