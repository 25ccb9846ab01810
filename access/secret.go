package access

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/nats-io/nkeys"
)

// maxSecret bounds a file with a key or credentials.
const maxSecret = 64 << 10

// readSecret reads a file that nobody but its owner may read, and that is the
// caller's own or root's.
func readSecret(file string) ([]byte, error) { return readFit(file, private) }

// readFit reads a file that is fit for its use.
func readFit(file string, fit func(fs.FileInfo) error) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := fit(info); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = fmt.Errorf("more than %d bytes can't be a key", maxSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

// newPair makes a key: its public half, and its seed.
func newPair(create func() (nkeys.KeyPair, error)) (public string, seed []byte, err error) {
	pair, err := create()
	if err != nil {
		return "", nil, err
	}
	defer pair.Wipe()
	if public, err = pair.PublicKey(); err != nil {
		return "", nil, err
	}
	if seed, err = pair.Seed(); err != nil {
		return "", nil, err
	}
	return public, bytes.Clone(seed), nil // wiping may not take the caller's
}

// writeSeed keeps a seed, as nk does.
func writeSeed(file string, seed []byte) error {
	return WriteSecret(file, append(bytes.Clone(seed), '\n'))
}
