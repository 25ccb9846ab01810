package access

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Credentials are somebody's JWT and private key, as a credentials file holds
// them.
type Credentials struct {
	jwt    string
	name   string
	signer *Signer
}

// ParseCredentials reads a credentials file. The key must be the one that the
// JWT names.
func ParseCredentials(file []byte) (*Credentials, error) {
	token, err := nkeys.ParseDecoratedJWT(file)
	if err != nil || token == "" {
		return nil, errors.New("there is no JWT in the credentials")
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return nil, fmt.Errorf("the JWT in the credentials: %w", err)
	}
	pair, err := nkeys.ParseDecoratedUserNKey(file)
	if err != nil {
		return nil, errors.New("there is no key in the credentials")
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return nil, errors.New("the key in the credentials can't be read")
	}
	s, err := NewSigner(bytes.TrimSpace(seed))
	if err != nil {
		return nil, err
	}
	if s.public != claims.Subject {
		return nil, errors.New("the key in the credentials isn't the one that their JWT names")
	}
	return &Credentials{token, claims.Name, s}, nil
}

// Name is whose they are.
func (c *Credentials) Name() string { return c.name }

// Key is the public key.
func (c *Credentials) Key() string { return c.signer.public }

// JWT is what they present.
func (c *Credentials) JWT() string { return c.jwt }

// SealRequest adds to a request's header who asks, when, and the seal that
// proves both and covers the subject and the body.
func (c *Credentials) SealRequest(subject string, h subjects.Header, body []byte, now time.Time) {
	h[subjects.HeaderIdentity] = []string{c.jwt}
	h[subjects.HeaderTime] = []string{now.UTC().Format(time.RFC3339Nano)}
	h[subjects.HeaderNonce] = []string{rand.Text()}
	h[subjects.HeaderSeal] = []string{c.signer.seal(subjects.Sealed(subjects.SealRequest, subject, h, body))}
}

// VerifyRequest says who sealed a request on this subject, and when they say
// that they did. Whether that is recent, and the nonce new, is the caller's to
// judge. The error wraps ErrUnsealed, ErrBrokenSeal or ErrNotKnown.
func (a *Authority) VerifyRequest(subject string, h subjects.Header, body []byte, now time.Time) (Identity, time.Time, error) {
	token := h.Get(subjects.HeaderIdentity)
	if token == "" || h.Get(subjects.HeaderSeal) == "" {
		return Identity{}, time.Time{}, ErrUnsealed
	}
	id, err := a.Identify(token, now)
	if err != nil {
		return Identity{}, time.Time{}, err
	}
	asked, err := time.Parse(time.RFC3339Nano, h.Get(subjects.HeaderTime))
	if err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("%w: %w", ErrBrokenSeal, err)
	}
	key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(id.Key))
	if err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("%w: %w", ErrNotKnown, err)
	}
	if public, _, _ := strings.Cut(h.Get(subjects.HeaderSeal), " "); public != id.Key {
		return Identity{}, time.Time{}, ErrBrokenSeal
	}
	return id, asked, verify(ed25519.PublicKey(key), subjects.SealRequest, subject, h, body)
}

// Inbox is the prefix of reply subjects that the identity may hear on, a
// person's or anybody else's.
func (c *Credentials) Inbox(person bool) string {
	if person {
		return subjects.PersonInbox(c.name)
	}
	return subjects.KeyInbox(c.signer.public)
}
