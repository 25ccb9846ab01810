//go:build unix

package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// private says why a file isn't fit for a secret.
func private(info fs.FileInfo) error {
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others than its owner may use it (mode %04o): chmod 600 it", info.Mode().Perm())
	}
	return owned(info)
}

// owned says why a file isn't fit to be relied on.
func owned(info fs.FileInfo) error {
	switch owner, known := info.Sys().(*syscall.Stat_t); {
	case !info.Mode().IsRegular():
		return errors.New("it isn't a file")
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others than its owner may write it (mode %04o): chmod go-w it", info.Mode().Perm())
	case known && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return errors.New("it belongs to another user")
	}
	return nil
}

// flock locks an open file or directory until it is closed, or the process
// ends.
func flock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
