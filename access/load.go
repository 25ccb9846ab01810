package access

import (
	"fmt"
	"os"
)

// LoadCredentials reads a credentials file that nobody but its owner may read.
func LoadCredentials(file string) (*Credentials, error) {
	text, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	c, err := ParseCredentials(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// LoadKeyring reads a file of pinned keys. It is no secret, but whoever may
// write it says whose seals count: it must be the caller's own or root's, and
// nobody else's to write.
func LoadKeyring(file string) (*Keyring, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := owned(info); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	text, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	k, err := ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}
