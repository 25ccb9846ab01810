package access

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// What Verify's errors wrap.
var (
	// ErrUnsealed says that there is no seal.
	ErrUnsealed = errors.New("it bears no seal")
	// ErrForeignSeal says that a key has sealed it that isn't trusted here.
	ErrForeignSeal = errors.New("it is sealed by a key that isn't trusted here")
	// ErrBrokenSeal says that the seal isn't one over this message.
	ErrBrokenSeal = errors.New("its seal is not over what it says")
)

// Signer seals the scheduler's records.
type Signer struct {
	key    ed25519.PrivateKey
	public string
}

// NewSigner makes a signer of an nkey's seed. It returns an error for what
// isn't a user's.
func NewSigner(seed []byte) (*Signer, error) {
	s, err := newSigner(nkeys.PrefixByteUser, seed)
	if err != nil {
		return nil, fmt.Errorf("the signing key %w", err)
	}
	return s, nil
}

// newSigner makes a signer of a seed of this kind. The key's text stays out of
// the errors.
func newSigner(kind nkeys.PrefixByte, seed []byte) (*Signer, error) {
	prefix, raw, err := nkeys.DecodeSeed(seed)
	if err != nil || prefix != kind {
		return nil, fmt.Errorf("isn't %s nkey", map[nkeys.PrefixByte]string{nkeys.PrefixByteUser: "a user's", nkeys.PrefixByteAccount: "an account's"}[kind])
	}
	key := ed25519.NewKeyFromSeed(raw)
	public, err := nkeys.Encode(kind, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("can't be used: %w", err)
	}
	return &Signer{key, string(public)}, nil
}

// Public is the key that others pin.
func (s *Signer) Public() string { return s.public }

// Seal sets the seal of a record on this subject, over its header and body, and
// returns what was signed.
func (s *Signer) Seal(subject string, h subjects.Header, body []byte) []byte {
	sealed := subjects.Sealed(subjects.SealRecord, subject, h, body)
	h[subjects.HeaderSeal] = []string{s.seal(sealed)}
	return sealed
}

func (s *Signer) seal(sealed []byte) string {
	return s.public + " " + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.key, sealed))
}

// Keyring holds the public keys whose seals are trusted: one, and a second
// while it is being replaced.
type Keyring struct{ keys map[string]ed25519.PublicKey }

// ParseKeyring reads a file of pinned keys: one a line, # begins a comment. It
// returns an error for a line that isn't a key, and for a file without any.
func ParseKeyring(text []byte) (*Keyring, error) {
	k := &Keyring{map[string]ed25519.PublicKey{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(line))
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("line %d isn't the public key of a signer", n) // it may be a secret by mistake
		}
		k.keys[line] = raw
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(k.keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return k, nil
}

// Keys are the public keys, in order.
func (k *Keyring) Keys() []string {
	var all []string
	for key := range k.keys {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// Verify returns nil where a trusted key has sealed exactly this record of the
// bucket. The subject is the one that stores it, whatever brought it. Errors
// wrap ErrUnsealed, ErrForeignSeal or ErrBrokenSeal.
func (k *Keyring) Verify(subject string, h subjects.Header, body []byte) error {
	seals := h[subjects.HeaderSeal]
	if len(seals) == 0 {
		return ErrUnsealed
	}
	public, _, _ := strings.Cut(seals[0], " ")
	key, ok := k.keys[public]
	if !ok {
		return ErrForeignSeal
	}
	return verify(key, subjects.SealRecord, subject, h, body)
}

// verify checks the one seal of a message.
func verify(key ed25519.PublicKey, kind, subject string, h subjects.Header, body []byte) error {
	seals := h[subjects.HeaderSeal]
	if len(seals) != 1 {
		return ErrBrokenSeal
	}
	_, text, _ := strings.Cut(seals[0], " ")
	signature, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || !ed25519.Verify(key, subjects.Sealed(kind, subject, h, body), signature) {
		return ErrBrokenSeal
	}
	return nil
}
