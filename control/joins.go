package control

import (
	"fmt"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// joinRecord reads a record of a join: of the token that was used, or of the host
// that has an identity by it.
func joinRecord(r *AuditRecord, m bus.Msg) {
	use, err := subjects.Decode[subjects.JoinUse](m.Data)
	if err != nil || m.Header.Deleted() {
		r.Reason = byHand(m)
		return
	}
	host, err := rollout.ParseHost(string(use.Host))
	if err != nil {
		r.Reason = byHand(m)
		return
	}
	r.Host = host
	if of, ok := subjects.JoinHost(r.Name); ok {
		r.Name, r.Reason = "", fmt.Sprintf("its identity is the key %s, by token %s", shorten(use.Key, 60), shorten(use.Token, 60))
		if of != host {
			r.Reason = byHand(m)
		}
		return
	}
	r.Reason = fmt.Sprintf("%s joined with token %s as role %s, from %s", host, shorten(use.Token, 60), shorten(string(use.Role), 60), shorten(use.Address, 60))
}
