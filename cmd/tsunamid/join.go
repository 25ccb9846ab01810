package main

import (
	"errors"
	"io/fs"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/console"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// enrolment lets hosts join by token, as soon as the access directory has the
// key for it; nil without identities.
func (d *daemon) enrolment() (*console.Enrolment, error) {
	if d.trust == nil {
		return nil, nil
	}
	_, js, err := d.connect(access.PartJoiner)
	if err != nil {
		return nil, err
	}
	return &console.Enrolment{
		JetStream: js,
		Open: func() bool {
			_, err := d.trust.server.Load().JoinDesk()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				d.logger.Warn("hosts can't join by token", "err", err)
			}
			return err == nil
		},
		Admit: d.trust.admit,
		Revoked: func(key string, issued time.Time) bool {
			return d.trust.authority.Load().Revoked(key, issued)
		},
	}, nil
}

// errKey says that a request to join is sealed by another key than it names.
var errKey = errors.New("the proof is another key's")

// admit judges a request to join.
func (t *trust) admit(r *subjects.JoinRequest, now time.Time) (console.Admission, error) {
	server := t.server.Load()
	desk, err := server.JoinDesk()
	if err != nil {
		return console.Admission{}, err
	}
	token, err := desk.Read(r.Token)
	if err != nil {
		return console.Admission{}, err
	}
	if err := token.Admits(r.Host, r.Role, now); err != nil {
		return console.Admission{}, err
	}
	key, err := access.VerifyJoin(r.Proof, r.Token, r.Host, r.Role)
	if err != nil {
		return console.Admission{}, err
	}
	if key != r.Key {
		return console.Admission{}, errKey
	}
	return console.Admission{Token: token.ID, Uses: token.Uses, Issue: func() (subjects.JoinAnswer, error) {
		issued, err := desk.Issue(r.Host, key, time.Time{})
		if err != nil {
			return subjects.JoinAnswer{}, err
		}
		trusted, err := server.Trust()
		return subjects.JoinAnswer{JWT: issued.JWT, Trust: string(trusted)}, err
	}}, nil
}
