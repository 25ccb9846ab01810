package access

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The kinds of seals of joining.
const (
	sealJoinToken = "application/vnd.tsunami.join-token"
	sealJoin      = "application/vnd.tsunami.join"
)

// maxJoinToken bounds a token's text, in bytes.
const maxJoinToken = 4096

// JoinToken lets a host in that has no identity yet. It is good for one host,
// or for a number of hosts of some roles.
type JoinToken struct {
	ID      string         `json:"id"`
	Host    rollout.Host   `json:"host,omitempty"`  // the only one, or
	Roles   []rollout.Word `json:"roles,omitempty"` // any host of these
	Uses    int            `json:"uses"`            // at least 1
	Expires time.Time      `json:"expires"`
}

// Bounds of a join token.
const (
	MaxJoinUses = 10_000
	MaxJoinTime = 7 * 24 * time.Hour
)

// ErrToken says that a join token isn't good, and why.
var ErrToken = errors.New("the join token isn't good")

// Admits says why a token doesn't let a host in, or nil.
func (t *JoinToken) Admits(host rollout.Host, role rollout.Word, now time.Time) error {
	switch {
	case !now.Before(t.Expires):
		return fmt.Errorf("%w: it has expired at %s", ErrToken, t.Expires.UTC().Format(time.RFC3339))
	case t.Host != "" && t.Host != host:
		return fmt.Errorf("%w: it is another host's", ErrToken)
	case t.Host == "" && !slices.Contains(t.Roles, role):
		return fmt.Errorf("%w: it isn't for hosts of role %s", ErrToken, role)
	}
	return nil
}

// joinScope marks the account's keys that issue hosts for join tokens.
const joinScope = "hosts that join by a token"

// Joining says whether joining by tokens is enabled.
func (s *Store) Joining() bool { return s.joinKey() != "" }

// joinKey is the public key that issues identities for join tokens, "" where
// joining isn't enabled.
func (s *Store) joinKey() string {
	pair, err := s.key(serverDir, joinFile)
	if err != nil {
		return ""
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return ""
	}
	return public
}

// JoinToken makes a join token and, the first time, the key with which a server
// answers it: from then on whoever holds the folder server can issue hosts'
// identities.
func (s *Store) JoinToken(t JoinToken, now time.Time) (text string, err error) {
	switch life := t.Expires.Sub(now); {
	case t.Host == "" && len(t.Roles) == 0:
		return "", errors.New("a join token is for one host or for roles")
	case t.Host != "" && (len(t.Roles) > 0 || t.Uses != 1):
		return "", errors.New("a join token for one host is used once")
	case t.Uses < 1 || t.Uses > MaxJoinUses:
		return "", fmt.Errorf("%d uses: want 1 to %d", t.Uses, MaxJoinUses)
	case life <= 0 || life > MaxJoinTime:
		return "", fmt.Errorf("it would live for %s: want at most %s", life, MaxJoinTime)
	}
	t.ID, t.Expires = strings.ToLower(rand.Text()), t.Expires.UTC().Truncate(time.Second)
	body, err := subjects.Encode(t)
	if err != nil {
		return "", err
	}
	err = s.locked(func() error {
		if _, err := os.Lstat(s.path(serverDir, joinFile)); errors.Is(err, fs.ErrNotExist) {
			if err := s.change(subjects.AccountFleet, s.newJoin); err != nil {
				return err
			}
		}
		seed, err := readSecret(s.path(serverDir, joinFile))
		if err != nil {
			return err
		}
		signer, err := joinSigner(seed)
		if err != nil {
			return err
		}
		text = base64.RawURLEncoding.EncodeToString(body) + "." +
			base64.RawURLEncoding.EncodeToString([]byte(signer.seal(subjects.Sealed(sealJoinToken, t.ID, nil, body))))
		return nil
	})
	return text, err
}

// newJoin makes the key that issues hosts for join tokens.
func (s *Store) newJoin(c *jwt.AccountClaims) error {
	public, seed, err := newPair(nkeys.CreateAccount)
	if err != nil {
		return err
	}
	defer clear(seed)
	template := scope(subjects.RoleAgent, public)
	template.Description = joinScope
	c.SigningKeys.AddScopedSigner(template)
	return writeSeed(s.path(serverDir, joinFile), seed)
}

