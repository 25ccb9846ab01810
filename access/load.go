package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nats-io/jwt/v2"
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

// ReadSecret reads a file that nobody but its owner may read.
func ReadSecret(file string) ([]byte, error) { return readSecret(file) }

// LoadKeyring reads a file of pinned keys. It is no secret, but whoever may
// write it says whose seals count: it must be the caller's own or root's, and
// nobody else's to write.
func LoadKeyring(file string) (*Keyring, error) {
	text, err := readFit(file, owned)
	if err != nil {
		return nil, err
	}
	k, err := ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// Expires is when the JWT ends; zero: never.
func (c *Credentials) Expires() time.Time {
	claims, err := jwt.DecodeUserClaims(c.jwt)
	if err != nil || claims.Expires == 0 {
		return time.Time{} // it was decoded before
	}
	return time.Unix(claims.Expires, 0)
}

// HostKey reads the key of a host that has begun to join from a file, and makes
// one there the first time: whoever doesn't get the answer asks again with the
// same key.
func HostKey(file string) (*Signer, []byte, error) {
	seed, err := readSecret(file)
	if errors.Is(err, fs.ErrNotExist) {
		s, seed, err := NewHostKey()
		if err != nil {
			return nil, nil, err
		}
		return s, seed, writeSeed(file, seed)
	}
	if err != nil {
		return nil, nil, err
	}
	seed = bytes.TrimSpace(seed)
	s, err := NewSigner(seed)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, seed, nil
}

// WriteSecret replaces a file that nobody but its owner may read. Whoever reads
// it meanwhile sees the one or the other, whole.
func WriteSecret(file string, data []byte) error { return writeFile(file, data, 0o600) }
