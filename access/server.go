package access

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The folders and files of an access directory. What a server loads is apart
// from the keys that issue identities, so that it can be copied alone.
const (
	serverDir = "server" // for tsunamid, or a nats-server
	keysDir   = "keys"   // for whoever issues identities

	operatorFile = "operator.jwt"
	systemFile   = "system.jwt"
	sealFile     = "seal.nk" // the seed that seals records
	joinFile     = "join.nk" // the seed that issues hosts' identities for join tokens; only where that is wanted
	trustFile    = "trust.txt"
)

// accountFile is an account's JWT in the folder server.
func accountFile(a subjects.Account) string { return string(a) + ".jwt" }

// Parts of tsunamid with an identity each, and so a credentials file.
const (
	PartScheduler = "scheduler"
	PartSloguard  = "sloguard"
	PartSetup     = "setup"
	PartConsole   = "console"
	PartJoiner    = "joiner"
	PartAlerts    = "alerts"
)

// Server is what a server has to know: the JWTs of the operator and the
// accounts, and where the parts' credentials are.
type Server struct {
	Operator, System string   // JWTs
	Accounts         []string // likewise, in the order of subjects.Accounts

	dir    string // DIR/server
	change [2]time.Time
}

// LoadServer reads the folder server of an access directory, which Init wrote.
func LoadServer(dir string) (*Server, error) {
	s := &Server{dir: filepath.Join(dir, serverDir), Accounts: make([]string, len(subjects.Accounts))}
	s.change = s.stamp() // before it is read: what changes meanwhile is seen next time
	files := map[string]*string{operatorFile: &s.Operator, systemFile: &s.System}
	for i, a := range subjects.Accounts {
		files[accountFile(a)] = &s.Accounts[i]
	}
	for name, to := range files {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return nil, fmt.Errorf("the access directory: %w: 'tsunamictl access init' makes one", err)
		}
		*to = string(bytes.TrimSpace(b))
	}
	return s, nil
}

// Account is an account's JWT.
func (s *Server) Account(a subjects.Account) string {
	return s.Accounts[slices.Index(subjects.Accounts, a)]
}

func (s *Server) stamp() (at [2]time.Time) {
	for i, a := range subjects.Accounts {
		at[i] = s.change[i] // where it is being replaced, or gone, what is known stays
		if info, err := os.Stat(filepath.Join(s.dir, accountFile(a))); err == nil {
			at[i] = info.ModTime()
		}
	}
	return at
}

// Changed says whether an account's file is another than the one that was read:
// an identity was revoked, or a key replaced.
func (s *Server) Changed() bool { return s.stamp() != s.change }

// Authority is who is known, as of when the folder was read.
func (s *Server) Authority() (*Authority, error) { return NewAuthority(s.Accounts...) }

// Credentials is the file of a part's credentials. It returns an error where
// others than its owner could read it.
func (s *Server) Credentials(part string) (string, error) {
	file := filepath.Join(s.dir, part+".creds")
	_, err := readSecret(file)
	return file, err
}

// Signer seals the scheduler's records.
func (s *Server) Signer() (*Signer, error) {
	seed, err := readSecret(filepath.Join(s.dir, sealFile))
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	return NewSigner(bytes.TrimSpace(seed))
}

// Keyring holds the keys that seal records, as agents pin them.
func (s *Server) Keyring() (*Keyring, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, trustFile))
	if err != nil {
		return nil, err
	}
	return ParseKeyring(text)
}
