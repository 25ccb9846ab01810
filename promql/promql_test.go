package promql

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

var now = time.Unix(1_800_000_000, 0)

// sample is one of a vector, as Prometheus writes it.
func sample(labels string, age time.Duration, value string) string {
	return fmt.Sprintf(`{"metric":{%s},"value":[%d,"%s"]}`, labels, now.Add(-age).Unix(), value)
}

func vector(samples ...string) string {
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(samples, ",") + `]}}`
}

// ask asks a server that answers so.
func ask(t *testing.T, o *slo.Objective, answer http.HandlerFunc) Answer {
	t.Helper()
	o.Name = "o"
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	c, err := New(Options{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	return c.Ask(ctx, o, now)
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, body)
	}
}

// What answers mean, of the rollout as a whole: whatever could be wrong is no
// evidence.
func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   slo.Outcome
		why    string
	}{
		"good":              {says(vector(sample("", 0, "0.5"))), slo.Success, ""},
		"bad":               {says(vector(sample("", 0, "0.5"), sample(`"a":"b"`, 0, "7"))), slo.Failing, "gives 7"},
		"between":           {says(vector(sample("", 0, "3"))), slo.Inconclusive, "gives 3"},
		"not a number":      {says(vector(sample("", 0, "NaN"))), slo.Inconclusive, "NaN"},
		"infinity":          {says(vector(sample("", 0, "+Inf"))), slo.Failing, "+Inf"},
		"empty":             {says(vector()), slo.Inconclusive, "empty"},
		"old":               {says(vector(sample("", 3*time.Minute, "0.5"))), slo.Inconclusive, "the sample is of 2027"},
		"of the future":     {says(vector(sample("", -3*time.Minute, "0.5"))), slo.Inconclusive, "the sample is of 2027"},
		"a scalar":          {says(fmt.Sprintf(`{"status":"success","data":{"resultType":"scalar","result":[%d,"0"]}}`, now.Unix())), slo.Success, ""},
		"a string":          {says(fmt.Sprintf(`{"status":"success","data":{"resultType":"string","result":[%d,"0"]}}`, now.Unix())), slo.Errored, "string"},
		"a matrix":          {says(fmt.Sprintf(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[%d,"9"],[%d,"0"]]}]}}`, now.Unix()-15, now.Unix())), slo.Success, ""},
		"an old matrix":     {says(fmt.Sprintf(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[%d,"9"]]}]}}`, now.Unix()-600)), slo.Inconclusive, "the sample is of"},
		"a warning":         {says(`{"status":"success","warnings":["a store is missing"],"data":{"resultType":"vector","result":[` + sample("", 0, "0") + `]}}`), slo.Inconclusive, "a store is missing"},
		"a bad query":       {says(`{"status":"error","errorType":"bad_data","error":"parse error"}`), slo.Errored, "parse error"},
		"a page of HTML":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>log in</html>") }, slo.Errored, ""},
		"a failing server":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, slo.Errored, "500"},
		"a redirect":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, slo.Errored, ""},
		"nobody who speaks": {func(_ http.ResponseWriter, r *http.Request) { _ = r.ParseForm(); <-r.Context().Done() }, slo.Errored, "no answer within"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &slo.Objective{PromQL: &slo.Query{Query: "x", Per: slo.PerRollout, Success: "< 1", Failure: "> 5"}}
			a := ask(t, o, c.answer)
			if a.Outcome != c.want || !strings.Contains(a.Why, c.why) || a.Outcome == slo.Errored && a.Why == "" || len(a.Why) > maxWhy+4 {
				t.Errorf("%s: %q, want %s: %q", a.Outcome, a.Why, c.want, c.why)
			}
		})
	}
}

// Samples are of the hosts and roles that they name; of several the worst counts.
func TestWhoIsMeant(t *testing.T) {
	o := &slo.Objective{PromQL: &slo.Query{Query: "up", Success: "> 0"}}
	a := ask(t, o, says(vector(
		sample(`"instance":"h1:9100"`, 0, "1"), sample(`"instance":"h2:9100"`, 0, "1"), sample(`"instance":"h2:9101"`, 0, "0"),
		sample(`"instance":"h3.example.net"`, 0, "NaN"), sample(`"instance":"not a host"`, 0, "0"), sample(`"job":"x"`, 0, "0"),
	)))
	if a.Outcome != slo.Success || len(a.Hosts) != 2 || a.Hosts["h1"].Outcome != slo.Success || a.Hosts["h2"].Outcome != slo.Failing || a.Hosts["h2"].Why != "the query gives 0" {
		t.Errorf("%+v", a)
	}
	a = ask(t, o, says(vector(sample(`"instance":"h3"`, 0, "NaN"))))
	if a.Outcome != slo.Inconclusive || len(a.Hosts) != 0 || !strings.Contains(a.Why, "NaN") {
		t.Errorf("nothing that counts: %+v", a)
	}
	a = ask(t, o, says(vector(sample(`"job":"x"`, 0, "0"))))
	if a.Outcome != slo.Inconclusive || !strings.Contains(a.Why, "label instance") {
		t.Errorf("nobody is named: %+v", a)
	}
	roles := &slo.Objective{PromQL: &slo.Query{Query: "x", Per: slo.PerRole, Label: "team", Failure: "> 1"}}
	a = ask(t, roles, says(vector(sample(`"team":"web"`, 0, "2"), sample(`"team":"web"`, 0, "0"), sample(`"team":"db"`, 0, "0"))))
	if a.Roles[rollout.Word("web")].Outcome != slo.Failing || a.Roles["db"].Outcome != slo.Success {
		t.Errorf("%+v", a)
	}
}

// The token is shown, and read anew for each question.
func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var shown string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = r.Header.Get("Authorization")
		says(vector(sample("", 0, "0")))(w, r)
	}))
	defer s.Close()
	c, err := New(Options{URL: s.URL, TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	o := &slo.Objective{Name: "o", PromQL: &slo.Query{Query: "x", Success: "< 1", Every: field.Duration(time.Second)}}
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.Ask(t.Context(), o, now); shown != "Bearer "+token {
			t.Errorf("shown %q, want %s", shown, token)
		}
	}
	for _, bad := range []Options{{URL: "prometheus:9090"}, {URL: s.URL, TokenFile: file + "x"}, {URL: s.URL, CA: file}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// BenchmarkAsk is one look at 100 hosts, the server's part included: 200
// objectives every 15 s are 13 of them in a second.
func BenchmarkAsk(b *testing.B) {
	var samples []string
	for i := range 100 {
		samples = append(samples, sample(fmt.Sprintf(`"instance":"web%d.lon2.example.net:9100","job":"node"`, i), 0, "1"))
	}
	body := vector(samples...)
	s := httptest.NewServer(says(body))
	defer s.Close()
	c, err := New(Options{URL: s.URL})
	if err != nil {
		b.Fatal(err)
	}
	o := &slo.Objective{Name: "o", PromQL: &slo.Query{Query: "up", Success: "> 0"}}
	for b.Loop() {
		if a := c.Ask(b.Context(), o, now); len(a.Hosts) != 100 {
			b.Fatalf("%+v", a)
		}
	}
}
