package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/notify"
)

// The parts that --run picks from, in the order in which they start.
const (
	partBroker    = "broker"
	partScheduler = "scheduler"
	partSloguard  = "sloguard"
	partConsole   = "console"
	partNotify    = "notify"
)

// allParts run by default, but for partNotify, which needs to be told whom to
// notify.
var allParts = []string{partBroker, partScheduler, partSloguard, partConsole, partNotify}

var defaultParts = allParts[:len(allParts)-1]

// flags are the program's flags as they were given.
type flags struct {
	data, listen, http string
	run                []string
	nats, creds        string
	access, ca         string
	adopt              bool
	tlsCert, tlsKey    string
	tlsClientCA        string
	prometheus         string
	prometheusToken    string
	prometheusCA       string
	alertmanager       string
	replicas           int
	notify             string
	logLevel           *promslog.Level
	logFormat          *promslog.Format
}

// config is what to run: valid, with every default filled in.
type config struct {
	data   string   // of the embedded broker, and of notify
	listen string   // of the embedded broker
	http   string   // of the console
	parts  []string // at least one
	nats   string   // URL of the external broker; "" with the embedded one
	creds  string
	ca     string // of the external broker
	access string // the access directory; "" without identities
	adopt  bool   // what was stored without identities
	// tlsCert and tlsKey are the files of the server's certificate, "" without
	// TLS; tlsClientCA is that of its clients' authorities.
	tlsCert, tlsKey, tlsClientCA string
	replicas                     int
	// prometheus is the URL of what objectives with a query are asked of, and
	// alertmanager that of what says which alerts a webhook left out; "": nobody.
	prometheus, prometheusToken, prometheusCA, alertmanager string
	// notify is who is told what happens; nil: nobody.
	notify *notify.Config
	// heartbeat is the agents'; 0 is the parts' default.
	heartbeat time.Duration
	logger    *slog.Logger
}

// guarded says whether identities and TLS are on, so that what listens may do so
// beyond loopback.
func (c *config) guarded() bool { return c.access != "" && c.tlsCert != "" }

func (c *config) runs(part string) bool { return slices.Contains(c.parts, part) }

// text is a flag's value that reads itself; name is its type in the help.
type text struct {
	name string
	textValue
}

type textValue interface {
	String() string
	Set(string) error
}

// Type is for the help.
func (t text) Type() string { return t.name }

func (f *flags) define(cmd *cobra.Command) {
	f.logLevel, f.logFormat = promslog.NewLevel(), promslog.NewFormat()
	_ = f.logFormat.Set("logfmt") // it is one of the two
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.data, "data", defaultData(), "keep the embedded broker's data, and what has been notified, in `DIR`")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:4222", "`ADDR`ess of the embedded broker; beyond loopback only with --access and --tls-cert; port 0 takes a free one")
	fs.StringVar(&f.http, "http", "127.0.0.1:8422", "`ADDR`ess of the console; beyond loopback only with --access and --tls-cert; port 0 takes a free one")
	fs.StringSliceVar(&f.run, "run", defaultParts, "the `PARTS` to run, with commas between them; "+partNotify+" too where --notify is given")
	fs.StringVar(&f.nats, "nats", "", "use the NATS cluster at `URL`, or at several with commas between them, and run no broker")
	fs.StringVar(&f.access, "access", "", "let nobody in without an identity: the access directory `DIR`, which 'tsunamictl access init' makes")
	fs.BoolVar(&f.adopt, "adopt", false, "take over what was stored without identities, and seal it: once, when --access is new")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "serve with TLS: the `FILE` of the certificate, and of what leads to its authority")
	fs.StringVar(&f.tlsKey, "tls-key", "", "the `FILE` of the certificate's private key")
	fs.StringVar(&f.tlsClientCA, "tls-client-ca", "", "the `FILE` of the authorities whose client certificates name hosts and viewers")
	fs.StringVar(&f.creds, "creds", "", "credentials `FILE` for --nats, where all parts have the same")
	fs.StringVar(&f.ca, "ca", "", "the `FILE` of the authorities of --nats, if not the machine's")
	fs.StringVar(&f.prometheus, "prometheus", "", "ask the Prometheus at `URL` what objectives with promql want to know")
	fs.StringVar(&f.prometheusToken, "prometheus-token", "", "the `FILE` of a bearer token for --prometheus")
	fs.StringVar(&f.prometheusCA, "prometheus-ca", "", "the `FILE` of the authorities of --prometheus, if not the machine's")
	fs.StringVar(&f.alertmanager, "alertmanager", "", "ask the Alertmanager at `URL` for alerts that its webhook left out")
	fs.IntVar(&f.replicas, "replicas", 1, "make the streams on --nats with `N` replicas: 1, 3 or 5")
	fs.StringVar(&f.notify, "notify", "", "tell the receivers that `FILE` names what happens to rollouts; 'tsunamid notify' tries them")
	fs.Var(text{"LEVEL", f.logLevel}, "log-level", "the least level that is logged: "+strings.Join(promslog.LevelFlagOptions, ", "))
	fs.Var(text{"FORMAT", f.logFormat}, "log-format", "how log lines are written: "+strings.Join(promslog.FormatFlagOptions, ", "))
}

