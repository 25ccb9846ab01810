package subjects

import "fmt"

// Role is what an identity is for, and so what it may do.
type Role string

// The roles. Setup makes the streams; Joiner enrols hosts that bear a join
// token.
const (
	RoleScheduler Role = "scheduler"
	RoleSloguard  Role = "sloguard"
	RoleSetup     Role = "setup"
	RoleJoiner    Role = "joiner"
	RoleAgent     Role = "agent"
	RoleViewer    Role = "viewer"
	RoleOperator  Role = "operator"
	RoleApprover  Role = "approver"
	RoleAdmin     Role = "admin"
)

// Roles are all roles: the parts', the hosts', the people's.
var Roles = []Role{
	RoleScheduler, RoleSloguard, RoleSetup, RoleJoiner, RoleAgent,
	RoleViewer, RoleApprover, RoleOperator, RoleAdmin,
}

// ParseRole returns an error for what isn't a role.
func ParseRole(s string) (Role, error) {
	for _, r := range Roles {
		if string(r) == s {
			return r, nil
		}
	}
	return "", fmt.Errorf("%q isn't a role", s)
}
