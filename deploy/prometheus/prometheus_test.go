// Package prometheus_test tries what is shipped for Prometheus and Grafana. That
// the metrics exist which it asks for is tried in cmd/tsunamid, on a tsunamid
// that runs.
package prometheus_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/tsunami-rollouts/tsunami/internal/testca"
)

// promtool runs it and returns what it printed, both streams as one.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		t.Fatalf("promtool is needed (make debs): %v", err)
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

func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// rule is one of a rule file.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	for _, name := range files(t, "rules/*.yml") {
		var f struct{ Groups []struct{ Rules []rule } }
		read(t, name, &f)
		for _, g := range f.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

// TestConfiguration checks it with files in the place of those that it names.
func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	ca := testca.New(t)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("a token"), 0o600); err != nil {
		t.Fatal(err)
	}
	shipped := text(t, "prometheus.yml")
	for _, want := range []string{"/etc/prometheus/tsunami/token", "/etc/prometheus/tsunami/ca.pem"} {
		if !strings.Contains(shipped, want) {
			t.Errorf("it doesn't name %s", want)
		}
	}
	data := strings.NewReplacer("/etc/prometheus/tsunami/token", token, "/etc/prometheus/tsunami/ca.pem", ca.File).Replace(shipped)
	name := filepath.Join(dir, "prometheus.yml")
	check := func(data string) (string, error) {
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return promtool(t, "check", "config", name)
	}
	out, err := check(data)
	if err != nil {
		t.Errorf("promtool check config: %v\n%s", err, out)
	}
	for _, want := range []string{"tsunami.rules.yml", "tsunami.alerts.yml"} {
		if !strings.Contains(out, want) {
			t.Errorf("the configuration doesn't take %s:\n%s", want, out)
		}
	}
	if out, err := check(strings.Replace(data, "credentials_file:", "credential_file:", 1)); err == nil {
		t.Errorf("a misspelt key wasn't seen: %s", out)
	}
}

func TestRules(t *testing.T) {
	if out, err := promtool(t, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files(t, "rules/*.yml")...)...); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
	if out, err := promtool(t, append([]string{"test", "rules"}, files(t, "tests/*.test.yml")...)...); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	for _, r := range rules(t) {
		if r.Record != "" && !regexp.MustCompile(`^job(_[a-z]+)?:tsunami_[a-z_]+:[a-z0-9_]+$`).MatchString(r.Record) {
			t.Errorf("%s isn't level:metric:operations", r.Record)
		}
	}
}

// anchors are those of a Markdown file's headings.
func anchors(t *testing.T, name string) (all []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text(t, name), -1) {
		words := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(words, " ", "-"))
	}
	return all
}

// Each alert says how bad it is, what it means and where it is written what to
// do, and has a test in which it doesn't fire and one in which it does.
func TestAlerts(t *testing.T) {
	tested := map[string][2]bool{} // not firing, firing
	for _, name := range files(t, "tests/*.test.yml") {
		var f struct {
			Tests []struct {
				Alerts []struct {
					Name     string           `yaml:"alertname"`
					Expected []map[string]any `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		read(t, name, &f)
		for _, each := range f.Tests {
			for _, a := range each.Alerts {
				seen := tested[a.Name]
				seen[min(len(a.Expected), 1)] = true
				tested[a.Name] = seen
			}
		}
	}
	doc, operating := text(t, "../../docs/metrics.md"), anchors(t, "../../docs/operating.md")
	n := 0
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		n++
		if tested[r.Alert] != [2]bool{true, true} {
			t.Errorf("%s is tested not firing and firing: %v", r.Alert, tested[r.Alert])
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has severity %q", r.Alert, r.Labels["severity"])
		}
		for _, name := range []string{"summary", "description"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		section, ok := strings.CutPrefix(r.Annotations["runbook"], "docs/operating.md#")
		if !ok || !slices.Contains(operating, section) {
			t.Errorf("%s: its runbook %q is no section of docs/operating.md", r.Alert, r.Annotations["runbook"])
		}
		if !strings.Contains(doc, "| `"+r.Alert+"` | "+r.Labels["severity"]+" | ") {
			t.Errorf("docs/metrics.md doesn't have %s, or not as %s", r.Alert, r.Labels["severity"])
		}
	}
	if n == 0 || len(tested) != n {
		t.Errorf("%d alerts, %d are tested", n, len(tested))
	}
}

// The dashboard parses, its expressions too, and it names no Prometheus and no
// address.
func TestDashboard(t *testing.T) {
	type target struct {
		Expr       string
		Datasource struct{ UID string }
	}
	var d struct {
		Title, UID string
		Templating struct{ List []struct{ Name, Type string } }
		Panels     []struct {
			ID          int
			Type, Title string
			Datasource  struct{ UID string }
			Targets     []target
		}
	}
	data := text(t, "grafana/tsunami.json")
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(data, "://") {
		t.Error("it has an absolute URL")
	}
	if d.Title == "" || d.UID == "" || len(d.Templating.List) == 0 || d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Type != "datasource" {
		t.Errorf("title %q, uid %q, variables %v: want the data source first", d.Title, d.UID, d.Templating.List)
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$rollout", ".*")
	type recorded struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var expressions []recorded
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: %d targets, data source %s", p.Title, len(p.Targets), p.Datasource.UID)
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" {
				t.Errorf("%s: data source %s", p.Title, q.Datasource.UID)
			}
			// A rule is what promtool parses expressions in.
			expressions = append(expressions, recorded{"dashboard:panel:expr", variables.Replace(q.Expr)})
		}
	}
	if len(expressions) < 20 {
		t.Errorf("it has %d expressions", len(expressions))
	}
	body, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": expressions}}})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(name, body, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "check", "rules", "--lint=none", name); err != nil || strings.Contains(string(body), "$") {
		t.Errorf("its expressions: %v\n%s\n%s", err, out, body)
	}
}