// config checks the flags against each other; given says whether a flag was on
// the command line. Its errors are *usageError.
func (f *flags) config(given func(name string) bool) (config, error) {
	c := config{data: f.data, listen: f.listen, http: f.http, parts: f.run, nats: f.nats, creds: f.creds, replicas: f.replicas,
		ca: f.ca, access: f.access, adopt: f.adopt, tlsCert: f.tlsCert, tlsKey: f.tlsKey, tlsClientCA: f.tlsClientCA,
		prometheus: f.prometheus, prometheusToken: f.prometheusToken, prometheusCA: f.prometheusCA, alertmanager: f.alertmanager}
	if given("nats") && !given("run") {
		c.parts = defaultParts[1:]
	}
	if given("notify") && !given("run") {
		c.parts = append(slices.Clone(c.parts), partNotify)
	}
	if len(c.parts) == 0 {
		return c, usagef("--run names no part: want some of %s", strings.Join(allParts, ","))
	}
	for i, p := range c.parts {
		if !slices.Contains(allParts, p) {
			return c, usagef("--run: there is no part %q: want some of %s", p, strings.Join(allParts, ","))
		}
		if slices.Contains(c.parts[:i], p) {
			return c, usagef("--run names %s twice", p)
		}
	}
	switch {
	case given("nats") && c.runs(partBroker):
		return c, usagef("--nats uses an existing broker: leave %s out of --run", partBroker)
	case given("nats"):
		if err := checkURLs(c.nats); err != nil {
			return c, err
		}
	case !c.runs(partBroker):
		return c, usagef("--run leaves out %s: --nats has to say where the broker is, such as --nats nats://127.0.0.1:4222", partBroker)
	}
	for _, name := range []string{"creds", "ca", "replicas"} {
		if given(name) && !given("nats") {
			return c, usagef("--%s is for an existing broker: give --nats too, or leave it out", name)
		}
	}
	for _, only := range []struct{ name, part string }{{"data", partBroker}, {"listen", partBroker}, {"http", partConsole}, {"notify", partNotify}} {
		if given(only.name) && !c.runs(only.part) && (only.name != "data" || !c.runs(partNotify)) {
			return c, usagef("--%s is for the %s, which doesn't run here: leave it out", only.name, only.part)
		}
	}
	if c.runs(partNotify) {
		if f.notify == "" {
			return c, usagef("--run names %s: --notify has to say whom, such as --notify /etc/tsunami/notify.yaml", partNotify)
		}
		var err error
		if c.notify, err = notify.Load(f.notify); err != nil {
			return c, usagef("--notify: %w", err)
		}
	}
	if !slices.Contains([]int{1, 3, 5}, c.replicas) {
		return c, usagef("--replicas %d: want 1, 3 or 5", c.replicas)
	}
	for _, file := range []struct{ name, path string }{
		{"creds", c.creds}, {"ca", c.ca}, {"tls-cert", c.tlsCert}, {"tls-key", c.tlsKey}, {"tls-client-ca", c.tlsClientCA},
		{"prometheus-token", c.prometheusToken}, {"prometheus-ca", c.prometheusCA},
	} {
		if file.path == "" {
			continue
		}
		if _, err := os.ReadFile(file.path); err != nil {
			return c, usagef("--%s: %w", file.name, err)
		}
	}
	if err := c.checkSources(); err != nil {
		return c, err
	}
	if err := c.checkTrust(); err != nil {
		return c, err
	}
	if (c.runs(partBroker) || c.runs(partNotify)) && c.data == "" {
		return c, usagef("--data is empty: want a directory")
	}
	if c.runs(partBroker) {
		if err := c.checkAddress("listen", c.listen); err != nil {
			return c, err
		}
	}
	if c.runs(partConsole) {
		if err := c.checkAddress("http", c.http); err != nil {
			return c, err
		}
	}
	return c, nil
}

