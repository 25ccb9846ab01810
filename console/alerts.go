package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	alertsPath = "/v1/alerts"
	// maxAlertsBody is some ten thousand alerts with a dozen labels each.
	maxAlertsBody = 32 << 20
	maxAlerts     = 20_000
	maxLabels     = 64
	maxName       = 128
	maxLabel      = 1 << 10 // bytes of a value
	maxSummary    = 300     // bytes
	// recordBytes is how much one record holds: well below what the broker
	// takes.
	recordBytes = subjects.MaxBody / 2
	// repeated is for how long what Alertmanager sends again is left aside: it
	// tries again where it didn't get the answer.
	repeated = 10 * time.Second
	// alertsTime bounds one request, Alertmanager's own answer included.
	alertsTime = 20 * time.Second
)

// Alerting is what it takes to hear Alertmanager.
type Alerting struct {
	// JetStream is that of the part alerts.
	JetStream jetstream.JetStream
	// Alertmanager is the URL that is asked for what a webhook has left out; ""
	// where nobody can be asked.
	Alertmanager string
	// Client asks there; nil is the default one.
	Client *http.Client
}

// alerting serves alertsPath: Alertmanager's webhook, version 4
// (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config).
type alerting struct {
	Alerting
	logger *slog.Logger

	mu   sync.Mutex
	seen map[alertKey]time.Time
}

// alertKey is what makes an alert the same.
type alertKey struct {
	fingerprint, status string
	starts              time.Time
}

// webhook is what Alertmanager posts. It may have more fields than these.
type webhook struct {
	Version   string         `json:"version"`
	Receiver  string         `json:"receiver"`
	Truncated int            `json:"truncatedAlerts"`
	Alerts    []webhookAlert `json:"alerts"`
}

type webhookAlert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	Fingerprint string            `json:"fingerprint"`
}

func newAlerting(o Options) *alerting {
	a := &alerting{Alerting: *o.Alerting, logger: o.Logger, seen: map[alertKey]time.Time{}}
	if a.Client == nil {
		a.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return a
}

func (a *alerting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "usage", fmt.Sprintf("%s isn't allowed here: want POST", clip(r.Method)))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), alertsTime)
	defer cancel()
	var hook webhook
	switch err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAlertsBody)).Decode(&hook); {
	case err != nil:
		fail(w, http.StatusBadRequest, "usage", "this isn't Alertmanager's webhook: "+clip(err.Error()))
		return
	case hook.Version != "4":
		fail(w, http.StatusBadRequest, "usage", fmt.Sprintf("version %q of Alertmanager's webhook isn't known here: want 4", clip(hook.Version)))
		return
	case len(hook.Alerts) > maxAlerts:
		fail(w, http.StatusRequestEntityTooLarge, "usage", fmt.Sprintf("%d alerts at once are too many: set max_alerts of the webhook to %d", len(hook.Alerts), maxAlerts))
		return
	}
	// What goes wrong from here on passes by itself: Alertmanager tries again
	// after a 503.
	if err := a.complete(ctx, &hook); err != nil {
		a.logger.Warn("alerts that the webhook left out can't be asked for", "truncated", hook.Truncated, "err", err)
		unavailable(w, "alerts were left out of the webhook, and Alertmanager doesn't say which: try again")
		return
	}
	news := a.news(hook.Alerts, time.Now())
	if err := a.record(ctx, news); err != nil {
		a.forget(news)
		a.logger.Warn("alerts aren't recorded", "alerts", len(news), "err", err)
		unavailable(w, "the alerts can't be recorded at the moment: try again")
		return
	}
	a.logger.Debug("alerts", "received", len(hook.Alerts), "news", len(news))
	w.WriteHeader(http.StatusNoContent)
}

// complete asks Alertmanager for what fires, where it has left alerts out.
func (a *alerting) complete(ctx context.Context, hook *webhook) error {
	if hook.Truncated == 0 {
		return nil
	}
	if a.Alertmanager == "" {
		a.logger.Error("Alertmanager has left alerts out and nobody says where to ask: start tsunamid with --alertmanager, or set max_alerts of the webhook to 0", "truncated", hook.Truncated)
		return nil
	}
	query := url.Values{"active": {"true"}, "silenced": {"false"}, "inhibited": {"false"}, "receiver": {"^" + regexp.QuoteMeta(hook.Receiver) + "$"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(a.Alertmanager, "/")+"/api/v2/alerts?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := a.Client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	var all []webhookAlert
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAlertsBody)).Decode(&all); err != nil {
		return err
	}
	sent := map[string]bool{}
	for _, each := range hook.Alerts {
		sent[each.Fingerprint] = true
	}
	for _, each := range all {
		if !sent[each.Fingerprint] && len(hook.Alerts) < maxAlerts {
			each.Status = "firing"
			hook.Alerts = append(hook.Alerts, each)
		}
	}
	return nil
}

// news are the alerts that weren't sent just now already.
func (a *alerting) news(all []webhookAlert, now time.Time) (out []webhookAlert) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, at := range a.seen {
		if now.Sub(at) >= repeated {
			delete(a.seen, key)
		}
	}
	for _, each := range all {
		if _, known := a.seen[each.key()]; known || each.Fingerprint == "" {
			continue
		}
		a.seen[each.key()] = now
		out = append(out, each)
	}
	return out
}

// forget makes alerts news again.
func (a *alerting) forget(all []webhookAlert) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, each := range all {
		delete(a.seen, each.key())
	}
}

func (a *webhookAlert) key() alertKey { return alertKey{a.Fingerprint, a.Status, a.StartsAt} }

// record writes alerts into the evidence, many to a record.
func (a *alerting) record(ctx context.Context, all []webhookAlert) error {
	var part subjects.Alerts
	size := 0
	flush := func() error {
		if len(part.Alerts) == 0 {
			return nil
		}
		body, err := subjects.Encode(&part)
		if err != nil {
			return err
		}
		part.Alerts, size = nil, 0
		_, err = bus.Put(ctx, a.JetStream, bus.Message{Subject: subjects.AlertsReceived, Data: body})
		return err
	}
	for _, each := range all {
		alert := each.bounded()
		body, err := subjects.Encode(alert)
		if err != nil {
			return err
		}
		if size+len(body) > recordBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		part.Alerts, size = append(part.Alerts, alert), size+len(body)+1
	}
	return flush()
}

// bounded is what is kept of an alert.
func (a *webhookAlert) bounded() subjects.Alert {
	out := subjects.Alert{
		Fingerprint: cut(a.Fingerprint, maxLabel), Firing: a.Status == "firing", Starts: a.StartsAt.UTC(),
		Labels: make(map[string]string, len(a.Labels)), Summary: cut(a.Annotations["summary"], maxSummary),
	}
	for name, value := range a.Labels {
		if len(out.Labels) < maxLabels || name == "alertname" {
			out.Labels[cut(name, maxName)] = cut(value, maxLabel)
		}
	}
	return out
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
