package subjects

import (
	"fmt"
	"slices"
)

// Role is what an identity is for, and so what it may do.
type Role string

// The roles. Setup makes the streams; Joiner enrols hosts that bear a join
// token. Alerter says what Alertmanager says.
const (
	RoleScheduler Role = "scheduler"
	RoleSloguard  Role = "sloguard"
	RoleSetup     Role = "setup"
	RoleJoiner    Role = "joiner"
	RoleAlerter   Role = "alerter"
	RoleAgent     Role = "agent"
	RoleViewer    Role = "viewer"
	RoleOperator  Role = "operator"
	RoleApprover  Role = "approver"
	RoleAdmin     Role = "admin"
)

// Roles are all roles: the parts', the hosts', the people's.
var Roles = []Role{
	RoleScheduler, RoleSloguard, RoleSetup, RoleJoiner, RoleAlerter, RoleAgent,
	RoleViewer, RoleApprover, RoleOperator, RoleAdmin,
}

// People are the roles of persons.
var People = []Role{RoleViewer, RoleOperator, RoleApprover, RoleAdmin}

// Person says whether it is the role of a person.
func (r Role) Person() bool { return slices.Contains(People, r) }

// ParseRole returns an error for what isn't a role.
func ParseRole(s string) (Role, error) {
	for _, r := range Roles {
		if string(r) == s {
			return r, nil
		}
	}
	return "", fmt.Errorf("%q isn't a role", s)
}
