package access

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Identity is somebody whom an account knows.
type Identity struct {
	Name    string        // of a part, a host or an operator; checked
	Role    subjects.Role // what they may do
	Key     string        // the public key that is theirs
	Bearer  bool          // a token for HTTP: whoever has it is believed
	Issued  time.Time
	Expires time.Time // zero: never
}

// Authority says whom a JWT names: what the broker does at each connection, for
// whoever isn't the broker. It knows the accounts as of one moment.
type Authority struct{ accounts []*jwt.AccountClaims }

// ErrNotKnown says that a JWT names nobody here: not signed by the account's
// keys, expired or revoked.
var ErrNotKnown = errors.New("not known here")

// NewAuthority reads the JWTs of accounts. Their own signatures are checked
// against the key that they name; that this is the operator's is the caller's to
// know, by where the files came from.
func NewAuthority(accounts ...string) (*Authority, error) {
	a := &Authority{}
	for _, token := range accounts {
		claims, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			return nil, fmt.Errorf("an account's JWT: %w", err)
		}
		a.accounts = append(a.accounts, claims)
	}
	return a, nil
}

// Identify says whom a user's JWT names at this time. Possession isn't shown by
// it, except where the identity is a Bearer's: the caller proves it. The error
// wraps ErrNotKnown.
func (a *Authority) Identify(user string, now time.Time) (Identity, error) {
	claims, err := jwt.DecodeUserClaims(user)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrNotKnown, err)
	}
	id := Identity{Name: claims.Name, Key: claims.Subject, Bearer: claims.BearerToken, Issued: time.Unix(claims.IssuedAt, 0)}
	if claims.Expires > 0 {
		id.Expires = time.Unix(claims.Expires, 0)
	}
	at := slices.IndexFunc(a.accounts, func(c *jwt.AccountClaims) bool { return c.Subject == claims.IssuerAccount })
	if at < 0 {
		return Identity{}, fmt.Errorf("%w: of another account", ErrNotKnown)
	}
	account := a.accounts[at]
	scope, ok := account.SigningKeys.GetScope(claims.Issuer)
	template, scoped := scope.(*jwt.UserScope)
	switch {
	case !ok || !scoped:
		return Identity{}, fmt.Errorf("%w: not issued by a key of the account", ErrNotKnown)
	case !id.Expires.IsZero() && !now.Before(id.Expires):
		return Identity{}, fmt.Errorf("%w: %s has expired at %s", ErrNotKnown, claims.Name, id.Expires.UTC().Format(time.RFC3339))
	case account.IsClaimRevoked(claims):
		return Identity{}, fmt.Errorf("%w: %s is revoked", ErrNotKnown, claims.Name)
	}
	if id.Role, err = subjects.ParseRole(template.Role); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrNotKnown, err)
	}
	return id, nil
}

// Revoked says whether a key's identities that were issued at this time are
// revoked; at the zero time, whether any is.
func (a *Authority) Revoked(key string, issued time.Time) bool {
	return slices.ContainsFunc(a.accounts, func(c *jwt.AccountClaims) bool {
		if issued.IsZero() {
			_, revoked := c.Revocations[key]
			return revoked
		}
		return c.Revocations.IsRevoked(key, issued)
	})
}
