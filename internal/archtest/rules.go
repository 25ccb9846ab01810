package archtest

import "slices"

// Module is the path of the module that the rules are about.
const Module = "github.com/tsunami-rollouts/tsunami"

const (
	natsServer = "github.com/nats-io/nats-server/v2"
	natsClient = "github.com/nats-io/nats.go"
	exprLang   = "github.com/expr-lang/expr"
)

// cores decide, and therefore are functions of values and a time alone: the
// standard library without its clock, its randomness and its I/O, and the
// language of `where`. What their documents are written with is in field.
var cores = []string{"field", "rollout", "slo"}

// vocabulary is what the layers above the cores share.
var vocabulary = slices.Concat([]string{"subjects"}, cores)

// plumbing is what the parts are made of.
var plumbing = slices.Concat([]string{"bus", "control", "evidence", "access", "promql"}, vocabulary)

// parts run beside each other and know each other by the wire only.
var parts = []string{"scheduler", "hostagent", "sloguard", "console", "notify"}

// row says which packages of the module a package and those below it may
// import outside of their tests. A package may always import what lies below
// itself.
type row struct {
	pkg string
	may []string
}

// arrows has a row for every package of the module; the longest matching pkg
// counts.
var arrows = []row{
	{"field", nil},
	{"rollout", []string{"field"}},
	{"slo", []string{"field"}},
	{"subjects", cores},
	{"evidence", vocabulary},
	{"bus", vocabulary},
	{"promql", vocabulary},
	{"access", vocabulary},
	{"broker", slices.Concat([]string{"access"}, vocabulary)},
	{"control", slices.Concat([]string{"bus", "evidence", "access"}, vocabulary)},
	{"scheduler", plumbing},
	{"hostagent", plumbing},
	{"sloguard", plumbing},
	{"console", plumbing},
	{"notify", plumbing},
	{"cmd/tsunamid", slices.Concat(parts, plumbing, []string{"broker"})},
	{"cmd/tsunami-agent", slices.Concat(plumbing, []string{"hostagent"})},
	{"cmd/tsunamictl", plumbing},

	// Tests and what supports them. Nothing imports these but tests.
	{"fleettest", slices.Concat(parts, plumbing, []string{"broker"})},
	{"bench", nil},
	{"deploy", nil},
	{"e2e", nil},
	{"internal/archtest", nil},
	{"internal/testca", nil},
}

// servers are the packages that may import the NATS server outside of their
// tests.
var servers = []string{"broker", "fleettest"}

// supports are the packages that tests are made of, and that may therefore
// import package testing outside of _test.go files.
var supports = []string{"fleettest", "bench", "e2e", "internal/testca"}

// without lists what a program may not link, however indirectly.
var without = []struct {
	pkg, dep, why string
}{
	{"cmd/tsunami-agent", natsServer, "the agent stays small"},
	{"cmd/tsunamictl", natsServer, "the command line needs no broker"},
	{"cmd/tsunamid", Module + "/fleettest", "tests stay out of programs"},
	{"cmd/tsunami-agent", Module + "/fleettest", "tests stay out of programs"},
	{"cmd/tsunamictl", Module + "/fleettest", "tests stay out of programs"},
	{"subjects", natsClient, "subjects holds names and makes no connection"},
	{"subjects", "net", "subjects holds names and makes no connection"},
}

// impure are the packages, each with those below it, that a core may not
// import by itself: input, output and randomness. What the standard library
// imports behind others (fmt imports os) is its own affair.
var impure = []string{
	"net", "os", "log", "syscall", "io/ioutil", "plugin", "embed",
	"math/rand", "crypto/rand", "testing", "runtime/debug",
}

// clock are the functions of package time that a core may not call: now is an
// argument, and waiting is the shell's.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

// maxLines is where a file has become two: past it a reader looks for the two
// things inside. A file of tests, which is read by their names, may be longer.
const (
	maxLines     = 600
	maxTestLines = 800
)

// longFiles may be longer, each for a reason.
var longFiles = map[string]string{}

// forbidden are words that no file of the repository may hold: paths of the
// machine it was written on, and hosts of package registries, which the
// clients' own settings name. They are put together here so that this file
// doesn't hold them.
var forbidden = []struct{ word, why string }{
	{"/wo" + "rk/", "a path of one machine"},
	{"/ro" + "ot/", "a path of one machine"},
	{"proxy." + "golang.org", "a registry's host: the go command's settings name it"},
	{"sum." + "golang.org", "a registry's host: the go command's settings name it"},
	{"deb." + "debian.org", "a registry's host: apt's settings name it"},
	{"security." + "debian.org", "a registry's host: apt's settings name it"},
	{"registry." + "npmjs.org", "a registry's host: npm's settings name it"},
	{"pypi." + "org", "a registry's host: pip's settings name it"},
	{"static." + "crates.io", "a registry's host: cargo's settings name it"},
}

// unread are directories that hold no source of ours.
var unread = []string{".git", "bin", ".tools"}
