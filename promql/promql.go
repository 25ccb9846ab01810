// Package promql asks Prometheus what objectives want to know, and says what its
// answers mean: nothing, where they could be wrong.
package promql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

const (
	// maxAnswer bounds an answer: some hundred thousand samples.
	maxAnswer = 64 << 20
	// maxTime is how long an answer is waited for.
	maxTime = 10 * time.Second
	maxWhy  = 300 // bytes
)

// Options say where Prometheus is.
type Options struct {
	URL       string // without /api/v1
	TokenFile string // of a bearer's token, read anew for each question; "" for none
	CA        string // the file of who vouches for it; "" is the machine's
}

// Client asks one Prometheus, or what speaks as it does.
type Client struct{ api v1.API }

// New returns an error for a URL that isn't one and for files that can't be read.
// It doesn't connect.
func New(o Options) (*Client, error) {
	if !strings.HasPrefix(o.URL, "http://") && !strings.HasPrefix(o.URL, "https://") {
		return nil, fmt.Errorf("%q isn't the URL of a Prometheus: want one such as http://127.0.0.1:9090", o.URL)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("who vouches for Prometheus: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", o.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	if o.TokenFile != "" {
		if _, err := os.ReadFile(o.TokenFile); err != nil {
			return nil, fmt.Errorf("the token for Prometheus: %w", err)
		}
	}
	client, err := api.NewClient(api.Config{Address: o.URL, RoundTripper: &roundTripper{transport, o.TokenFile}})
	if err != nil {
		return nil, fmt.Errorf("%q isn't the URL of a Prometheus: %w", o.URL, err)
	}
	return &Client{v1.NewAPI(client)}, nil
}

// roundTripper shows the token, and reads no more of an answer than maxAnswer.
type roundTripper struct {
	*http.Transport
	tokenFile string
}

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.tokenFile != "" {
		token, err := os.ReadFile(t.tokenFile)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := t.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// Said is what an answer says of a host, a role or the rollout.
type Said struct {
	Outcome slo.Outcome
	Why     string // the value, or what is wrong with it
}

// Answer is what one look came to.
type Answer struct {
	Time time.Time // as of which was asked
	Said           // as a whole; of hosts a success is any answer that says something
	// Hosts are those of which it says something that counts: a success or a
	// failure. Roles are all that it names.
	Hosts map[rollout.Host]Said
	Roles map[rollout.Word]Said
}

// Ask asks for an objective, which has a query, as of a time. It takes 10 s at
// most. What goes wrong is in the answer.
func (c *Client) Ask(ctx context.Context, o *slo.Objective, now time.Time) Answer {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	value, warnings, _, err := c.api.Query(ctx, o.Asked().Query, now, v1.WithTimeout(maxTime))
	whole := func(outcome slo.Outcome, format string, args ...any) Answer {
		return Answer{Time: now, Said: Said{outcome, short(fmt.Sprintf(format, args...))}}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return whole(slo.Errored, "no answer within %s", maxTime)
	case err != nil:
		return whole(slo.Errored, "%v", err)
	case len(warnings) > 0:
		return whole(slo.Inconclusive, "it warns: %s", strings.Join(warnings, "; "))
	}
	samples, err := samplesOf(value)
	switch {
	case err != nil:
		return whole(slo.Errored, "%v", err)
	case len(samples) == 0:
		return whole(slo.Inconclusive, "the answer is empty")
	}
	return judge(o, samples, now)
}

// samplesOf gives the samples of an answer; of a matrix each series' last.
func samplesOf(value model.Value) ([]*model.Sample, error) {
	switch v := value.(type) {
	case model.Vector:
		return v, nil
	case *model.Scalar:
		return []*model.Sample{{Value: v.Value, Timestamp: v.Timestamp}}, nil
	case model.Matrix:
		var out []*model.Sample
		for _, series := range v {
			if n := len(series.Values); n > 0 {
				out = append(out, &model.Sample{Metric: series.Metric, Value: series.Values[n-1].Value, Timestamp: series.Values[n-1].Timestamp})
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("the answer is a %s: want a vector, a scalar or a matrix", value.Type())
}

// judge says what samples mean for an objective.
func judge(o *slo.Objective, samples []*model.Sample, now time.Time) Answer {
	a := Answer{Time: now, Hosts: map[rollout.Host]Said{}, Roles: map[rollout.Word]Said{}}
	for _, s := range samples {
		said := one(o, s, now)
		name := string(s.Metric[model.LabelName(o.Asked().Names())])
		switch o.Asked().Of() {
		case slo.PerHost:
			if host, err := rollout.ParseHost(slo.HostLabel(name)); err == nil {
				a.Hosts[host] = worse(a.Hosts[host], said)
			}
		case slo.PerRole:
			if role, err := rollout.ParseWord("role", name); err == nil {
				a.Roles[role] = worse(a.Roles[role], said)
			}
		default:
			a.Said = worse(a.Said, said)
		}
	}
	if o.Asked().Of() == slo.PerRollout {
		return a
	}
	if len(a.Hosts)+len(a.Roles) == 0 {
		a.Said = Said{slo.Inconclusive, fmt.Sprintf("none of %d samples has a label %s that names a %s", len(samples), o.Asked().Names(), o.Asked().Of())}
		return a
	}
	if o.Asked().Of() == slo.PerRole {
		return a
	}
	for host, said := range a.Hosts {
		if said.Outcome == slo.Inconclusive {
			delete(a.Hosts, host)
			a.Said = worse(a.Said, said)
		}
	}
	if len(a.Hosts) > 0 {
		a.Said = Said{Outcome: slo.Success}
	}
	return a
}

// one says what a sample means.
func one(o *slo.Objective, s *model.Sample, now time.Time) Said {
	if s.Histogram != nil {
		return Said{slo.Inconclusive, "the sample is a histogram"}
	}
	value := float64(s.Value)
	if age := now.Sub(s.Timestamp.Time()); age.Abs() > o.Fresh() {
		return Said{slo.Inconclusive, fmt.Sprintf("the sample is of %s", s.Timestamp.Time().UTC().Format(time.RFC3339))}
	}
	outcome := o.Asked().Judge(value)
	why := "the query gives " + strconv.FormatFloat(value, 'g', 6, 64)
	if math.IsNaN(value) {
		why = "the query gives no number (NaN)"
	}
	if outcome == slo.Success {
		why = ""
	}
	return Said{outcome, why}
}

var rank = map[slo.Outcome]int{"": 0, slo.Success: 1, slo.Inconclusive: 2, slo.Failing: 3}

// worse is what two samples say together: one that fails is enough.
func worse(a, b Said) Said {
	if rank[b.Outcome] > rank[a.Outcome] {
		return b
	}
	return a
}

func short(s string) string {
	if len(s) > maxWhy {
		s = strings.ToValidUTF8(s[:maxWhy], "") + "…"
	}
	return s
}
