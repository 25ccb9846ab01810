package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/access"
)

// natsContext is a context of the nats command, as it keeps it: the fields that
// say where to connect to and as whom. Other fields are left alone.
type natsContext struct {
	URL         string `json:"url"`
	User        string `json:"user"`
	Password    string `json:"password"`
	Creds       string `json:"creds"` // a file, as are nkey, cert, key and ca
	NKey        string `json:"nkey"`
	JWT         string `json:"user_jwt"`
	Seed        string `json:"user_seed"`
	Token       string `json:"token"`
	Cert        string `json:"cert"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
	TLSFirst    bool   `json:"tls_first"`
	InboxPrefix string `json:"inbox_prefix"`

	// What would lead elsewhere, or be somebody else, if it were left alone.
	SocksProxy  string `json:"socks_proxy"`
	NSC         string `json:"nsc"`
	Domain      string `json:"jetstream_domain"`
	APIPrefix   string `json:"jetstream_api_prefix"`
	WindowsCert string `json:"windows_cert_store"`
}

// contextDir is where the nats command keeps its contexts.
func contextDir() (string, error) {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "nats", "context"), nil
}

// contextNames names the contexts that there are, in order.
func contextNames(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !e.IsDir() {
			names = append(names, name)
		}
	}
	return names
}

// readContext reads a context. A reference that isn't to a file is left to the
// nats command: it asks other programs for the secret.
func readContext(name string) (*natsContext, error) {
	if name == "" || strings.Contains(name, "..") || strings.ContainsAny(name, `/\`) {
		return nil, usagef("--context: %q isn't the name of a context", name)
	}
	dir, err := contextDir()
	if err != nil {
		return nil, fmt.Errorf("--context: %w", err)
	}
	file := filepath.Join(dir, name+".json")
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, usagef("--context: there is no context %s: no file %s; %s", name, file, thereAre(contextNames(dir), "there are no contexts: 'nats context add' makes one"))
	case err != nil:
		return nil, fmt.Errorf("--context: %w", err)
	}
	var c natsContext
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("--context: %s isn't a context of the nats command: %w", file, err)
	}
	for _, f := range []struct{ name, value string }{
		{"socks_proxy", c.SocksProxy}, {"nsc", c.NSC}, {"jetstream_domain", c.Domain}, {"jetstream_api_prefix", c.APIPrefix}, {"windows_cert_store", c.WindowsCert},
	} {
		if f.value != "" {
			return nil, fmt.Errorf("--context: %s has %s, which tsunamictl can't do: use a context without it, or --server and --creds", file, f.name)
		}
	}
	for _, f := range []struct {
		name  string
		value *string
		file  bool
	}{
		{"password", &c.Password, false}, {"token", &c.Token, false}, {"user_jwt", &c.JWT, false}, {"user_seed", &c.Seed, false},
		{"creds", &c.Creds, true}, {"nkey", &c.NKey, true}, {"cert", &c.Cert, true}, {"key", &c.Key, true}, {"ca", &c.CA, true},
	} {
		if scheme, _, _ := strings.Cut(*f.value, ":"); scheme == "op" || scheme == "nsc" || scheme == "data" || scheme == "env" {
			return nil, fmt.Errorf("--context: %s: %s is a reference (%s:…) that only the nats command follows: name a file, or use --creds", file, f.name, scheme)
		}
		if f.file {
			*f.value = expand(*f.value)
		}
	}
	return &c, nil
}

// expand reads a file's name as the nats command does: with environment
// variables, ~ and file://.
func expand(name string) string {
	name = os.ExpandEnv(strings.TrimPrefix(name, "file://"))
	if rest, ok := strings.CutPrefix(name, "~"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return home + rest
		}
	}
	return name
}

// options are the context's for a connection. A credentials file of one's own
// replaces whoever the context is.
func (c *natsContext) options(creds string) (opts []nats.Option, err error) {
	switch {
	case creds != "":
		opts = append(opts, nats.UserCredentials(creds))
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	case c.Creds != "":
		opts = append(opts, nats.UserCredentials(c.Creds))
	case c.NKey != "":
		key, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("nkey: %w", err)
		}
		opts = append(opts, key)
	case c.JWT != "" && c.Seed != "":
		opts = append(opts, nats.UserJWTAndSeed(c.JWT, c.Seed))
	case c.JWT != "": // of a bearer
		opts = append(opts, nats.UserJWT(func() (string, error) { return c.JWT, nil }, func([]byte) ([]byte, error) { return nil, nil }))
	}
	if c.Token != "" && creds == "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.Cert != "" && c.Key != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.TLSFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	if c.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(c.InboxPrefix))
	}
	return opts, nil
}

// dialContext connects as --context says; --server and --creds go before it.
// Like bus.Connect it connects again for ever, and keeps nothing to be sent
// later.
func (a *app) dialContext() (*nats.Conn, *access.Credentials, error) {
	c, err := readContext(a.context)
	if err != nil {
		return nil, nil, err
	}
	url := cmp.Or(c.URL, defaultServer)
	if a.given("server") {
		url = a.server
	}
	// What the environment says is for those who name no context.
	creds := ""
	if a.given("creds") {
		creds = a.creds
	}
	if a.given("ca") {
		c.CA = a.ca
	}
	if a.given("cert") {
		c.Cert, c.Key = a.cert, a.key
	}
	file := creds
	if file == "" && c.User == "" {
		file = c.Creds
	}
	who, err := a.identify(file)
	if err != nil {
		return nil, nil, err
	}
	if who != nil && c.InboxPrefix == "" {
		c.InboxPrefix = who.Inbox(true)
	}
	opts, err := c.options(creds)
	if err == nil {
		var nc *nats.Conn
		nc, err = nats.Connect(url, append(opts,
			nats.Name(a.connection()),
			nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(time.Second, time.Second),
			nats.IgnoreAuthErrorAbort(), nats.ReconnectBufSize(-1),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what fails is said where it was asked for
		)...)
		if err == nil {
			return nc, who, nil
		}
	}
	return nil, nil, fmt.Errorf("can't reach the broker at %s as context %s says: %w", redacted(url), a.context, err)
}

// redacted leaves out the names and passwords that URLs say before an @.
func redacted(urls string) string {
	all := strings.Split(urls, ",")
	for i, u := range all {
		scheme, rest, ok := strings.Cut(u, "://")
		if !ok {
			scheme, rest = "", u
		} else {
			scheme += "://"
		}
		all[i] = scheme + rest[strings.LastIndexByte(rest, '@')+1:]
	}
	return strings.Join(all, ",")
}
