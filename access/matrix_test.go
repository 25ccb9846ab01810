package access_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// who are the identities of the matrix: three hosts, one the beginning of
// another's name; the parts; and a person of each role.
var who = map[string]subjects.Role{
	"a": subjects.RoleAgent, "a.b": subjects.RoleAgent, "b": subjects.RoleAgent,
	"scheduler": subjects.RoleScheduler, "sloguard": subjects.RoleSloguard, "setup": subjects.RoleSetup, "joiner": subjects.RoleJoiner,
	"alerts": subjects.RoleAlerter,
	"vera":   subjects.RoleViewer, "anna": subjects.RoleApprover, "olga": subjects.RoleOperator, "adam": subjects.RoleAdmin,
}

// groups are words for several of them.
var groups = map[string][]string{
	"people":  {"vera", "anna", "olga", "adam"},
	"readers": {"scheduler", "sloguard", "vera", "anna", "olga", "adam"},
	"nobody":  nil,
}

// placeholders stand for several words of a subject.
var placeholders = map[string][]string{
	"<stream>": {subjects.Stream, subjects.HostsStream, subjects.AuditStream, subjects.EvidenceStream},
	"<reading>": {
		"get", "variable.list", "rollout.list", "rollout.show", "rollout.plan", "host.list", "host.show",
		"blackout.list", "objective.list", "status", "why",
	},
	"<changing>": {
		"apply", "delete", "rollout.start", "rollout.pause", "rollout.resume", "rollout.cancel", "rollout.advance",
		"rollout.release", "rollout.rollback", "host.decommission", "host.pin", "host.unpin", "start",
	},
}

