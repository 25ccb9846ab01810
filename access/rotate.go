package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// nextSeal is the key that seals records once every host trusts it.
const nextSeal = "seal.next.nk"

// newSeal makes a key that seals records, and adds it to those that are
// trusted.
func (s *Store) newSeal(file string) error {
	public, seed, err := newPair(nkeys.CreateUser)
	if err != nil {
		return err
	}
	defer clear(seed)
	text, err := os.ReadFile(s.TrustFile())
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte("# Public keys of the scheduler, which hosts believe: /etc/tsunami/trust.txt\n"), nil
	}
	if err != nil {
		return err
	}
	text = fmt.Appendf(text, "%s\n", public)
	// Trusted before it is used, everywhere.
	for _, file := range []string{s.TrustFile(), s.path(serverDir, trustFile)} {
		if err := writeFile(file, text, 0o644); err != nil {
			return err
		}
	}
	return writeSeed(file, seed)
}

// Trust is the file of public keys that agents pin.
func (s *Store) Trust() ([]byte, error) { return os.ReadFile(s.TrustFile()) }

// What Rotate's errors wrap.
var (
	// ErrBegun says that a rotation was begun and isn't finished.
	ErrBegun = errors.New("its rotation has begun already")
	// ErrNotBegun says that there is none to finish.
	ErrNotBegun = errors.New("its rotation hasn't begun")
	// ErrInUse says that finishing would cut somebody off.
	ErrInUse = errors.New("the old key is in use")
)

// RotateSeal begins to replace the key that seals records: the new one is
// trusted beside the old one, which goes on sealing. When trust.txt has reached
// every host, FinishSeal makes the new one seal.
func (s *Store) RotateSeal() error {
	return s.locked(func() error {
		if _, err := os.Lstat(s.path(keysDir, nextSeal)); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(ErrBegun, err)
		}
		return s.newSeal(s.path(keysDir, nextSeal))
	})
}

// FinishSeal makes the new key seal. The old one stays trusted: what it has
// sealed is still in the bucket and in the audit log.
func (s *Store) FinishSeal() error {
	return s.locked(func() error {
		seed, err := readSecret(s.path(keysDir, nextSeal))
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNotBegun
		}
		if err != nil {
			return err
		}
		defer clear(seed)
		if err := WriteSecret(s.path(serverDir, sealFile), seed); err != nil {
			return err
		}
		return os.Remove(s.path(keysDir, nextSeal))
	})
}

