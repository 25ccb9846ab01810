package access

import (
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// PushSubject is where a nats-server takes an account's JWT, from a user of the
// system account.
const PushSubject = "$SYS.REQ.CLAIMS.UPDATE"

// pushTime is how long a Pusher is good for.
const pushTime = 5 * time.Minute

// Pusher is a user of the system account that may do nothing but push an
// accounts to a server. It is made for one run and kept nowhere.
type Pusher struct {
	JWT      string   // the user's
	Inbox    string   // the prefix of the replies that it may hear
	Accounts []string // the JWTs to push
	pair     nkeys.KeyPair
}

// Sign proves to a server that the user is who it says.
func (p *Pusher) Sign(nonce []byte) ([]byte, error) { return p.pair.Sign(nonce) }

// Pusher makes a user that pushes the accounts as they are.
func (s *Store) Pusher(now time.Time) (*Pusher, error) {
	server, err := LoadServer(s.dir)
	if err != nil {
		return nil, err
	}
	signer, err := s.key(keysDir, systemKey)
	if err != nil {
		return nil, err
	}
	defer signer.Wipe()
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, err
	}
	c := jwt.NewUserClaims(public)
	c.Name, c.Expires = "tsunamictl", now.Add(pushTime).Unix()
	p := &Pusher{Inbox: subjects.KeyInbox(public), Accounts: server.Accounts, pair: pair}
	c.Pub.Allow.Add(PushSubject)
	c.Sub.Allow.Add(p.Inbox + ".>")
	p.JWT, err = c.Encode(signer)
	return p, err
}