// matrix says by hand who may publish on a subject and who may hear it: it
// isn't made from the permissions, it judges them. Placeholders are filled with
// each of their words, <key of X> is the public key of X.
const matrix = `
# A host's own, and nobody else's.
tsunami.health.a                        | a         | nobody
tsunami.health.a.b                      | a.b       | nobody
tsunami.health.b                        | b         | nobody
tsunami.alive.a                         | a         | scheduler sloguard
tsunami.alive.a.b                       | a.b       | scheduler sloguard
tsunami.alive.b                         | b         | scheduler sloguard
tsunami.alive.>                         | nobody    | scheduler sloguard
$KV.tsunami_hosts.a                     | a adam    | nobody
$KV.tsunami_hosts.a.b                   | a.b adam  | nobody
$KV.tsunami_hosts.b                     | b adam    | nobody
$KV.tsunami_hosts.c                     | adam      | nobody
tsunami.desired.a                       | nobody    | a
tsunami.desired.a.b                     | nobody    | a.b
tsunami.desired.b                       | nobody    | b
tsunami.desired.*                       | nobody    | nobody
tsunami.desired.>                       | nobody    | nobody
tsunami.desired.a.>                     | nobody    | nobody
$JS.API.DIRECT.GET.KV_tsunami.$KV.tsunami.desired.a   | a people   | nobody
$JS.API.DIRECT.GET.KV_tsunami.$KV.tsunami.desired.a.b | a.b people | nobody
$JS.API.DIRECT.GET.KV_tsunami.$KV.tsunami.desired.b   | b people   | nobody
$JS.API.DIRECT.GET.KV_tsunami.$KV.tsunami.epoch       | a a.b b people | nobody
$JS.API.DIRECT.GET.KV_tsunami.$KV.tsunami.leader      | people     | nobody
$JS.API.DIRECT.GET.KV_tsunami_hosts.$KV.tsunami_hosts.a | people   | nobody
$JS.API.DIRECT.GET.<stream>             | people    | nobody
$JS.API.DIRECT.GET.TSUNAMI_AUDIT.tsunami.audit.stop | people | nobody
$JS.API.DIRECT.GET.TSUNAMI_EVIDENCE.tsunami.health.a | people | nobody

# The keys: the scheduler's, the brakes, the guard's.
$KV.tsunami.desired.a                   | scheduler adam | nobody
$KV.tsunami.rollout.r                   | scheduler adam | nobody
$KV.tsunami.progress.r                  | scheduler adam | nobody
$KV.tsunami.variable.v                  | scheduler adam | nobody
$KV.tsunami.objective.o                 | scheduler adam | nobody
$KV.tsunami.blackout.x                  | scheduler adam | nobody
$KV.tsunami.pin.a                       | scheduler adam | nobody
$KV.tsunami.leader                      | scheduler adam | nobody
$KV.tsunami.epoch                       | scheduler adam | nobody
$KV.tsunami.abort.r                     | sloguard olga adam | nobody
$KV.tsunami.stop                        | scheduler olga adam | nobody
$KV.tsunami.guard                       | sloguard adam | nobody
$KV.tsunami.join.t.1                    | joiner adam | nobody
$KV.tsunami.other                       | adam      | nobody
$KV.tsunami.>                           | nobody    | nobody
$KV.other.x                             | nobody    | nobody

# The echoes, which nobody has to hear but the host that they are for.
tsunami.rollout.r                       | nobody    | nobody
tsunami.abort.r                         | nobody    | nobody
tsunami.stop                            | nobody    | nobody
tsunami.epoch                           | nobody    | nobody
tsunami.>                               | nobody    | nobody
>                                       | nobody    | nobody
$KV.>                                   | nobody    | nobody

# What the streams take in.
tsunami.silence.a                       | sloguard  | nobody
tsunami.silence._guard                  | sloguard  | nobody
tsunami.signal.o                        | sloguard  | nobody
tsunami.alert.received                  | alerts    | nobody
tsunami.audit.desired.a                 | nobody    | nobody
tsunami.evidence.desired.a              | nobody    | nobody

# Requests: each under its own name.
tsunami.api.vera.<reading>              | vera      | scheduler
tsunami.api.vera.<changing>             | nobody    | scheduler
tsunami.api.vera.rollout.approve        | nobody    | scheduler
tsunami.api.anna.<reading>              | anna      | scheduler
tsunami.api.anna.<changing>             | nobody    | scheduler
tsunami.api.anna.rollout.approve        | anna      | scheduler
tsunami.api.olga.<reading>              | olga      | scheduler
tsunami.api.olga.<changing>             | olga      | scheduler
tsunami.api.olga.rollout.approve        | olga      | scheduler
tsunami.api.adam.<reading>              | adam      | scheduler
tsunami.api.adam.<changing>             | adam      | scheduler
tsunami.api.a.status                    | nobody    | scheduler
tsunami.api.scheduler.apply             | nobody    | scheduler
tsunami.api.*.>                         | nobody    | scheduler
$SRV.PING                               | people    | scheduler
$SRV.INFO.tsunami                       | people    | scheduler

# Streams: made once, read by who reads, changed by nobody.
$JS.API.INFO                            | setup people | nobody
$JS.API.STREAM.NAMES                    | people    | nobody
$JS.API.STREAM.LIST                     | people    | nobody
$JS.API.STREAM.INFO.<stream>            | readers setup | nobody
$JS.API.STREAM.INFO.OTHER               | nobody    | nobody
$JS.API.STREAM.CREATE.<stream>          | setup     | nobody
$JS.API.STREAM.CREATE.OTHER             | nobody    | nobody
$JS.API.STREAM.UPDATE.<stream>          | nobody    | nobody
$JS.API.STREAM.DELETE.<stream>          | nobody    | nobody
$JS.API.STREAM.PURGE.<stream>           | nobody    | nobody
$JS.API.STREAM.MSG.DELETE.<stream>      | nobody    | nobody
$JS.API.STREAM.SNAPSHOT.<stream>        | nobody    | nobody
$JS.API.STREAM.RESTORE.<stream>         | nobody    | nobody
$JS.API.STREAM.LEADER.STEPDOWN.<stream> | nobody    | nobody
$JS.API.STREAM.MSG.GET.KV_tsunami       | readers joiner | nobody
$JS.API.STREAM.MSG.GET.KV_tsunami_hosts | readers joiner | nobody
$JS.API.STREAM.MSG.GET.TSUNAMI_AUDIT    | readers   | nobody
$JS.API.STREAM.MSG.GET.TSUNAMI_EVIDENCE | readers   | nobody
$JS.API.CONSUMER.CREATE.<stream>        | people    | nobody
$JS.API.CONSUMER.CREATE.<stream>.c      | readers   | nobody
$JS.API.CONSUMER.CREATE.<stream>.c.$KV.tsunami.desired.a | readers | nobody
$JS.API.CONSUMER.CREATE.OTHER.c         | nobody    | nobody
$JS.API.CONSUMER.DURABLE.CREATE.<stream>.c | nobody | nobody
$JS.API.CONSUMER.INFO.<stream>.c        | readers   | nobody
$JS.API.CONSUMER.DELETE.<stream>.c      | readers   | nobody
$JS.API.CONSUMER.MSG.NEXT.<stream>.c    | readers   | nobody
$JS.API.CONSUMER.NAMES.<stream>         | people    | nobody
$JS.API.CONSUMER.LIST.<stream>          | people    | nobody
$JS.API.>                               | nobody    | nobody
$JS.ACK.KV_tsunami.c.1.1.1.1.1          | people    | nobody
$JS.FC.KV_tsunami.c.x                   | people    | nobody
$JS.EVENT.ADVISORY.>                    | nobody    | nobody

# Inboxes, and the system's own.
_INBOX.x                                | nobody    | nobody
_INBOX.>                                | nobody    | nobody
_INBOX_people.olga.x                           | nobody    | olga
_INBOX_people.olga.>                           | nobody    | olga
_INBOX_people.>                         | nobody    | nobody
_INBOX_people.vera.>                           | nobody    | vera
_INBOX_a.x                              | nobody    | nobody
_INBOX_<key of a>.x                     | nobody    | a
_INBOX_<key of a.b>.>                   | nobody    | a.b
_INBOX_<key of scheduler>.>             | nobody    | scheduler
_INBOX_<key of sloguard>.>              | nobody    | sloguard
_INBOX_<key of setup>.>                 | nobody    | setup
_INBOX_<key of joiner>.>                | nobody    | joiner
_INBOX_<key of alerts>.>                | nobody    | alerts
_INBOX_<key of b>.>                     | nobody    | b
_INBOX_people.anna.>                           | nobody    | anna
_INBOX_people.adam.>                           | nobody    | adam
$SYS.REQ.CLAIMS.UPDATE                  | nobody    | nobody
$SYS.REQ.SERVER.PING                    | nobody    | nobody
$SYS.>                                  | nobody    | nobody
`

