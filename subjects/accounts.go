package subjects

// Account is one of the broker's accounts. What is published in one isn't heard
// in the other, but for what crosses.
type Account string

const (
	// AccountCore has the streams, and the parts of tsunamid that write them.
	AccountCore Account = "tsunami"
	// AccountFleet has hosts, people, and what hears Alertmanager. There are no streams in it, so that an
	// answer which somebody asks for on a key's subject is stored nowhere: the
	// broker checks on what a client publishes, not where it wants the answer.
	AccountFleet Account = "fleet"
)

// Accounts are both.
var Accounts = []Account{AccountCore, AccountFleet}

// Account is where a role's identities are.
func (r Role) Account() Account {
	if r == RoleAgent || r == RoleAlerter || r.Person() {
		return AccountFleet
	}
	return AccountCore
}

// Service is what the fleet's account may ask of the core's. Who of them may is
// in PermissionsOf.
type Service struct {
	Subject string
	// Many says that several messages answer one request.
	Many bool
}

// Services are all that crosses from the fleet to the core.
var Services = []Service{
	{healthPrefix + ">", false}, // a host's name may have dots
	{alivePrefix + ">", false},
	{AllAlerts, false},
	{AllHosts, false},
	{AllKeys, false},
	{API + ">", true},
	{jsAPI + ">", true},
	{"$JS.ACK.>", false},
	{"$JS.FC.>", false},
	{"$SRV.>", true},
}

// peopleInboxes begins the reply subjects of people. It is the same for all, so
// that what a consumer of theirs delivers can cross.
const peopleInboxes = inboxes + "people."

// PersonInbox is the prefix of a person's reply subjects: a context of the nats
// command has to say it.
func PersonInbox(name string) string { return peopleInboxes + name }

// KeyInbox is the prefix of anybody else's reply subjects, by their public key:
// a host's name may be the beginning of another's.
func KeyInbox(key string) string { return inboxes + key }

// Heard are the subjects of the core that the fleet may hear.
var Heard = []string{KindDesired.Echo(">"), peopleInboxes + ">"}
