package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// monitoring is a Prometheus, an Alertmanager and a node exporter, of Debian's
// packages, and the metrics that they see.
type monitoring struct {
	*site
	textfiles                       string // whose *.prom the node exporter shows
	prometheus, alertmanager, nodes string // host:port
	server                          *process
}

// monitored starts tsunamid beside a Prometheus that scrapes every second.
func monitored(s *site) *monitoring {
	s.t.Helper()
	m := &monitoring{site: s, prometheus: freeAddress(s.t), alertmanager: freeAddress(s.t), nodes: freeAddress(s.t)}
	m.textfiles = filepath.Join(s.dir, "textfiles")
	m.metric("app_errors 0")
	start(s.t, s.dir, "node-exporter", "/usr/bin/prometheus-node-exporter",
		"--web.listen-address", m.nodes, "--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory", m.textfiles)
	s.http = "http://" + freeAddress(s.t)
	file := write(s.t, filepath.Join(s.dir, "alertmanager.yml"), 0o644, fmt.Sprintf(`
route: {receiver: tsunami, group_by: [alertname], group_wait: 1s, group_interval: 1s, repeat_interval: 1m}
receivers:
  - name: tsunami
    webhook_configs: [{url: "%s/v1/alerts"}]
`, s.http))
	start(s.t, s.dir, "alertmanager", "/usr/bin/prometheus-alertmanager", "--config.file", file,
		"--storage.path", filepath.Join(s.dir, "alertmanager"), "--web.listen-address", m.alertmanager, "--cluster.listen-address", "")
	rules := write(s.t, filepath.Join(s.dir, "rules.yml"), 0o644, `
groups:
  - name: app
    interval: 1s
    rules:
      - {alert: AppBad, expr: "app_alert > 0", annotations: {summary: "the app is bad"}}
`)
	write(s.t, filepath.Join(s.dir, "prometheus.yml"), 0o644, fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
alerting: {alertmanagers: [{static_configs: [{targets: ["%s"]}]}]}
scrape_configs:
  - {job_name: app, honor_labels: true, static_configs: [{targets: ["%s"]}]}
  - {job_name: self, static_configs: [{targets: ["%s"]}]}
`, rules, m.alertmanager, m.nodes, m.prometheus))
	m.startPrometheus()
	p := start(s.t, s.dir, "tsunamid", "tsunamid", "--data", filepath.Join(s.dir, "data"), "--listen", s.address(),
		"--http", strings.TrimPrefix(s.http, "http://"), "--prometheus", "http://"+m.prometheus, "--alertmanager", "http://"+m.alertmanager)
	s.ready(p)
	return m
}

func (m *monitoring) startPrometheus() {
	m.t.Helper()
	m.server = start(m.t, m.dir, "prometheus", "/usr/bin/prometheus", "--config.file", filepath.Join(m.dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(m.dir, "tsdb"), "--web.listen-address", m.prometheus)
	eventually(m.t, time.Minute, "prometheus is ready", func() (bool, string) {
		resp, err := http.Get("http://" + m.prometheus + "/-/ready")
		if err != nil {
			return false, err.Error()
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
}

// metric makes the node exporter show these lines. It is renamed into place: a
// half-written file is no metric.
func (m *monitoring) metric(lines ...string) {
	m.t.Helper()
	file := write(m.t, filepath.Join(m.textfiles, "app.new"), 0o644, strings.Join(lines, "\n")+"\n")
	if err := os.Rename(file, filepath.Join(m.textfiles, "app.prom")); err != nil {
		m.t.Fatal(err)
	}
}

// silence silences an alert by its name.
func (m *monitoring) silence(alert string) {
	m.t.Helper()
	body := fmt.Sprintf(`{"matchers":[{"name":"alertname","value":"%s","isRegex":false,"isEqual":true}],"startsAt":"%s","endsAt":"%s","createdBy":"test","comment":"known"}`,
		alert, time.Now().UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	resp, err := http.Post("http://"+m.alertmanager+"/api/v2/silences", "application/json", strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		m.t.Fatalf("the silence: %s", resp.Status)
	}
}

// begin applies an objective and starts a rollout of role web that is judged by
// it, and waits until the guard lets it go on.
func (m *monitoring) begin(id, variable, objective string) {
	m.t.Helper()
	m.apply(id+".yaml", objective+fmt.Sprintf(
		"---\nkind: Rollout\nname: %s\nvariable: %s\nto: \"2\"\nramp: {over: 2m}\ninFlight: {max: 100%%, perRole: 100%%}\nguard: {objectives: [%s-fine]}\n", id, variable, id))
	m.cleared(id)
}

// told waits until a rollout has told somebody, and returns how it stands.
func (m *monitoring) told(id string) control.RolloutView {
	m.t.Helper()
	return m.until(time.Minute, id, "has told a host", func(v control.RolloutView) bool { return v.Told > 0 })
}

func (m *monitoring) show(id string) control.RolloutView {
	m.t.Helper()
	return ask[control.RolloutView](m.site, "rollout", "show", id)
}

func (m *monitoring) unclear(id, why string) {
	m.t.Helper()
	m.until(time.Minute, id, "holds: "+why, func(v control.RolloutView) bool {
		return v.Guard != nil && !v.Guard.Clear && strings.Contains(v.Guard.Why, why) && v.State == rollout.StateRunning
	})
}

// limited wants a rollout to be frozen by an objective's limit, with these words.
func (m *monitoring) limited(id, words string) {
	m.t.Helper()
	v := m.frozen(id)
	if v.Abort.Evidence.Kind != slo.Limit || !strings.Contains(v.Abort.Why, words) {
		m.t.Errorf("%s: %s, want %q", id, v.Abort.Why, words)
	}
}

// TestPrometheus lets a real Prometheus, Alertmanager and node exporter stop
// rollouts, and hold them while nobody answers.
func TestPrometheus(t *testing.T) {
	m := monitored(newSite(t))
	m.apply("variables.yaml", stringVariable("query_version")+stringVariable("alert_version")+stringVariable("textfile_version")+stringVariable("ratio_version"))
	var agents []string
	for i := range 4 {
		name := fmt.Sprintf("web%d.example.net", i+1)
		m.agent(name, "web", fmt.Sprintf(
			"enact:\n  query_version: {exec: [\"true\"]}\n  alert_version: {exec: [\"true\"]}\n  textfile_version: {exec: [\"true\"]}\n  ratio_version: {exec: [\"true\"]}\n"+
				"checks:\n  errors: {exporter: {from: \"http://%s/metrics\", metric: app_errors, success: \"< 5\"}, every: 1s}\n", m.nodes))
		agents = append(agents, name)
	}
	m.welcomed(agents...)

	// A query. While Prometheus is gone the rollout holds, and goes on by itself.
	m.begin("query", "query_version", "kind: Objective\nname: query-fine\nfreshness: 10s\npromql: {query: max(app_errors), per: rollout, success: \"< 5\", every: 1s}\n")
	m.told("query")
	m.server.stop()
	m.unclear("query", "Prometheus")
	m.startPrometheus()
	m.cleared("query")
	m.metric("app_errors 7")
	m.limited("query", "the query gives 7")

	// An alert that is silenced says nothing; one that fires freezes.
	m.metric("app_errors 0", "app_alert 0")
	m.begin("alert", "alert_version", "kind: Objective\nname: alert-fine\nalert: {name: AppBad}\n")
	m.told("alert")
	m.silence("AppBad")
	m.metric("app_errors 0", "app_alert 1")
	time.Sleep(5 * time.Second)
	if v := m.show("alert"); v.State != rollout.StateRunning || !v.Guard.Clear {
		t.Errorf("an alert that is silenced: %s, %+v", v.State, v.Guard)
	}
	m.unsilence()
	m.limited("alert", "the app is bad")

	// A file of metrics on a host, which the agent's own check reads.
	m.metric("app_errors 0", "app_alert 0")
	m.begin("textfile", "textfile_version", "kind: Objective\nname: textfile-fine\ncheck: errors\nfor: 2s\nfailureLimit: 0\n")
	m.told("textfile")
	m.metric("app_errors 9", "app_alert 0")
	m.limited("textfile", "more hosts failed than its failureLimit")

	// An error budget that burns too fast holds, and freezes nothing.
	m.metric("app_errors 0", "app_alert 0", "app_bad 0")
	const samples = "sum(rate(prometheus_tsdb_head_samples_appended_total[$window]))"
	m.begin("ratio", "ratio_version", "kind: Objective\nname: ratio-fine\nratio: {bad: \"scalar(app_bad) * "+samples+"\", total: \""+samples+
		"\", target: 99%, burn: [{rate: 2, short: 1m, long: 2m}]}\n")
	m.metric("app_errors 0", "app_alert 0", "app_bad 0.5")
	m.unclear("ratio", "burns too fast: the query gives 25")
	m.metric("app_errors 0", "app_alert 0", "app_bad 0.01")
	m.cleared("ratio")

	// What was recorded comes to the same with Prometheus gone.
	m.server.stop()
	replay := m.must("objective", "replay", "--rollout", "query")
	if want := fmt.Sprint(m.show("query").Abort.Evidence.Sequence); !strings.Contains(replay, want) {
		t.Errorf("the replay doesn't come to the verdict at %s:\n%s", want, replay)
	}
}

// unsilence ends every silence.
func (m *monitoring) unsilence() {
	m.t.Helper()
	var all []struct{ ID string }
	resp, err := http.Get("http://" + m.alertmanager + "/api/v2/silences")
	if err == nil {
		err = decode(resp, &all)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	for _, each := range all {
		request, err := http.NewRequestWithContext(m.t.Context(), http.MethodDelete, "http://"+m.alertmanager+"/api/v2/silence/"+each.ID, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			m.t.Fatal(err)
		}
		resp.Body.Close()
	}
}

func decode(resp *http.Response, v any) error {
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}
