package access

import (
	"github.com/nats-io/jwt/v2"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// scope is the template of a role: what every identity may do that the role's
// signing key has issued.
func scope(role subjects.Role, key string) *jwt.UserScope {
	p := subjects.PermissionsOf(role)
	s := jwt.NewUserScope()
	s.Key, s.Role = key, string(role)
	allow := func(to *jwt.Permission, list []subjects.Permission) {
		for _, each := range list {
			to.Allow.Add(each.Subject)
		}
	}
	allow(&s.Template.Pub, p.Publish)
	allow(&s.Template.Sub, p.Subscribe)
	if p.Answers > 0 {
		s.Template.Resp = &jwt.ResponsePermission{MaxMsgs: p.Answers, Expires: p.AnswerTime}
	}
	return s
}

// cross sets what crosses between the accounts: exports of the core's, which is
// public key core, and imports of the fleet's.
func cross(c *jwt.AccountClaims, account subjects.Account, core string) {
	c.Exports, c.Imports = nil, nil
	add := func(subject string, kind jwt.ExportType, answers jwt.ResponseType) {
		if account == subjects.AccountCore {
			c.Exports.Add(&jwt.Export{Name: subject, Subject: jwt.Subject(subject), Type: kind, ResponseType: answers})
		} else {
			c.Imports.Add(&jwt.Import{Name: subject, Subject: jwt.Subject(subject), Type: kind, Account: core})
		}
	}
	for _, s := range subjects.Services {
		answers := jwt.ResponseType(jwt.ResponseTypeSingleton)
		if s.Many {
			answers = jwt.ResponseTypeStream
		}
		add(s.Subject, jwt.Service, answers)
	}
	for _, s := range subjects.Heard {
		add(s, jwt.Stream, "")
	}
}