// joinSigner is the key that issues hosts, as one that signs.
func joinSigner(seed []byte) (*Signer, error) {
	s, err := newSigner(nkeys.PrefixByteAccount, bytes.TrimSpace(seed))
	if err != nil {
		return nil, fmt.Errorf("the key for joining %w", err)
	}
	return s, nil
}

// JoinDesk answers join tokens. What was used how often is its caller's to
// count.
type JoinDesk struct {
	seed    []byte
	signer  *Signer
	account string // public key
}

// JoinDesk reads the key that answers join tokens. The error wraps
// fs.ErrNotExist where joining isn't enabled.
func (s *Server) JoinDesk() (*JoinDesk, error) {
	seed, err := readSecret(filepath.Join(s.dir, joinFile))
	if err != nil {
		return nil, err
	}
	signer, err := joinSigner(seed)
	if err != nil {
		return nil, err
	}
	claims, err := jwt.DecodeAccountClaims(s.Account(subjects.AccountFleet))
	if err != nil {
		return nil, fmt.Errorf("the account of hosts: %w", err)
	}
	return &JoinDesk{bytes.TrimSpace(seed), signer, claims.Subject}, nil
}

// Read reads a token that this fleet has issued. The error wraps ErrToken.
func (d *JoinDesk) Read(text string) (*JoinToken, error) {
	bad := fmt.Errorf("%w: it isn't one of this fleet's", ErrToken)
	if len(text) > maxJoinToken {
		return nil, bad
	}
	first, second, ok := strings.Cut(strings.TrimSpace(text), ".")
	body, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if !ok || err != nil {
		return nil, bad
	}
	seal, err := base64.RawURLEncoding.Strict().DecodeString(second)
	if err != nil {
		return nil, bad
	}
	t, err := subjects.Decode[JoinToken](body)
	if err != nil || t.ID == "" || t.Uses < 1 {
		return nil, bad
	}
	h := subjects.Header{subjects.HeaderSeal: {string(seal)}}
	if public, _, _ := strings.Cut(string(seal), " "); public != d.signer.public {
		return nil, bad
	}
	if err := verify(d.signer.key.Public().(ed25519.PublicKey), sealJoinToken, t.ID, h, body); err != nil {
		return nil, bad
	}
	return t, nil
}

// Issue issues a host's identity for a public key whose private half never left
// the host.
func (d *JoinDesk) Issue(host rollout.Host, public string, expires time.Time) (Issued, error) {
	w := Wanted{Name: string(host), Role: subjects.RoleAgent, Key: public, Expires: expires}
	if err := checkName(w); err != nil {
		return Issued{}, err
	}
	if public == "" {
		return Issued{}, errors.New("no public key is given")
	}
	pair, err := nkeys.FromSeed(d.seed)
	if err != nil {
		return Issued{}, errors.New("the key for joining can't be read")
	}
	defer pair.Wipe()
	return issue(pair, d.account, w)
}

// NewHostKey makes a host's own key pair: the signer of its requests to join,
// and the seed for its credentials file.
func NewHostKey() (s *Signer, seed []byte, err error) {
	if _, seed, err = newPair(nkeys.CreateUser); err != nil {
		return nil, nil, err
	}
	s, err = NewSigner(seed)
	return s, seed, err
}

// FormatCredentials makes a credentials file.
func FormatCredentials(token string, seed []byte) ([]byte, error) {
	return jwt.FormatUserConfig(token, seed)
}

// SealJoin proves, to whoever has the token, that a host holds the key with
// which it asks to join.
func SealJoin(s *Signer, token string, host rollout.Host, role rollout.Word) string {
	return s.seal(subjects.Sealed(sealJoin, token, nil, joinBody(host, role)))
}

// VerifyJoin returns the public key whose holder asks to join, or an error
// where the seal isn't one over this request.
func VerifyJoin(seal, token string, host rollout.Host, role rollout.Word) (public string, err error) {
	public, _, _ = strings.Cut(seal, " ")
	key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(public))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return "", ErrBrokenSeal
	}
	h := subjects.Header{subjects.HeaderSeal: {seal}}
	if err := verify(key, sealJoin, token, h, joinBody(host, role)); err != nil {
		return "", err
	}
	return public, nil
}

func joinBody(host rollout.Host, role rollout.Word) []byte {
	return []byte(string(host) + "\n" + string(role))
}
