package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// startAlerts is a console that hears Alertmanager, which is asked at a URL.
func startAlerts(t *testing.T, alertmanager string) *fixture {
	t.Helper()
	return start(t, func(f *fixture, o *Options) { o.Alerting = &Alerting{JetStream: f.js, Alertmanager: alertmanager} })
}

func (f *fixture) post(body []byte, header ...string) (int, string) {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.http.URL+alertsPath, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	resp, err := f.http.Client().Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

func hook(truncated int, alerts ...webhookAlert) []byte {
	b, err := json.Marshal(map[string]any{
		"version": "4", "receiver": "tsunami.a", "status": "firing", "truncatedAlerts": truncated, "alerts": alerts, "groupKey": "x", "a new field": 1,
	})
	if err != nil {
		panic(err)
	}
	return b
}

var began = time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC)

func firing(i int) webhookAlert {
	return webhookAlert{
		Status: "firing", Fingerprint: fmt.Sprintf("%016x", i), StartsAt: began, Annotations: map[string]string{"summary": "bad"},
		Labels: map[string]string{"alertname": "AppBad", "instance": fmt.Sprintf("web%d.lon2.example.net:9100", i), "severity": "page", "job": "app"},
	}
}

// recorded are the alerts in the evidence.
func (f *fixture) recorded() (all []subjects.Alert) {
	f.t.Helper()
	records, err := bus.History(f.t.Context(), f.js, subjects.EvidenceStream, subjects.AllAlerts)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, m := range records {
		a, err := subjects.Decode[subjects.Alerts](m.Data)
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, a.Alerts...)
	}
	return all
}

// What Alertmanager sends is evidence, each piece of news once.
func TestAlerts(t *testing.T) {
	f := startAlerts(t, "")
	for range 2 {
		if status, body := f.post(hook(0, firing(1), firing(2))); status != http.StatusNoContent {
			t.Fatalf("%d %s", status, body)
		}
	}
	resolved := firing(1)
	resolved.Status = "resolved"
	f.post(hook(0, resolved))
	all := f.recorded()
	if len(all) != 3 || !all[0].Firing || all[2].Firing || all[0].Labels["instance"] != "web1.lon2.example.net:9100" || all[0].Summary != "bad" || !all[0].Starts.Equal(began) {
		t.Errorf("recorded: %+v", all)
	}
	for body, want := range map[string]int{
		`{"version":"3","alerts":[]}`: 400, `<html>`: 400, `{"version":"4","alerts":[{"labels":7}]}`: 400, `{"version":"4"}`: 204,
	} {
		if status, answer := f.post([]byte(body)); status != want {
			t.Errorf("%s: %d %s, want %d", body, status, answer, want)
		}
	}
	long := firing(3)
	long.Labels["note"] = strings.Repeat("ü", 3000)
	if status, body := f.post(hook(0, long)); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	if all := f.recorded(); len(all[3].Labels["note"]) > maxLabel {
		t.Errorf("a label of %d bytes is kept", len(all[3].Labels["note"]))
	}
}

// Alerts that the webhook left out are asked for; where Alertmanager doesn't
// answer it has to come again.
func TestTruncatedAlerts(t *testing.T) {
	down := true
	asked := ""
	alertmanager := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		asked = r.URL.String()
		_ = json.NewEncoder(w).Encode([]webhookAlert{firing(1), firing(2), firing(3)})
	}))
	defer alertmanager.Close()
	f := startAlerts(t, alertmanager.URL)
	if status, _ := f.post(hook(2, firing(1))); status != http.StatusServiceUnavailable {
		t.Errorf("while Alertmanager doesn't answer: %d", status)
	}
	down = false
	if status, body := f.post(hook(2, firing(1))); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	if all := f.recorded(); len(all) != 3 || !all[2].Firing {
		t.Errorf("recorded: %+v", all)
	}
	if !strings.Contains(asked, "silenced=false") || !strings.Contains(asked, "receiver=%5Etsunami%5C.a%24") {
		t.Errorf("asked for %s", asked)
	}
}

// Ten thousand alerts at once are taken within a second, in a handful of
// records.
func TestManyAlerts(t *testing.T) {
	f := startAlerts(t, "")
	all := make([]webhookAlert, 10_000)
	for i := range all {
		all[i] = firing(i)
	}
	body := hook(0, all...)
	start := time.Now()
	if status, answer := f.post(body); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, answer)
	}
	took := time.Since(start)
	t.Logf("%d alerts, %d bytes: %s", len(all), len(body), took)
	if took > 10*time.Second { // a second is for a machine that does nothing else
		t.Errorf("it takes %s", took)
	}
	if got := len(f.recorded()); got != len(all) {
		t.Errorf("%d are recorded", got)
	}
	if status, _ := f.post(hook(0, make([]webhookAlert, maxAlerts+1)...)); status != http.StatusRequestEntityTooLarge {
		t.Errorf("too many: %d", status)
	}
}

// With identities only Alertmanager's own token lets somebody say what fires.
func TestWhoMaySayWhatFires(t *testing.T) {
	ids := newIdentities(t)
	f := start(t, ids.guard, func(f *fixture, o *Options) { o.Alerting = &Alerting{JetStream: f.js} })
	token := func(name string, role subjects.Role) string {
		out, err := ids.store.Issue(access.Wanted{Name: name, Role: role, Bearer: true, Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		ids.read()
		return "Bearer " + out[0].JWT
	}
	for name, c := range map[string]struct {
		header []string
		want   int
	}{
		"nobody":       {nil, 401},
		"a viewer":     {[]string{"Authorization", token("vera", subjects.RoleViewer)}, 403},
		"an admin":     {[]string{"Authorization", token("adam", subjects.RoleAdmin)}, 403},
		"Alertmanager": {[]string{"Authorization", token("alertmanager", subjects.RoleAlerter)}, 204},
	} {
		if status, body := f.post(hook(0, firing(1)), c.header...); status != c.want {
			t.Errorf("%s: %d %s, want %d", name, status, body, c.want)
		}
	}
	if _, err := ids.store.Issue(access.Wanted{Name: "alertmanager", Role: subjects.RoleAlerter}); err == nil {
		t.Error("an identity for the broker is issued")
	}
}

func FuzzWebhook(f *testing.F) {
	f.Add(hook(0, firing(1)))
	f.Add([]byte(`{"version":"4","alerts":[{"labels":{"alertname":"x"},"startsAt":"0001-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var h webhook
		if json.Unmarshal(body, &h) != nil {
			return
		}
		for i := range h.Alerts {
			a := h.Alerts[i].bounded()
			b, err := subjects.Encode(a)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Labels) > maxLabels+1 || len(b) > recordBytes {
				t.Errorf("%d labels, %d bytes", len(a.Labels), len(b))
			}
		}
	})
}