type row struct {
	subject               string
	publishes, subscribes []string
}

// rows reads the matrix.
func rows(t *testing.T, key map[string]string) (all []row) {
	t.Helper()
	names := func(s string) (out []string) {
		for word := range strings.FieldsSeq(s) {
			if group, ok := groups[word]; ok {
				out = append(out, group...)
			} else if _, ok := who[word]; ok {
				out = append(out, word)
			} else {
				t.Fatalf("nobody is called %q", word)
			}
		}
		return out
	}
	for line := range strings.Lines(matrix) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) != 3 {
			t.Fatalf("bad row %q", line)
		}
		r := row{strings.TrimSpace(cells[0]), names(cells[1]), names(cells[2])}
		for name := range who {
			r.subject = strings.ReplaceAll(r.subject, "<key of "+name+">", key[name])
		}
		filled := []string{r.subject}
		for placeholder, words := range placeholders {
			if strings.Contains(r.subject, placeholder) {
				filled = nil
				for _, w := range words {
					filled = append(filled, strings.ReplaceAll(r.subject, placeholder, w))
				}
			}
		}
		for _, subject := range filled {
			all = append(all, row{subject, r.publishes, r.subscribes})
		}
	}
	return all
}

// fleet is a broker with identities and the four streams.
type fleet struct {
	t      *testing.T
	dir    string
	store  *access.Store
	broker *broker.Broker
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: filepath.Join(t.TempDir(), "access")}
	var err error
	if f.store, err = access.Init(f.dir); err != nil {
		t.Fatal(err)
	}
	server, err := access.LoadServer(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.broker, err = broker.Start(broker.Options{Dir: t.TempDir(), Access: server, Unsynced: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.broker.Shutdown)
	nc, _ := f.connect("setup", subjects.RoleSetup)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(t.Context(), js, 1); err != nil {
		t.Fatalf("the part that makes the streams can't: %v", err)
	}
	return f
}

// connect connects as a part, or as somebody whose identity is issued for it. It
// returns the public key too.
func (f *fleet) connect(name string, role subjects.Role) (*nats.Conn, string) {
	f.t.Helper()
	file := filepath.Join(f.dir, "server", name+".creds")
	if !slices.Contains([]string{access.PartScheduler, access.PartSloguard, access.PartSetup, access.PartJoiner, access.PartAlerts}, name) {
		out, err := f.store.Issue(access.Wanted{Name: name, Role: role})
		if err != nil {
			f.t.Fatal(err)
		}
		file = filepath.Join(f.t.TempDir(), "creds")
		if err := os.WriteFile(file, out[0].Credentials, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	c, err := access.LoadCredentials(file)
	if err != nil {
		f.t.Fatal(err)
	}
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: f.broker.InProcess(), Creds: file, Inbox: c.Inbox(role.Person()), Name: name})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	return nc, c.Key()
}

// denied says whether the broker refuses what was just asked for. It says so
// before it answers the ping behind it.
func denied(t *testing.T, nc *nats.Conn, what, subject string) bool {
	t.Helper()
	if err := nc.FlushTimeout(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	err := nc.LastError()
	return err != nil && strings.Contains(err.Error(), `Permissions Violation for `+what+` "`+subject+`"`)
}

// Every identity against every subject: allowed exactly where the table says.
func TestMatrix(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	conns, keys := map[string]*nats.Conn{}, map[string]string{}
	for name, role := range who {
		conns[name], keys[name] = f.connect(name, role)
	}
	all := rows(t, keys)
	for _, r := range all {
		for name, nc := range conns {
			if !strings.ContainsAny(r.subject, "*>") {
				if err := nc.Publish(r.subject, nil); err != nil {
					t.Fatal(err)
				}
				if may := !denied(t, nc, "Publish to", r.subject); may != slices.Contains(r.publishes, name) {
					t.Errorf("%s may publish on %s: %t", name, r.subject, may)
				}
			}
			sub, err := nc.SubscribeSync(r.subject)
			if err != nil {
				t.Fatal(err)
			}
			if may := !denied(t, nc, "Subscription to", r.subject); may != slices.Contains(r.subscribes, name) {
				t.Errorf("%s may hear %s: %t", name, r.subject, may)
			}
			_ = sub.Unsubscribe() // of one that was refused there is nothing left
		}
	}

	// The table leaves nothing out: each verb of the service is in it, and
	// each permission has a row that it is for.
	for _, v := range control.Verbs {
		if v != control.RolloutApprove && !slices.Contains(placeholders["<reading>"], string(v)) && !slices.Contains(placeholders["<changing>"], string(v)) {
			t.Errorf("the table doesn't know the verb %s", v)
		}
	}
	for name, role := range who {
		fill := strings.NewReplacer("{{name()}}", name, "{{subject()}}", keys[name])
		p := subjects.PermissionsOf(role)
		for _, list := range [][]subjects.Permission{p.Publish, p.Subscribe} {
			for _, each := range list {
				pattern := fill.Replace(each.Subject)
				if !slices.ContainsFunc(all, func(r row) bool { return covers(pattern, r.subject) }) {
					t.Errorf("no row tries what %s may do on %s", name, pattern)
				}
			}
		}
	}
}

// What a host says reaches the other account, and what is for it comes back: one
// with dots in its name too.
func TestHostsAreHeard(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := sched.SubscribeSync(subjects.AllAlive)
	if err != nil {
		t.Fatal(err)
	}
	if err := sched.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a.b", "web1.lon2.example.net"} {
		host := rollout.Host(name)
		nc, _ := f.connect(name, subjects.RoleAgent)
		echo, err := nc.SubscribeSync(subjects.KindDesired.Echo(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish(subjects.Alive(host), nil); err != nil {
			t.Fatal(err)
		}
		if m, err := alive.NextMsg(5 * time.Second); err != nil || m.Subject != subjects.Alive(host) {
			t.Errorf("%s's heartbeat: %v, %v", name, m, err)
		}
		for subject, stream := range map[string]string{subjects.HostSubject(host): subjects.HostsStream, subjects.Health(host): subjects.EvidenceStream} {
			if m, err := nc.Request(subject, []byte(`{}`), 5*time.Second); err != nil || !strings.Contains(string(m.Data), stream) {
				t.Errorf("%s: %v, %v", subject, m, err)
			}
		}
		if _, err := bus.Put(t.Context(), js, bus.Message{Subject: subjects.KindDesired.Subject(name), Data: []byte(`{}`)}); err != nil {
			t.Fatal(err)
		}
		if m, err := echo.NextMsg(5 * time.Second); err != nil || m.Subject != subjects.KindDesired.Echo(name) {
			t.Errorf("%s hears %v, %v", name, m, err)
		}
		if m, err := nc.Request("$JS.API.DIRECT.GET."+subjects.Stream+"."+subjects.KindDesired.Subject(name), nil, 5*time.Second); err != nil || string(m.Data) != `{}` {
			t.Errorf("%s reads %v, %v", name, m, err)
		}
	}
}

// covers says whether a pattern matches a subject, token by token.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s) || token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}
