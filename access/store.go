package access

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	operatorKey  = "root.nk" // the operator, in the words of NATS
	systemKey    = "system.nk"
	issuedFile   = "identities.jsonl"
	operatorName = "tsunami"
	systemName   = "system"
)

// Store is an access directory with its keys: it issues identities.
type Store struct{ dir string }

// Entry is one identity that was issued, as identities.jsonl keeps it.
type Entry struct {
	Name    string        `json:"name"`
	Role    subjects.Role `json:"role"`
	Key     string        `json:"key"`    // public
	Issuer  string        `json:"issuer"` // the role's signing key then
	Issued  time.Time     `json:"issued"`
	Expires time.Time     `json:"expires,omitzero"` // zero: never
	Bearer  bool          `json:"bearer,omitempty"` // a token for HTTP
	Revoked time.Time     `json:"revoked,omitzero"`
}

// ErrExists says that there is an access directory already.
var ErrExists = errors.New("there are keys already")

// Init makes an access directory: every key, the accounts, the parts'
// credentials, and what a nats-server loads. It returns an error that wraps
// ErrExists where there is one.
func Init(dir string) (*Store, error) {
	s := &Store{dir}
	for _, d := range []string{dir, s.path(keysDir), s.path(serverDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return s, s.locked(func() error {
		if _, err := os.Lstat(s.path(keysDir, operatorKey)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w: nothing was changed", dir, errors.Join(ErrExists, err))
		}
		return s.init()
	})
}

func (s *Store) init() error {
	system, err := s.newKey(systemKey, nkeys.CreateAccount)
	if err != nil {
		return err
	}
	claims := map[subjects.Account]*jwt.AccountClaims{}
	core := ""
	for _, a := range subjects.Accounts {
		public, err := s.newKey(accountKey(a), nkeys.CreateAccount)
		if err != nil {
			return err
		}
		c := jwt.NewAccountClaims(public)
		c.Name, c.Limits.DisallowBearer = string(a), true
		if a == subjects.AccountCore {
			core = public
			c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
		}
		cross(c, a, core)
		claims[a] = c
	}
	for _, role := range subjects.Roles {
		public, err := s.newKey(string(role)+".nk", nkeys.CreateAccount)
		if err != nil {
			return err
		}
		claims[role.Account()].SigningKeys.AddScopedSigner(scope(role, public))
	}
	if err := s.newSeal(s.path(serverDir, sealFile)); err != nil {
		return err
	}
	pair, err := nkeys.CreateOperator()
	if err != nil {
		return err
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return err
	}
	operator := jwt.NewOperatorClaims(public)
	operator.Name, operator.SystemAccount = operatorName, system
	sys := jwt.NewAccountClaims(system)
	sys.Name = systemName
	files := map[string]jwt.Claims{operatorFile: operator, systemFile: sys}
	for a, c := range claims {
		files[accountFile(a)] = c
	}
	for file, c := range files {
		token, err := c.Encode(pair)
		if err != nil {
			return err
		}
		if err := writeFile(s.path(serverDir, file), []byte(token+"\n"), 0o644); err != nil {
			return err
		}
	}
	if err := s.writeConfig(); err != nil {
		return err
	}
	for part, role := range parts {
		issued, err := s.issue([]Wanted{{Name: part, Role: role}})
		if err != nil {
			return err
		}
		if err := s.keepPart(issued[0]); err != nil {
			return err
		}
	}
	// The operator's key is last: it says that the directory is complete.
	seed, err := pair.Seed()
	if err != nil {
		return err
	}
	return writeSeed(s.path(keysDir, operatorKey), seed)
}

// Open opens an access directory.
func Open(dir string) (*Store, error) {
	s := &Store{dir}
	if _, err := os.Stat(s.path(keysDir, operatorKey)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is no access directory: 'tsunamictl access init' makes one, --dir says where it is", dir)
		}
		return nil, err
	}
	return s, nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// ServerDir is the folder that a server loads.
func (s *Store) ServerDir() string { return s.path(serverDir) }

// TrustFile is the file of public keys that agents pin.
func (s *Store) TrustFile() string { return s.path(trustFile) }

// newKey makes a key, keeps its seed and returns its public half.
func (s *Store) newKey(file string, create func() (nkeys.KeyPair, error)) (public string, err error) {
	public, seed, err := newPair(create)
	if err != nil {
		return "", err
	}
	defer clear(seed)
	return public, writeSeed(s.path(keysDir, file), seed)
}

// key reads a key. Whoever asks wipes it.
func (s *Store) key(parts ...string) (nkeys.KeyPair, error) {
	file := s.path(parts...)
	seed, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	if err != nil {
		return nil, fmt.Errorf("%s isn't a key", file)
	}
	return pair, nil
}

// accountKey is the file of an account's own key, which signs nothing.
func accountKey(a subjects.Account) string { return "account." + string(a) + ".nk" }

// account reads an account's claims.
func (s *Store) account(a subjects.Account) (*jwt.AccountClaims, error) {
	file := s.path(serverDir, accountFile(a))
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	claims, err := jwt.DecodeAccountClaims(string(bytes.TrimSpace(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return claims, nil
}

// ErrClock says that this machine's clock is behind what was signed before:
// servers would ignore a change that looks older.
var ErrClock = errors.New("this machine's clock is behind the last change's")

// change changes an account. Servers take a newer one only, by whole seconds,
// so a second change waits for the next. What roles may do, and what crosses
// between the accounts, becomes what it is in this version of Tsunami.
func (s *Store) change(a subjects.Account, f func(*jwt.AccountClaims) error) error {
	core, err := s.account(subjects.AccountCore)
	if err != nil {
		return err
	}
	claims, err := s.account(a)
	if err != nil {
		return err
	}
	if err := f(claims); err != nil {
		return err
	}
	for key, old := range claims.SigningKeys {
		if template, ok := old.(*jwt.UserScope); ok {
			renewed := scope(subjects.Role(template.Role), key)
			renewed.Description = template.Description
			claims.SigningKeys[key] = renewed
		}
	}
	cross(claims, a, core.Subject)
	switch wait := time.Until(time.Unix(claims.IssuedAt+1, 0)); {
	case wait > 2*time.Second:
		return fmt.Errorf("%w, by %s: set it right", ErrClock, wait.Round(time.Second))
	case wait > 0:
		time.Sleep(wait)
	}
	pair, err := s.key(keysDir, operatorKey)
	if err != nil {
		return err
	}
	defer pair.Wipe()
	token, err := claims.Encode(pair)
	if err != nil {
		return err
	}
	if err := writeFile(s.path(serverDir, accountFile(a)), []byte(token+"\n"), 0o644); err != nil {
		return err
	}
	return s.writeConfig()
}

// Wanted is an identity to be issued.
type Wanted struct {
	Name string
	Role subjects.Role
	// Key is the public key; "" makes a pair, whose private half is in the
	// credentials and kept nowhere else.
	Key     string
	Expires time.Time // zero: never
	Bearer  bool      // a token for HTTP, without a key
}

// Issued is an identity with what its owner needs.
type Issued struct {
	Entry
	JWT         string
	Credentials []byte // a credentials file; nil for a key that was given, and for a token
}

// parts are the identities that Init issues.
var parts = map[string]subjects.Role{
	PartScheduler: subjects.RoleScheduler, PartSloguard: subjects.RoleSloguard, PartSetup: subjects.RoleSetup,
	PartConsole: subjects.RoleViewer, PartJoiner: subjects.RoleJoiner,
	PartAlerts: subjects.RoleAlerter,
}

// keepPart puts a part's credentials where its server reads them.
func (s *Store) keepPart(i Issued) error {
	return WriteSecret(s.path(serverDir, i.Name+".creds"), i.Credentials)
}

// reserved are names that the audit log gives to parts, and words that rotation
// takes; names of roles are taken too.
var reserved = []string{string(rollout.Scheduler), string(rollout.SloGuard), PartConsole, PartAlerts, "guard", "tsunami", "seal", "join"}

// checkName refuses what the broker would read as a pattern, and names that are
// taken: a host's is a host name, a person's an id.
func checkName(w Wanted) error {
	switch {
	case w.Role == subjects.RoleAgent:
		_, err := rollout.ParseHost(w.Name)
		return err
	case w.Role.Person() || w.Role == subjects.RoleAlerter && w.Bearer:
		if slices.Contains(reserved, w.Name) || slices.Contains(subjects.Roles, subjects.Role(w.Name)) {
			return fmt.Errorf("operator %q: the name is one of Tsunami's own", w.Name)
		}
		_, err := rollout.ParseID("operator", w.Name)
		return err
	}
	return fmt.Errorf("role %q is of Tsunami's own parts: 'tsunamictl access init' has issued it", w.Role)
}

// Issue issues identities, all or none. The error wraps a *rollout.Error where
// a name isn't one.
func (s *Store) Issue(wanted ...Wanted) (out []Issued, err error) {
	for _, w := range wanted {
		if err := checkName(w); err != nil {
			return nil, err
		}
	}
	err = s.locked(func() error {
		out, err = s.issue(wanted)
		return err
	})
	return out, err
}

func (s *Store) issue(wanted []Wanted) ([]Issued, error) {
	signers := map[subjects.Role]nkeys.KeyPair{}
	defer func() {
		for _, pair := range signers {
			pair.Wipe()
		}
	}()
	out := make([]Issued, 0, len(wanted))
	for _, w := range wanted {
		if signers[w.Role] == nil {
			pair, err := s.key(keysDir, string(w.Role)+".nk")
			if err != nil {
				return nil, err
			}
			signers[w.Role] = pair
		}
		account, err := s.account(w.Role.Account())
		if err != nil {
			return nil, err
		}
		issued, err := issue(signers[w.Role], account.Subject, w)
		if err != nil {
			return nil, err
		}
		out = append(out, issued)
	}
	entries := make([]Entry, len(out))
	for i := range out {
		entries[i] = out[i].Entry
	}
	return out, s.note(entries...)
}

// issue makes and signs one identity.
func issue(signer nkeys.KeyPair, account string, w Wanted) (Issued, error) {
	var seed []byte
	if w.Key == "" {
		var err error
		if w.Key, seed, err = newPair(nkeys.CreateUser); err != nil {
			return Issued{}, err
		}
		defer clear(seed)
	}
	if !nkeys.IsValidPublicUserKey(w.Key) {
		return Issued{}, errors.New("the public key isn't a user's nkey")
	}
	c := jwt.NewUserClaims(w.Key)
	c.SetScoped(true) // which forgets what a scoped user may not say, the next among it
	c.Name, c.IssuerAccount, c.BearerToken = w.Name, account, w.Bearer
	if !w.Expires.IsZero() {
		c.Expires = w.Expires.Unix()
	}
	token, err := c.Encode(signer)
	if err != nil {
		return Issued{}, fmt.Errorf("%s: %w", w.Name, err)
	}
	out := Issued{JWT: token, Entry: Entry{
		Name: w.Name, Role: w.Role, Key: w.Key, Issuer: c.Issuer, Issued: time.Unix(c.IssuedAt, 0).UTC(), Bearer: w.Bearer,
	}}
	if !w.Expires.IsZero() {
		out.Expires = w.Expires.UTC().Truncate(time.Second)
	}
	if seed != nil && !w.Bearer {
		out.Credentials, err = jwt.FormatUserConfig(token, seed)
	}
	return out, err
}

// note appends to the list of what was issued.
func (s *Store) note(entries ...Entry) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, entry := range entries {
		if err := e.Encode(entry); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(s.path(issuedFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Sync(), f.Close())
}

// List gives every identity that was issued, in the order of issue. An entry
// that was revoked says when.
func (s *Store) List() ([]Entry, error) {
	f, err := os.Open(s.path(issuedFile))
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	var all []Entry
	at := map[string]int{} // by key
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		var e Entry
		if err := subjects.DecodeInto(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", s.path(issuedFile), n, err)
		}
		if i, ok := at[e.Key]; ok && !e.Revoked.IsZero() {
			all[i].Revoked = e.Revoked
			continue
		}
		at[e.Key] = len(all)
		all = append(all, e)
	}
	return all, lines.Err()
}

// Standing is whether an identity is let in.
type Standing string

// The standings of identities.
const (
	Good    Standing = "good"
	Expired Standing = "expired"
	Revoked Standing = "revoked"
	Ended   Standing = "ended" // with the key that issued it
)

// Standings says of each entry how it stands now.
func (s *Store) Standings(all []Entry, now time.Time) ([]Standing, error) {
	claims := map[subjects.Account]*jwt.AccountClaims{}
	for _, a := range subjects.Accounts {
		var err error
		if claims[a], err = s.account(a); err != nil {
			return nil, err
		}
	}
	out := make([]Standing, len(all))
	for i, e := range all {
		_, known := claims[e.Role.Account()].SigningKeys[e.Issuer]
		switch {
		case !e.Revoked.IsZero():
			out[i] = Revoked
		case !known:
			out[i] = Ended
		case !e.Expires.IsZero() && !now.Before(e.Expires):
			out[i] = Expired
		default:
			out[i] = Good
		}
	}
	return out, nil
}

// Of gives the identities that are good now, in the order of issue, for which
// the condition holds.
func (s *Store) Of(now time.Time, holds func(Entry) bool) (out []Entry, err error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	standings, err := s.Standings(all, now)
	for i := range standings {
		if standings[i] == Good && holds(all[i]) {
			out = append(out, all[i])
		}
	}
	return out, err
}

// ErrNobody says that no identity has the name.
var ErrNobody = errors.New("no such identity")

// Revoke ends every identity of a name, of one role or of any (""), and returns
// them. Servers that take the changed account disconnect them at once. The error
// wraps ErrNobody where none is good.
func (s *Store) Revoke(name string, role subjects.Role) ([]Entry, error) {
	return s.revoke(func() ([]Entry, error) {
		return s.Of(time.Now(), func(e Entry) bool { return e.Name == name && (role == "" || e.Role == role) })
	})
}

// RevokeKey ends the identity of a public key, whoever issued it: a host that
// joined by a token isn't on the list.
func (s *Store) RevokeKey(key string) ([]Entry, error) {
	if !nkeys.IsValidPublicUserKey(key) {
		return nil, fmt.Errorf("%q isn't the public key of an identity", key)
	}
	return s.revoke(func() ([]Entry, error) {
		all, err := s.Of(time.Now(), func(e Entry) bool { return e.Key == key })
		if len(all) == 0 {
			all = []Entry{{Name: "?", Role: subjects.RoleAgent, Key: key, Issuer: s.joinKey()}}
		}
		return all, err
	})
}

// revoke ends the identities that are found while nobody else changes anything.
func (s *Store) revoke(find func() ([]Entry, error)) (ended []Entry, err error) {
	return ended, s.locked(func() error {
		if ended, err = find(); err != nil {
			return err
		}
		if len(ended) == 0 {
			return fmt.Errorf("%w that is good now: 'tsunamictl access list' lists them", ErrNobody)
		}
		now := time.Now().UTC().Truncate(time.Second)
		for i := range ended {
			ended[i].Revoked = now
		}
		for _, a := range subjects.Accounts {
			elsewhere := func(e Entry) bool { return e.Role.Account() != a }
			here := slices.DeleteFunc(slices.Clone(ended), elsewhere)
			if len(here) == 0 {
				continue
			}
			if err := s.change(a, func(c *jwt.AccountClaims) error {
				for _, e := range here {
					c.RevokeAt(e.Key, now)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return s.note(ended...)
	})
}

// Refresh signs the accounts anew: what roles may do becomes what it is in this
// version of Tsunami.
func (s *Store) Refresh() error {
	return s.locked(func() error {
		for _, a := range subjects.Accounts {
			if err := s.change(a, func(*jwt.AccountClaims) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
}
