package hostagent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

const wholeConfig = `# a comment
server: nats://broker.example.net:4222
host: web1.lon2.example.net
role: accesspoint
labels: {zone: lon2-a, rack: 012}
state: /var/lib/tsunami
creds: /etc/tsunami/agent.creds
trust: /etc/tsunami/trust.txt
ca: /etc/tsunami/ca.pem
cert: /etc/tsunami/agent.pem
key: /etc/tsunami/agent.key
facts: /etc/facter/facts.d/tsunami.json
env: /run/tsunami/desired.env
hold: /run/tsunami/hold
enact:
  docker_version:
    exec: [/usr/libexec/tsunami/enact-deb, docker-ce]
    observe: [/usr/libexec/tsunami/observe-deb, docker-ce]
    timeout: 10m
    retry: {first: 10s, max: 1h30m, attempts: 5}
    drift: enact
  kernel:
    observe:
      - uname
      - "-r"
checks:
  docker: {exec: [docker, info], every: 15s, timeout: 5s, for: 30s}
  up:
    exec: [sleep, 1]
    for: 0s
  api: {http: "https://[::1]:8443/healthz?full=1", every: 10s}
  port: {tcp: "[::1]:5432"}
  unit: {systemd: getty@tty1.service}
`

func TestParseConfig(t *testing.T) {
	second := rollout.Duration(time.Second)
	want := Config{
		Server: "nats://broker.example.net:4222",
		Host:   "web1.lon2.example.net", Role: "accesspoint",
		Labels: map[rollout.Word]rollout.Word{"zone": "lon2-a", "rack": "012"},
		Creds:  "/etc/tsunami/agent.creds", Trust: "/etc/tsunami/trust.txt",
		CA: "/etc/tsunami/ca.pem", Cert: "/etc/tsunami/agent.pem", Key: "/etc/tsunami/agent.key",
		State: "/var/lib/tsunami", Facts: "/etc/facter/facts.d/tsunami.json", Env: "/run/tsunami/desired.env", Hold: "/run/tsunami/hold",
		Enact: map[rollout.Name]Enactor{
			"docker_version": {
				Exec:    []string{"/usr/libexec/tsunami/enact-deb", "docker-ce"},
				Observe: []string{"/usr/libexec/tsunami/observe-deb", "docker-ce"},
				Timeout: 600 * second, Retry: Retry{10 * second, 5400 * second, 5}, Drift: DriftEnact,
			},
			"kernel": {Observe: []string{"uname", "-r"}},
		},
		Checks: map[rollout.ID]Check{
			"docker": {Exec: []string{"docker", "info"}, Every: 15 * second, Timeout: 5 * second, For: 30 * second},
			"up":     {Exec: []string{"sleep", "1"}},
			"api":    {HTTP: "https://[::1]:8443/healthz?full=1", Every: 10 * second},
			"port":   {TCP: "[::1]:5432"},
			"unit":   {Systemd: "getty@tty1.service"},
		},
	}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(wholeConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	// What is written as JSON is read back the same.
	b, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if got, err = ParseConfig("agent.json", b); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("read back from JSON: %+v, %v\n%s", got, err, b)
	}
	if err := got.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestSampleConfig(t *testing.T) {
	c, err := LoadConfig("../deploy/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil || len(c.Enact) == 0 || len(c.Checks) == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := ParseConfig("a", []byte("enact: {v: {exec: [x]}, w: {exec: [x], retry: {first: 20m}}, u: {exec: [x], retry: {max: 1s}}}\nchecks: {c: {exec: [x]}}"))
	if err != nil {
		t.Fatal(err)
	}
	d := c.withDefaults()
	if e := d.Enact["v"]; e.Timeout.String() != "10m" || e.Retry.First.String() != "10s" || e.Retry.Max.String() != "10m" || e.Retry.Attempts != 5 {
		t.Errorf("enactor: %+v", e)
	}
	if r := d.Enact["w"].Retry; r.Max != r.First {
		t.Errorf("a first wait over the default max: %+v", r)
	}
	if r := d.Enact["u"].Retry; r.First != r.Max {
		t.Errorf("a max under the default first wait: %+v", r)
	}
	if k := d.Checks["c"]; k.Every.String() != "15s" || k.Timeout.String() != "5s" || k.For != 0 {
		t.Errorf("check: %+v", k)
	}
	if c.Enact["v"].Timeout != 0 {
		t.Error("the caller's map was changed")
	}
	if d.Server != DefaultServer || d.State != DefaultState || d.Hold != DefaultState+"/hold" {
		t.Errorf("%+v", d)
	}
}

func TestConfigFaults(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []string // parts of the message
	}{
		{"unknown key", "role: a\nrolle: b\n", []string{"agent.yaml:2: ", "rolle: isn't a key here: known are server, host, role, labels, state, creds, trust, ca, cert, key, facts, env, hold, enact, checks"}},
		{"unknown key of an enactor", "enact:\n  v:\n    exec: [a]\n    drfit: enact\n", []string{"agent.yaml:4: enact.v.drfit: isn't a key here: known are exec, observe, timeout, retry, drift"}},
		{"drift", "enact:\n  v:\n    exec: [a]\n    observe: [b]\n    drift: repair\n", []string{`agent.yaml:5: enact.v.drift: "repair" isn't known: want report or enact`}},
		{"drift that nobody sees", "enact:\n  v:\n    exec: [a]\n    drift: enact\n", []string{"agent.yaml:4: enact.v.drift: enact needs both exec and observe"}},
		{"drift that nothing repairs", "enact: {v: {observe: [a], drift: enact}}", []string{"enact.v.drift: enact needs both exec and observe"}},
		{"relative hold", "role: a\nhold: hold\n", []string{"agent.yaml:2: hold: ", "isn't an absolute path"}},
		{"kind of check that isn't there", "checks:\n  api: {htpp: \"http://x\"}\n", []string{"agent.yaml:2: checks.api.htpp: ", "known are exec, http, tcp, systemd, exporter, every, timeout, for"}},
		{"two kinds of check", "checks:\n  api:\n    exec: [a]\n    http: http://127.0.0.1/\n", []string{"agent.yaml:4: checks.api.http: comes beside exec"}},
		{"http without scheme", "checks:\n  api:\n    http: 127.0.0.1:8080/healthz\n", []string{"agent.yaml:3: checks.api.http: ", "want one such as http://127.0.0.1:8080/healthz"}},
		{"http of another scheme", "checks: {api: {http: 'ftp://x/'}}", []string{`checks.api.http: "ftp://x/" isn't`}},
		{"http without a host", "checks: {api: {http: 'http:///x'}}", []string{"checks.api.http: "}},
		{"http with a wrong port", "checks: {api: {http: 'http://x:70000/'}}", []string{"checks.api.http: "}},
		{"tcp without a port", "checks:\n  db:\n    tcp: 127.0.0.1\n", []string{"agent.yaml:3: checks.db.tcp: ", "want an address such as 127.0.0.1:5432"}},
		{"tcp without a host", "checks: {db: {tcp: ':5432'}}", []string{"checks.db.tcp: "}},
		{"tcp with a port's name", "checks: {db: {tcp: 'db:postgres'}}", []string{"checks.db.tcp: "}},
		{"tcp with port 0", "checks: {db: {tcp: 'db:0'}}", []string{"checks.db.tcp: "}},
		{"tcp as a list", "checks: {db: {tcp: [db, 1]}}", []string{"checks.db.tcp: want a text"}},
		{"unit without its type", "checks:\n  d:\n    systemd: docker\n", []string{"agent.yaml:3: checks.d.systemd: ", "want one such as docker.service"}},
		{"units by a pattern", "checks: {d: {systemd: 'docker*.service'}}", []string{"checks.d.systemd: "}},
		{"unknown retry", "enact: {v: {exec: [a], retry: {frist: 1s}}}", []string{"enact.v.retry.frist", "known are first, max, attempts"}},
		{"twice", "role: a\nhost: b\nrole: c\n", []string{"agent.yaml:3: ", `"role" already defined`}},
		{"host", "role: a\n\nhost: Web1\n", []string{"agent.yaml:3: host: ", "lower-case DNS name"}},
		{"wildcard host", "host: '>'", []string{"agent.yaml:1: host: "}},
		{"role", "role: a b", []string{"agent.yaml:1: role: "}},
		{"label", "labels:\n  zone: lon\n  Rack: a\n", []string{"agent.yaml:3: labels.Rack: "}},
		{"label's value", "labels: {zone: 'a b'}", []string{"labels.zone: "}},
		{"null", "role:\n", []string{"agent.yaml:1: role: want a text"}},
		{"variable", "enact:\n  Docker-Version: {exec: [a]}\n", []string{"agent.yaml:2: enact.Docker-Version: variable name"}},
		{"empty enactor", "enact:\n  v: {timeout: 1s}\n", []string{"agent.yaml:2: enact.v: has neither exec nor observe"}},
		{"exec as text", "enact: {v: {exec: docker info}}", []string{"enact.v.exec: want a list"}},
		{"list of lists", "enact: {v: {exec: [[a]]}}", []string{"enact.v.exec[0]: want a text"}},
		{"duration", "enact:\n  v:\n    exec: [a]\n    timeout: 10\n", []string{"agent.yaml:4: enact.v.timeout: ", `"10" isn't a duration`}},
		{"zero timeout", "enact: {v: {exec: [a], timeout: 0s}}", []string{"enact.v.timeout: must be above 0"}},
		{"long wait", "enact: {v: {exec: [a], retry: {max: 2w}}}", []string{"enact.v.retry.max: 2w is out of range"}},
		{"first over max", "enact: {v: {exec: [a], retry: {first: 2h, max: 1h}}}", []string{"enact.v.retry.first: 2h is over max 1h"}},
		{"attempts", "enact: {v: {exec: [a], retry: {attempts: 0}}}", []string{"enact.v.retry.attempts: want a whole number"}},
		{"check without exec", "checks: {c: {every: 1s}}", []string{"checks.c: has nothing to check: want one of exec, http, tcp, systemd and exporter"}},
		{"check's name", "checks: {c_d: {exec: [a]}}", []string{"checks.c_d: check name"}},
		{"busy check", "checks: {c: {exec: [a], every: 1ms}}", []string{"checks.c.every: 1ms is out of range"}},
		{"relative path", "facts: tsunami.json", []string{"facts: ", "isn't an absolute path"}},
		{"list", "- a\n", []string{"agent.yaml:1: ", "want a mapping"}},
		{"scalar", "hello", []string{"want a mapping"}},
		{"two documents", "role: a\n---\nrole: b\n", []string{"agent.yaml:3: ", "a second document"}},
		{"alias", "role: &r a\nhost: *r\n", []string{"agent.yaml:1: role: want a text", "agent.yaml:2: host: want a text"}},
		{"syntax", "role: a\nhost: [\n", []string{"agent.yaml"}},
		{"tab", "role: a\n\tb: c\n", []string{"agent.yaml:2: "}},
		{"several", "host: A\nrole: B\n", []string{"agent.yaml:1: host", "agent.yaml:2: role"}},
		{"deep", strings.Repeat("[", 100_000), []string{"agent.yaml: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConfig("agent.yaml", []byte(tt.in))
			if err == nil {
				t.Fatalf("no error; read as %+v", c)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error doesn't say %q:\n%v", want, err)
				}
			}
		})
	}
	if _, err := ParseConfig("agent.yaml", nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := ParseConfig("agent.yaml", []byte("# nothing\n")); err != nil {
		t.Errorf("a file of comments: %v", err)
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file is no error")
	}
	if err := (Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "host: is missing") || !strings.Contains(err.Error(), "role: is missing") {
		t.Errorf("nothing at all: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(wholeConfig))
	f.Add([]byte("enact: {v: {exec: [a], retry: {first: 1s}}}\n---\n"))
	f.Add([]byte("a: &x [*x]\n<<: *x\n? - b\n: |\n  c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig("fuzz", data)
		if err != nil {
			return
		}
		for _, fault := range c.faults() {
			t.Errorf("accepted with a fault: %v", fault)
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseConfig("again", b); err != nil {
			t.Errorf("%s isn't read back: %v", b, err)
		}
	})
}
