package access

import (
	"fmt"
	"io"
	"os"
)

// maxSecret bounds a file with a key or credentials.
const maxSecret = 64 << 10

// readSecret reads a file that nobody but its owner may read, and that is the
// caller's own or root's.
func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := private(info); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	b, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = fmt.Errorf("more than %d bytes can't be a key", maxSecret)
	}
	return b, err
}
