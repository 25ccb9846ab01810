package hostagent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const exposition = `# HELP app_errors_total Errors.
# TYPE app_errors_total counter
app_errors_total{code="500",path="/a"} %d
app_errors_total{code="500",path="/b"} 3
app_errors_total{code="404",path="/a"} 900
# TYPE app_up gauge
app_up 1
untyped_thing NaN
# TYPE app_time_seconds histogram
app_time_seconds_bucket{le="1"} 7
app_time_seconds_bucket{le="+Inf"} 9
app_time_seconds_sum 12.5
app_time_seconds_count 9
`

func TestExporter(t *testing.T) {
	errs := 1
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			fmt.Fprintf(w, exposition, errs)
		case "/html":
			fmt.Fprint(w, "<html>log in</html>")
		case "/half":
			fmt.Fprint(w, "app_up 1\napp_up{")
		case "/huge":
			for range maxExposition/16 + 1 {
				fmt.Fprint(w, "# a comment ...\n")
			}
		default:
			http.Redirect(w, r, "/metrics", http.StatusFound)
		}
	}))
	defer page.Close()
	file := filepath.Join(t.TempDir(), "app.prom")
	if err := os.WriteFile(file, []byte("app_up 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := page.URL + "/metrics"
	for _, c := range []struct {
		e    Exporter
		want string // "" passes
	}{
		{Exporter{From: url, Metric: "app_up", Success: "> 0"}, ""},
		{Exporter{From: file, Metric: "app_up", Success: "> 0"}, "app_up is 0, want > 0"},
		{Exporter{From: url, Metric: "app_errors_total", Labels: map[string]string{"code": "500"}, Success: "< 3"}, `path="/b"} is 3, want < 3`},
		{Exporter{From: url, Metric: "app_errors_total", Labels: map[string]string{"code": "500"}, Success: "< 4"}, ""},
		{Exporter{From: url, Metric: "app_errors_total", Labels: map[string]string{"code": "503"}, Success: "< 4"}, `no sample of app_errors_total{code="503"}`},
		{Exporter{From: url, Metric: "untyped_thing", Success: "!= 7"}, "untyped_thing is NaN"},
		{Exporter{From: url, Metric: "app_time_seconds_sum", Success: "== 12.5"}, ""},
		{Exporter{From: url, Metric: "app_time_seconds_count", Success: "< 9"}, "is 9, want < 9"},
		{Exporter{From: page.URL + "/html", Metric: "app_up", Success: "> 0"}, "doesn't show metrics"},
		{Exporter{From: page.URL + "/half", Metric: "app_up", Success: "> 0"}, "doesn't show metrics"},
		{Exporter{From: page.URL + "/huge", Metric: "app_up", Success: "> 0"}, "more than 16 MiB"},
		{Exporter{From: page.URL + "/elsewhere", Metric: "app_up", Success: "> 0"}, "302"},
		{Exporter{From: file + "x", Metric: "app_up", Success: "> 0"}, "no such file"},
		{Exporter{From: "http://127.0.0.1:1/metrics", Metric: "app_up", Success: "> 0"}, "refused"},
	} {
		r := (&Check{Exporter: &c.e}).probe(t.Context(), nil, nil, &scraped{}, time.Now())
		if c.want == "" && r.Err != nil || c.want != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), c.want)) {
			t.Errorf("%s of %s, %s: %v, want %q", c.e.Metric, c.e.From, c.e.Success, r.Err, c.want)
		}
	}

	// By how much it grows, and not across a new start of what counts.
	rate := &Check{Exporter: &Exporter{From: url, Metric: "app_errors_total", Labels: map[string]string{"path": "/a", "code": "500"}, Success: "< 2", Rate: true}}
	var before scraped
	now := time.Now()
	for _, step := range []struct {
		errs int
		want bool
	}{{1, true}, {19, true}, {40, false}, {2, true}, {23, false}} {
		errs = step.errs
		r := rate.probe(t.Context(), nil, nil, &before, now)
		if (r.Err == nil) != step.want {
			t.Errorf("at %d errors: %v", errs, r.Err)
		}
		now = now.Add(10 * time.Second)
	}
}