// defaultData is /var/lib/tsunamid for root, and for others a directory of
// their own. It differs from the agent's, which may run on the same machine.
func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/tsunamid"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tsunamid")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "tsunamid")
	}
	return "tsunamid-data"
}

// checkSources checks the flags about Prometheus and Alertmanager.
func (c *config) checkSources() error {
	for _, each := range []struct{ flag, url, part string }{{"prometheus", c.prometheus, partSloguard}, {"alertmanager", c.alertmanager, partConsole}} {
		u, err := url.Parse(each.url)
		switch {
		case each.url == "":
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
			return usagef("--%s %q isn't the URL of a server: want one such as http://127.0.0.1:9090", each.flag, each.url)
		case !c.runs(each.part):
			return usagef("--%s is for %s, which doesn't run here: leave it out", each.flag, each.part)
		}
	}
	if c.prometheus == "" && (c.prometheusToken != "" || c.prometheusCA != "") {
		return usagef("--prometheus-token and --prometheus-ca are for --prometheus: give its URL")
	}
	return nil
}

// checkTrust checks the flags about identities and TLS against each other.
func (c *config) checkTrust() error {
	switch {
	case c.access != "" && c.creds != "":
		return usagef("--creds and --access: with an access directory each part has credentials of its own: leave --creds out")
	case c.adopt && c.access == "":
		return usagef("--adopt takes over what was stored without identities: give --access too")
	case c.tlsCert == "" && c.tlsKey != "":
		return usagef("--tls-key is of a certificate: give --tls-cert too")
	case c.tlsKey == "" && c.tlsCert != "":
		return usagef("--tls-cert needs its private key: give --tls-key too")
	case c.tlsClientCA != "" && !c.guarded():
		return usagef("--tls-client-ca says whose certificates name hosts and viewers: give --access, --tls-cert and --tls-key too")
	case c.tlsCert != "" && !c.runs(partBroker) && !c.runs(partConsole):
		return usagef("--tls-cert is for what listens, and neither %s nor %s runs here: leave it out", partBroker, partConsole)
	}
	return nil
}

// checkAddress takes host:port, with a loopback host unless identities and TLS
// are on: without them nobody else may reach the port.
func (c *config) checkAddress(name, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("--%s %q isn't an address: want host:port, such as 127.0.0.1:0", name, addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return usagef("--%s %q: the port is %q: want 0 to 65535", name, addr, port)
	}
	if ip := net.ParseIP(host); c.guarded() || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	var missing []string
	if c.access == "" {
		missing = append(missing, "--access DIR (which 'tsunamictl access init' makes)")
	}
	if c.tlsCert == "" {
		missing = append(missing, "--tls-cert FILE --tls-key FILE")
	}
	return usagef("--%s %q isn't on loopback: anyone who reached it could give orders to the fleet: give %s too, or listen on 127.0.0.1:%s",
		name, addr, strings.Join(missing, " and "), port)
}

// checkURLs takes what the NATS client does: URLs or host:port, comma-separated.
func checkURLs(s string) error {
	for one := range strings.SplitSeq(s, ",") {
		one = strings.TrimSpace(one)
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		if err == nil && (u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)) {
			err = fmt.Errorf("%q isn't a broker's URL", u.Redacted())
		}
		if err != nil {
			return usagef("--nats: %w: want nats://host:port, or several with commas between them", err)
		}
	}
	return nil
}
