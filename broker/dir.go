package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const lockName = "broker.lock"

// lockDir makes the directory and takes its lock. The lock belongs to the open
// file, so it ends with the process, kill -9 included, and the file that stays
// behind means nothing.
func lockDir(dir string) (*os.File, error) {
	if dir == "" {
		return nil, errors.New("no directory for the broker's data")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory isn't writable: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		holder := ""
		if b, err := os.ReadFile(f.Name()); err == nil && len(b) > 0 {
			holder = " (process " + strings.TrimSpace(string(b)) + ")"
		}
		f.Close()
		return nil, fmt.Errorf("data directory %s is %w%s", dir, ErrHeld, holder)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	// For people, and a proof that the disk takes a write.
	if err := f.Truncate(0); err != nil {
		unlock(f)
		return nil, fmt.Errorf("the data directory isn't writable: %w", err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		unlock(f)
		return nil, fmt.Errorf("the data directory isn't writable: %w", err)
	}
	return f, nil
}

// unlock lets go of the directory. The file stays: removing it would let two
// processes lock two files of one name.
func unlock(f *os.File) { f.Close() }

// storeLimit is how many bytes the streams may take: what they have and nine
// tenths of what is free. The server's own default leaves out what it has,
// and so would refuse writes after a restart on a well-filled disk; without a
// limit it would run into the full disk and switch JetStream off. At the limit
// it answers writes with an error, and goes on.
func storeLimit(dir string) (int64, error) {
	free, _, err := space(dir)
	if err != nil {
		return 0, err
	}
	var used int64
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		used += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("adding up the data directory: %w", err)
	}
	return max(used+free/10*9, 1), nil
}

// space is how many bytes are free where the data lies, and how many are
// enough to go on: a fiftieth of the disk, but a mebibyte at least and a
// gibibyte at most.
func space(dir string) (free, enough int64, err error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return 0, 0, fmt.Errorf("looking for free space in %s: %w", dir, err)
	}
	size := int64(disk.Blocks) * int64(disk.Bsize)
	return int64(disk.Bavail) * int64(disk.Bsize), min(max(size/50, 1<<20), 1<<30), nil
}
