package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

const (
	maxRedirects = 5
	maxHeader    = 64 << 10 // of an HTTP answer
)

// unitName is what systemd takes as a unit's name, with its type.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+\.(service|socket|target|timer|mount|automount|path|slice|scope|swap|device)$`)

// kindFaults says what is wrong with what the check is to do. The fields are
// those within the check, with a dot before them.
func (c *Check) kindFaults() []*rollout.FieldError {
	var all []*rollout.FieldError
	add := func(field, format string, args ...any) {
		all = append(all, &rollout.FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	var kinds []string
	for _, k := range []struct {
		name  string
		there bool
	}{{"exec", len(c.Exec) > 0}, {"http", c.HTTP != ""}, {"tcp", c.TCP != ""}, {"systemd", c.Systemd != ""}, {"exporter", c.Exporter != nil}} {
		if k.there {
			kinds = append(kinds, k.name)
		}
	}
	switch len(kinds) {
	case 0:
		add("", "has nothing to check: want one of exec, http, tcp, systemd and exporter, such as exec: [docker, info]")
	case 1:
	default:
		add("."+kinds[1], "comes beside %s: a check has one of exec, http, tcp, systemd and exporter", kinds[0])
	}
	if c.HTTP != "" {
		if u, err := url.Parse(c.HTTP); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !validPort(u.Port(), true) {
			add(".http", "%q isn't the URL of a page: want one such as http://127.0.0.1:8080/healthz", c.HTTP)
		}
	}
	if c.TCP != "" {
		if host, port, err := net.SplitHostPort(c.TCP); err != nil || host == "" || !validPort(port, false) {
			add(".tcp", "%q isn't host:port: want an address such as 127.0.0.1:5432 or [::1]:5432", c.TCP)
		}
	}
	if c.Systemd != "" && (!unitName.MatchString(c.Systemd) || len(c.Systemd) > 255) {
		add(".systemd", "%q isn't the name of a unit with its type: want one such as docker.service", c.Systemd)
	}
	if c.Exporter != nil {
		c.Exporter.faults(add)
	}
	return all
}

func validPort(s string, optional bool) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" && optional || err == nil && n > 0
}

// probe runs the check once, within ctx. Programs, systemctl among them, run
// with execute and the environment env. An exporter's metrics are compared with
// those of the run before.
func (c *Check) probe(ctx context.Context, execute func(context.Context, Command) Result, env []string, before *scraped, now time.Time) Result {
	var r Result
	switch {
	case c.Exporter != nil:
		r = c.Exporter.probe(ctx, before, now)
	case c.HTTP != "":
		r = probeHTTP(ctx, c.HTTP)
	case c.TCP != "":
		r.Err = probeTCP(ctx, c.TCP)
	case c.Systemd != "":
		return probeUnit(ctx, c.Systemd, execute, env)
	default:
		return execute(ctx, Command{Args: c.Exec, Env: env})
	}
	if r.Err != nil && ctx.Err() != nil {
		r.Err = context.Cause(ctx)
	}
	return r
}

// probeHTTP passes if the page's answer is 2xx. It follows redirects on the
// same host alone: a page of logging in, elsewhere, answers 200 too. A proxy of
// the environment is used as by other programs, so not for this machine.
func probeHTTP(ctx context.Context, page string) Result {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		switch {
		case to.URL.Hostname() != via[0].URL.Hostname():
			return fmt.Errorf("it redirects to another host, %s", to.URL.Host)
		case len(via) > maxRedirects:
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		}
		return nil
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return Result{Err: err}
	}
	request.Header.Set("User-Agent", "tsunami-agent")
	answer, err := client.Do(request)
	if err != nil {
		return Result{Err: err}
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 == 2 {
		return Result{}
	}
	body, _ := io.ReadAll(io.LimitReader(answer.Body, maxOutput)) // what there is of it explains
	return Result{Err: fmt.Errorf("%s answers %s", request.URL.Redacted(), answer.Status), Output: string(body)}
}

// probeTCP passes if the address takes a connection.
func probeTCP(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// probeUnit passes if the unit is active; one that reloads is, too. It asks for
// properties, since is-active alone calls a unit that isn't there inactive.
func probeUnit(ctx context.Context, unit string, execute func(context.Context, Command) Result, env []string) Result {
	r := execute(ctx, Command{
		Args: []string{"systemctl", "show", "--property=LoadState,ActiveState,SubState", "--", unit}, Env: env, Answers: true,
	})
	if r.Err != nil {
		return r
	}
	says := make(map[string]string)
	for line := range strings.Lines(r.Stdout) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		says[name] = value
	}
	switch active := says["ActiveState"]; {
	case active == "active", active == "reloading", active == "refreshing":
		return Result{}
	case active == "":
		return Result{Err: errors.New("systemctl doesn't say whether the unit is active"), Output: r.Output}
	case says["LoadState"] == "not-found":
		return Result{Err: fmt.Errorf("there is no unit %s", unit)}
	case says["LoadState"] == "masked":
		return Result{Err: fmt.Errorf("%s is masked", unit)}
	default:
		return Result{Err: fmt.Errorf("%s is %s (%s)", unit, active, says["SubState"])}
	}
}
