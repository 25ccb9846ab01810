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
