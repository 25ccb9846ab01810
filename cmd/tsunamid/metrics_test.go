package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

var updateMetrics = flag.Bool("metrics.update", false, "write the table of docs/metrics.md")

// exported is what scrapes have shown of one metric.
type exported struct {
	kind, help string
	labels     map[string]bool
}

// scrapes are several, of processes in different moments: not all that there is
// is shown at once.
type scrapes map[string]*exported

// add takes in what /metrics has served.
func (s scrapes) add(t *testing.T, body string) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		m := s[name]
		if m == nil {
			m = &exported{strings.ToLower(f.GetType().String()), f.GetHelp(), map[string]bool{}}
			s[name] = m
		}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				s[name+suffix] = m
			}
		}
		for _, one := range f.GetMetric() {
			for _, l := range one.GetLabel() {
				m.labels[l.GetName()] = true
			}
		}
	}
}

// table is what docs/metrics.md has of them: each metric of ours but no part of
// a histogram.
func (s scrapes) table() string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(s)) {
		m := s[name]
		if !strings.HasPrefix(name, "tsunami") || m.kind == "histogram" && regexp.MustCompile(`_(bucket|sum|count)$`).MatchString(name) {
			continue
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, m.kind, strings.Join(slices.Sorted(maps.Keys(m.labels)), ", "), m.help)
	}
	return b.String()
}

// lint has promtool check what /metrics has served: of ours, for what the Go
// libraries show isn't ours to name.
func lint(t *testing.T, body string) string {
	t.Helper()
	var ours strings.Builder
	for line := range strings.Lines(body) {
		if regexp.MustCompile(`^(# \w+ )?tsunami`).MatchString(line) {
			ours.WriteString(line)
		}
	}
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(ours.String())
	out, err := cmd.CombinedOutput()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		t.Fatalf("promtool is needed: %v", err)
	}
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	return string(out)
}

const prometheusDir = "../../deploy/prometheus"

// asked are the expressions of rules, alerts and the dashboard, and the names
// that rules record.
func asked(t *testing.T) (expressions []string, records map[string]bool) {
	t.Helper()
	records = map[string]bool{}
	files, err := filepath.Glob(filepath.Join(prometheusDir, "rules", "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("rules: %v, %v", files, err)
	}
	for _, name := range files {
		var rules struct {
			Groups []struct {
				Rules []struct{ Record, Expr string }
			}
		}
		b, err := os.ReadFile(name)
		if err == nil {
			err = yaml.Unmarshal(b, &rules)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				expressions = append(expressions, r.Expr)
				if r.Record != "" {
					records[r.Record] = true
				}
			}
		}
	}
	dashboard, err := os.ReadFile(filepath.Join(prometheusDir, "grafana", "tsunami.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(dashboard, &all); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, each := range v {
				walk(each)
			}
		case map[string]any:
			for key, each := range v {
				if text, ok := each.(string); ok && slices.Contains([]string{"expr", "definition"}, key) {
					expressions = append(expressions, text)
				}
				walk(each)
			}
		}
	}
	walk(all)
	return expressions, records
}

// unknown are the metrics of ours that expressions name and nobody shows.
func (s scrapes) unknown(expressions []string, records map[string]bool) []string {
	missing := map[string]bool{}
	for _, e := range expressions {
		for _, name := range regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`).FindAllString(e, -1) {
			switch {
			case strings.Contains(name, ":tsunami"):
				if !records[name] {
					missing[name] = true
				}
			case strings.HasPrefix(name, "tsunami_") && s[name] == nil:
				missing[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// What a demo and a server with identities show is what docs/metrics.md says,
// passes promtool, and has all that deploy/prometheus asks for.
func TestMetricsDocumented(t *testing.T) {
	inTemp(t)
	all := scrapes{}
	p := launch(t, "demo", "--hosts", "15", "--over", "3s")
	var console string
	eventually(t, func() error {
		m := regexp.MustCompile(`console (http://\S+)`).FindStringSubmatch(p.stdout.String())
		if m == nil {
			return errors.New("no address:\n" + p.stdout.String() + p.stderr.String())
		}
		console = m[1]
		return nil
	})
	var body string
	look := func() {
		t.Helper()
		_, text, err := get(console + "/metrics")
		if err != nil {
			t.Fatalf("%v\n%s%s", err, p.stdout.String(), p.stderr.String())
		}
		body = text
		all.add(t, body)
	}
	for !strings.Contains(p.stdout.String(), "Ctrl-C ends the demo") {
		look()
		time.Sleep(100 * time.Millisecond)
	}
	eventually(t, func() error { // what was scraped may be shown for a second more
		look()
		for _, want := range []string{
			`tsunami_rollout_state{rollout="helios-0-9-1",state="frozen"} 1`, `tsunami_rollout_state{rollout="docker-1-12-3",state="completed"} 1`,
			`tsunami_rollout_told_hosts{rollout="docker-1-12-3"} 15`, `tsunami_rollout_hold{reason="frozen",rollout="helios-0-9-1"} 1`,
			`tsunami_guard_aborts_total 1`, `tsunami_hosts{presence="online"} 15`,
		} {
			if !strings.Contains(body, want) {
				return errors.New("after the demo /metrics lacks " + want)
			}
		}
		return nil
	})
	if out := lint(t, body); out != "" {
		t.Errorf("promtool check metrics says of the demo's:\n%s", out)
	}
	p.stop()
	p.wait()

	g := newGuarded(t)
	p = launch(t, append(g.args, "--data", t.TempDir(), "--listen", "0.0.0.0:0", "--http", "0.0.0.0:0")...)
	url := loopback(t, p.await(up)[3], "https")
	viewer, err := g.store.Issue(access.Wanted{Name: "prometheus", Role: subjects.RoleViewer, Bearer: true})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		status, text, err := g.get(url+"/metrics", viewer[0].JWT)
		if err != nil || status != 200 || !strings.Contains(text, "tsunami_scheduler_epoch_timestamp_seconds ") {
			return fmt.Errorf("/metrics to a viewer: %d, %w", status, err)
		}
		body = text
		return nil
	})
	all.add(t, body)
	if out := lint(t, body); out != "" {
		t.Errorf("promtool check metrics says of the server's:\n%s", out)
	}

	expressions, records := asked(t)
	if missing := all.unknown(expressions, records); len(missing) > 0 {
		t.Errorf("deploy/prometheus asks for what nobody shows: %s", missing)
	}
	// What finds that out is itself tried.
	wrong := []string{`sum(tsunami_hosts) / tsunami_hostz`, `job:tsunami_nothing:sum > tsunami_scheduler_step_duration_seconds_bucket`}
	if missing := all.unknown(wrong, records); !slices.Equal(missing, []string{"job:tsunami_nothing:sum", "tsunami_hostz"}) {
		t.Errorf("of wrong names it finds %s", missing)
	}

	const file, begin, end = "../../docs/metrics.md", "<!-- metrics: begin -->\n", "<!-- metrics: end -->\n"
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(have), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if table == all.table() {
		return
	}
	if !*updateMetrics {
		t.Errorf("docs/metrics.md doesn't show what is exported: go test ./cmd/tsunamid -run Documented -metrics.update\n%s", all.table())
		return
	}
	if err := os.WriteFile(file, []byte(before+begin+all.table()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
