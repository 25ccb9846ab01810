// Package deploy_test tries what deploy/ ships: units, samples, the broker's
// configuration and the example documents.
package deploy_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// run runs a program and returns what it printed, both streams as one.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		t.Fatalf("%s is needed: %v", name, err)
	}
	return string(out), err
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lay writes a unit where its program is one that every machine has, and the
// drop-ins into its directory; it returns the unit's path.
func lay(t *testing.T, unit string, dropIns ...string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, data string) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, d := range dropIns {
		put(unit+".d/"+d, text(t, "systemd/"+d))
	}
	program := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(tsunamid|tsunami-agent) `)
	data := text(t, "systemd/"+unit)
	if !program.MatchString(data) {
		t.Fatalf("%s starts none of the programs", unit)
	}
	return put(unit, program.ReplaceAllString(data, "ExecStart=/bin/sh "))
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		name, unit string
		dropIns    []string
		exposure   string // at most, as systemd-analyze security counts it, in tenths
	}{
		{"tsunamid", "tsunamid.service", nil, "20"},
		// It installs packages.
		{"agent", "tsunami-agent.service", nil, "80"},
		{"unprivileged agent", "tsunami-agent.service", []string{"unprivileged.conf"}, "20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			unit := lay(t, tt.unit, tt.dropIns...)
			// Unknown keys and values are warnings to it.
			if out, err := run(t, "systemd-analyze", "verify", "--man=no", unit); err != nil || strings.Contains(out, filepath.Base(unit)) {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			if out, err := run(t, "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+tt.exposure, unit); err != nil {
				t.Errorf("systemd-analyze security: %v\n%s", err, out)
			}
		})
	}
}

// Each line of the agent's sandbox says why it is there, or stands with one that
// does; and what packages need stays open.
func TestAgentSandboxIsExplained(t *testing.T) {
	key := regexp.MustCompile(`^([A-Za-z]+)=(.*)$`)
	sandbox := regexp.MustCompile(`^(Protect|Private|Restrict|SystemCall|Capability|Ambient|NoNew|Memory|Lock|Keyring|UMask|SocketBind|Remove)`)
	settings := func(name string) map[string]string {
		all := map[string]string{}
		explained := false
		for line := range strings.Lines(text(t, name)) {
			line = strings.TrimSpace(line)
			m := key.FindStringSubmatch(line)
			switch {
			case strings.HasPrefix(line, "#"):
				explained = true
			case line == "":
				explained = false
			case m != nil && sandbox.MatchString(m[1]):
				if !explained {
					t.Errorf("%s: nothing explains %s", name, line)
				}
				all[m[1]] = strings.TrimSpace(all[m[1]] + " " + m[2])
			}
		}
		return all
	}
	root := settings("systemd/tsunami-agent.service")
	for _, open := range []string{
		"ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "NoNewPrivileges", "RestrictSUIDSGID", "RestrictNamespaces",
		"ProtectKernelModules", "ProtectKernelTunables", "MemoryDenyWriteExecute", "SocketBindDeny",
	} {
		if v, ok := root[open]; ok {
			t.Errorf("the unit has %s=%s, and an installation needs it open", open, v)
		}
	}
	for _, filtered := range []string{"@privileged", "@setuid", "@mount", "@module", "@process", "@file-system"} {
		if strings.Contains(root["SystemCallFilter"], filtered) {
			t.Errorf("the unit denies %s, which dpkg or what it starts needs", filtered)
		}
	}
	if strings.Contains(root["CapabilityBoundingSet"], "CAP_SYS_PTRACE") {
		t.Error("the unit drops CAP_SYS_PTRACE, which start-stop-daemon needs")
	}
	unprivileged := settings("systemd/unprivileged.conf")
	for k, want := range map[string]string{
		"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": "", "SocketBindDeny": "any", "MemoryDenyWriteExecute": "yes",
	} {
		if got, ok := unprivileged[k]; !ok || got != want {
			t.Errorf("unprivileged.conf has %s=%s, want %s", k, got, want)
		}
	}
}

// The file that replaces the unit's flags starts out with the same.
func TestDefaultFlags(t *testing.T) {
	option := regexp.MustCompile(`(?m)^(?:Environment=)?"?TSUNAMID_OPTIONS="?([^"]*)"$`)
	unit, file := option.FindStringSubmatch(text(t, "systemd/tsunamid.service")), option.FindStringSubmatch(text(t, "systemd/tsunamid.default"))
	if unit == nil || file == nil || unit[1] != file[1] || !strings.Contains(unit[1], "--data ") {
		t.Errorf("tsunamid.service has %q, tsunamid.default has %q", unit, file)
	}
}

// What verifies the units is itself tried.
func TestVerifySeesAWrongUnit(t *testing.T) {
	unit := lay(t, "tsunamid.service")
	data := strings.Replace(text(t, unit), "ProtectSystem=strict", "ProtectSytem=strict", 1)
	if err := os.WriteFile(unit, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := run(t, "systemd-analyze", "verify", "--man=no", unit); !strings.Contains(out, filepath.Base(unit)) {
		t.Errorf("a misspelt key wasn't seen: %s", out)
	}
}

func TestUsers(t *testing.T) {
	conf, err := filepath.Abs("systemd/sysusers.conf")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "systemd-sysusers", "--dry-run", "--root="+t.TempDir(), conf); err != nil {
		t.Errorf("systemd-sysusers: %v\n%s", err, out)
	}
	users := text(t, conf)
	for _, unit := range []string{"systemd/tsunamid.service", "systemd/unprivileged.conf"} {
		m := regexp.MustCompile(`(?m)^User=(.+)$`).FindStringSubmatch(text(t, unit))
		if m == nil || !regexp.MustCompile(`(?m)^u +`+m[1]+` `).MatchString(users) {
			t.Errorf("%s: its user %v isn't in sysusers.conf", unit, m)
		}
	}
}

// TestAgentSample loads the sample, and holds it to naming every key.
func TestAgentSample(t *testing.T) {
	c, err := hostagent.LoadConfig("agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	sample := text(t, "agent.yaml")
	for _, key := range keys(reflect.TypeFor[hostagent.Config]()) {
		if !regexp.MustCompile(`(?m)(^|[{,]) *` + key + `:`).MatchString(sample) {
			t.Errorf("agent.yaml doesn't show the key %s", key)
		}
	}
	var kinds [4]int
	for _, k := range c.Checks {
		for i, there := range []bool{len(k.Exec) > 0, k.HTTP != "", k.TCP != "", k.Systemd != ""} {
			if there {
				kinds[i]++
			}
		}
	}
	if kinds != [4]int{1, 1, 1, 1} {
		t.Errorf("agent.yaml shows %v checks of the kinds: want one of each", kinds)
	}
	for name, e := range c.Enact {
		for _, argv := range [][]string{e.Exec, e.Observe} {
			program, ok := strings.CutPrefix(argv[0], "/usr/libexec/tsunami/")
			if !ok {
				t.Errorf("enact.%s: %s isn't shipped", name, argv[0])
				continue
			}
			if info, err := os.Stat(filepath.Join("libexec", program)); err != nil || info.Mode()&0o111 != 0o111 {
				t.Errorf("enact.%s: libexec/%s: %v, want a program", name, program, err)
			}
		}
	}
}

// keys are the JSON names of a struct's fields, and of those inside.
func keys(t reflect.Type) []string {
	var all []string
	for t.Kind() == reflect.Map || t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		all = append(append(all, name), keys(f.Type)...)
	}
	return all
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	variables := map[rollout.Name]*rollout.Variable{}
	var rollouts []control.Located
	for _, name := range files {
		documents, err := control.ParseDocuments(name, []byte(text(t, name)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, d := range documents {
			switch {
			case d.Variable != nil:
				variables[d.Variable.Name] = d.Variable
			case d.Rollout != nil:
				rollouts = append(rollouts, d)
			}
		}
	}
	for _, d := range rollouts {
		v := variables[d.Rollout.Variable]
		if v == nil {
			t.Errorf("%s: no example has the variable %s", d.File, d.Rollout.Variable)
		} else if err := v.Accept(d.Rollout.To); err != nil {
			t.Errorf("%s: %v", d.File, err)
		}
		// A where that fails on every host selects none.
		w, err := rollout.ParseWhere(d.Rollout.Where)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := w.Selects("web1.lon2.example.net", "accesspoint", map[rollout.Word]rollout.Word{"zone": "lon2-a", "rack": "r12"}); !ok || err != nil {
			t.Errorf("%s: where doesn't select the sample's host: %v", d.File, err)
		}
	}
	if len(variables) == 0 || len(rollouts) == 0 {
		t.Error("the examples show no variable, or no rollout")
	}
}

// TestBrokerConfiguration starts a server on nats-server.conf and makes the
// streams on it.
func TestBrokerConfiguration(t *testing.T) {
	o, err := server.ProcessConfigFile("nats-server.conf")
	if err != nil {
		t.Fatal(err)
	}
	if !o.JetStream || !o.SyncAlways {
		t.Errorf("JetStream %v, sync always %v: want both", o.JetStream, o.SyncAlways)
	}
	if o.Host != "127.0.0.1" || o.HTTPHost != "127.0.0.1" {
		t.Errorf("listens on %s and %s: want loopback, for there are no identities in it", o.Host, o.HTTPHost)
	}
	if o.MaxConn <= server.DEFAULT_MAX_CONNECTIONS {
		t.Errorf("at most %d connections: no more than the default", o.MaxConn)
	}
	o.StoreDir, o.Port, o.HTTPPort, o.NoSigs, o.NoLog = t.TempDir(), server.RANDOM_PORT, 0, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server isn't ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // made, and then found as they should be
		if err := bus.Setup(t.Context(), js, 1); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInstall installs below a directory and finds there what the units and
// the sample name.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	// The script takes the programs from bin/ beside it: lay out a tree with
	// stand-ins for them.
	tree := t.TempDir()
	for _, dir := range []string{"deploy", "scripts"} {
		if err := os.CopyFS(filepath.Join(tree, dir), os.DirFS(filepath.Join("..", dir))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"tsunamid", "tsunami-agent", "tsunamictl"} {
		if err := os.WriteFile(filepath.Join(tree, "bin", p), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DESTDIR", root)
	if out, err := run(t, "sh", filepath.Join(tree, "scripts", "install.sh")); err != nil {
		t.Fatalf("install.sh: %v\n%s", err, out)
	}
	for _, name := range []string{"systemd/tsunamid.service", "systemd/tsunami-agent.service", "agent.yaml"} {
		for _, path := range regexp.MustCompile(`/usr/(?:bin|libexec/tsunami|share/doc/tsunami)/[\w.-]+`).FindAllString(text(t, name), -1) {
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s names %s, which isn't installed: %v", name, path, err)
			}
		}
	}
	// Nothing below /etc is the installer's to write.
	if _, err := os.Stat(filepath.Join(root, "etc")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote below /etc: %v", err)
	}
}

// TestReadmeNamesWhatIsThere holds the table in README.md to the files.
func TestReadmeNamesWhatIsThere(t *testing.T) {
	readme := text(t, "README.md")
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(readme, -1)
	if len(rows) < 5 {
		t.Fatalf("its table has %d rows", len(rows))
	}
	var named []string
	for _, r := range rows {
		if _, err := os.Stat(r[1]); err != nil {
			t.Error(err)
		}
		named = append(named, r[1])
	}
	entries, err := os.ReadDir("systemd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(named, "systemd/"+e.Name()) {
			t.Errorf("systemd/%s isn't in the table", e.Name())
		}
	}
}