// signers are the account's keys that issue a role; those that issue hosts for
// join tokens are apart.
func signers(c *jwt.AccountClaims, role subjects.Role, joining bool) (keys []string) {
	for key, scope := range c.SigningKeys {
		template, ok := scope.(*jwt.UserScope)
		if ok && template.Role == string(role) && joining == (template.Description == joinScope) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// RotateRole begins to replace a role's signing key: from now on the new one
// issues, and identities of the old one stay good until FinishRole.
func (s *Store) RotateRole(role subjects.Role) error {
	return s.locked(func() error {
		return s.change(role.Account(), func(c *jwt.AccountClaims) error {
			key, err := s.rolesKey(role)
			if err != nil {
				return err
			}
			// A key that the account doesn't know is of a run that was cut short:
			// this one takes it up.
			if _, known := c.SigningKeys[key]; known {
				if len(signers(c, role, false)) > 1 {
					return ErrBegun
				}
				// The account is written after this, and Issue is kept out by the
				// lock.
				if key, err = s.newKey(string(role)+".nk", nkeys.CreateAccount); err != nil {
					return err
				}
			}
			c.SigningKeys.AddScopedSigner(scope(role, key))
			return nil
		})
	})
}

// rolesKey is the public key that issues a role.
func (s *Store) rolesKey(role subjects.Role) (string, error) {
	pair, err := s.key(keysDir, string(role)+".nk")
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

// Outdated are the identities that only a role's old key has issued, and that
// FinishRole would cut off: those that have no newer one by the same name.
func (s *Store) Outdated(role subjects.Role) ([]Entry, error) {
	key, err := s.rolesKey(role)
	if err != nil {
		return nil, err
	}
	all, err := s.Of(time.Now(), func(e Entry) bool { return e.Role == role && !e.Bearer })
	if err != nil {
		return nil, err
	}
	newest := map[string]Entry{}
	for _, e := range all {
		newest[e.Name] = e
	}
	var out []Entry
	for _, e := range newest {
		if e.Issuer != key {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Renew issues identities anew, each with a key of its own and for as long as
// the one before; that one stays good. A part's credentials are put where its
// server reads them.
func (s *Store) Renew(old ...Entry) (out []Issued, err error) {
	now := time.Now()
	wanted := make([]Wanted, len(old))
	for i, e := range old {
		wanted[i] = Wanted{Name: e.Name, Role: e.Role}
		if !e.Expires.IsZero() {
			wanted[i].Expires = now.Add(e.Expires.Sub(e.Issued))
		}
	}
	return out, s.locked(func() error {
		if out, err = s.issue(wanted); err != nil {
			return err
		}
		for i := range out {
			if IsPart(out[i].Entry) {
				if err := s.keepPart(out[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// IsPart says whether an identity is a part's of tsunamid, whose credentials
// are in the folder server.
func IsPart(e Entry) bool {
	role, ok := parts[e.Name]
	return ok && role == e.Role && !e.Bearer
}

// FinishName ends all identities of a name but the newest of each role, and
// returns those that it ended. The error wraps ErrNotBegun where there is one
// alone.
func (s *Store) FinishName(name string) ([]Entry, error) {
	ended, err := s.revoke(func() ([]Entry, error) {
		all, err := s.Of(time.Now(), func(e Entry) bool { return e.Name == name && !e.Bearer })
		newest := map[subjects.Role]string{}
		for _, e := range all {
			newest[e.Role] = e.Key
		}
		return slices.DeleteFunc(all, func(e Entry) bool { return newest[e.Role] == e.Key }), err
	})
	if errors.Is(err, ErrNobody) {
		err = fmt.Errorf("%s: %w", name, ErrNotBegun)
	}
	return ended, err
}

// FinishRole ends a role's old signing keys, and every identity that they have
// issued. The error wraps ErrInUse where that would cut off somebody without a
// newer identity, unless forced.
func (s *Store) FinishRole(role subjects.Role, force bool) error {
	outdated, err := s.Outdated(role)
	if err != nil {
		return err
	}
	if len(outdated) > 0 && !force {
		return fmt.Errorf("%w: %d identities have no newer one, %s among them: issue them anew first", ErrInUse, len(outdated), outdated[0].Name)
	}
	return s.locked(func() error {
		return s.change(role.Account(), func(c *jwt.AccountClaims) error {
			key, err := s.rolesKey(role)
			if err != nil {
				return err
			}
			if _, known := c.SigningKeys[key]; !known {
				return ErrNotBegun
			}
			return endOthers(c, key, signers(c, role, false))
		})
	})
}

// endOthers takes all keys but one out of the account.
func endOthers(c *jwt.AccountClaims, kept string, keys []string) error {
	if len(keys) < 2 {
		return ErrNotBegun
	}
	for _, key := range keys {
		if key != kept {
			delete(c.SigningKeys, key)
		}
	}
	return nil
}

// RotateJoin begins to replace the key that issues hosts for join tokens. Tokens
// of the old one aren't taken any more; hosts that joined with them stay good
// until FinishJoin.
func (s *Store) RotateJoin() error {
	return s.locked(func() error {
		if !s.Joining() {
			return ErrNotBegun
		}
		return s.change(subjects.AccountFleet, func(c *jwt.AccountClaims) error {
			if len(signers(c, subjects.RoleAgent, true)) > 1 {
				return ErrBegun
			}
			return s.newJoin(c)
		})
	})
}

// FinishJoin ends the old key, and every host that joined by it and hasn't
// joined or been enrolled anew: who that is, the audit log says.
func (s *Store) FinishJoin() error {
	return s.locked(func() error {
		return s.change(subjects.AccountFleet, func(c *jwt.AccountClaims) error {
			return endOthers(c, s.joinKey(), signers(c, subjects.RoleAgent, true))
		})
	})
}
