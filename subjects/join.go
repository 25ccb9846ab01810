package subjects

import (
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// JoinPath is where a host exchanges a join token for an identity, over HTTP.
const JoinPath = "/v1/join"

// JoinRequest is what a host posts to JoinPath, as JSON. Its private key isn't in
// it and never leaves the host.
type JoinRequest struct {
	Token string       `json:"token"`
	Host  rollout.Host `json:"host"`
	Role  rollout.Word `json:"role"`
	Key   string       `json:"key"`   // the host's public key
	Proof string       `json:"proof"` // that it holds the private one: access.SealJoin over the token's text
}

// JoinAnswer is what it gets.
type JoinAnswer struct {
	JWT   string `json:"jwt"`
	Trust string `json:"trust"` // the file of keys to pin
}

// JoinUse is the record of one use of a join token, and the same of the host that
// used it: who became what, when and from where.
type JoinUse struct {
	Token   string       `json:"token"` // its id
	Host    rollout.Host `json:"host"`
	Role    rollout.Word `json:"role"`
	Key     string       `json:"key"`     // the host's public key
	Address string       `json:"address"` // from where it came
	Time    time.Time    `json:"time"`
}

// JoinUseSubject stores the nth use of a token, from 1.
func JoinUseSubject(token string, n int) string {
	return KindJoin.Subject(token + "." + strconv.Itoa(n))
}

// JoinHostSubject stores a host's last join. No token has such an id.
func JoinHostSubject(h rollout.Host) string { return KindJoin.Subject(joinHost + string(h)) }

// AuditJoinHost is where the audit log keeps it.
func AuditJoinHost(h rollout.Host) string { return AuditSubject(KindJoin, joinHost+string(h)) }

// JoinHost takes the host from the name of a host's join, as ParseKey gives it;
// it says no for that of a token's use.
func JoinHost(name string) (rollout.Host, bool) {
	host, ok := strings.CutPrefix(name, joinHost)
	return rollout.Host(host), ok
}

const joinHost = "_host."
