package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsd starts a NATS server on loopback, and returns its URL.
func natsd(t *testing.T, o *server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server doesn't start")
	}
	return s.ClientURL()
}

// certificates writes an authority of the test's own, and a certificate and key
// of it for 127.0.0.1, for a server and for a client.
func certificates(t *testing.T, dir string) *tls.Config {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, kind string, b []byte) {
		check(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600))
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	check(err)
	write("ca.pem", "CERTIFICATE", der)
	ca, err = x509.ParseCertificate(der)
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "alice"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	check(err)
	write("cert.pem", "CERTIFICATE", der)
	b, err := x509.MarshalECPrivateKey(key)
	check(err)
	write("key.pem", "EC PRIVATE KEY", b)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	check(err)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// contexts makes a directory of contexts and returns how to write one.
func contexts(t *testing.T) func(name string, fields map[string]any) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	dir := filepath.Join(home, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return func(name string, fields map[string]any) {
		t.Helper()
		b, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// dialWith connects as the program with these flags does.
func dialWith(t *testing.T, flags ...string) (*nats.Conn, error) {
	t.Helper()
	a := new(app)
	if err := a.root().ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	nc, _, err := a.dial()
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

// Every field of a context reaches the connection: the server lets nobody in
// who hasn't it.
func TestContextReachesTheConnection(t *testing.T) {
	write := contexts(t)
	dir := t.TempDir()
	conf := certificates(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	// These identities open nothing but the broker that this test starts.
	identity := func(name string) string {
		abs, err := filepath.Abs(filepath.Join("testdata", "context", name))
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	seed, err := os.ReadFile(identity("user.nk"))
	if err != nil {
		t.Fatal(err)
	}
	creds, err := os.ReadFile(identity("user.creds"))
	if err != nil {
		t.Fatal(err)
	}
	secret := file("user.creds") // git doesn't keep who may read a file
	if err := os.WriteFile(secret, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	jwt := strings.Split(string(creds), "\n")[1]
	operator, err := server.ProcessConfigFile(identity("server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TSUNAMI_TEST_DIR", dir)

	password := natsd(t, &server.Options{Username: "alice", Password: "secret"})
	token := natsd(t, &server.Options{Authorization: "t0ken"})
	nkey := natsd(t, &server.Options{Nkeys: []*server.NkeyUser{{Nkey: "UBUZUOARUBV7HGS3VY7YTMZDYEMVAMPGNGRFKCUGAZAMN6QQK46GA2SN"}}})
	decentral := natsd(t, operator)
	private := natsd(t, &server.Options{TLSConfig: conf, TLSVerify: true, TLSTimeout: 5})
	tlsFirst := natsd(t, &server.Options{TLSConfig: conf, TLSVerify: true, TLSTimeout: 5, TLSHandshakeFirst: true})
	open := natsd(t, &server.Options{})
	withTLS := func(url string, first bool) map[string]any {
		return map[string]any{"url": url, "ca": file("ca.pem"), "cert": "$TSUNAMI_TEST_DIR/cert.pem", "key": "file://" + file("key.pem"), "tls_first": first}
	}
	for name, fields := range map[string]map[string]any{
		"password": {"url": password, "user": "alice", "password": "secret"},
		"token":    {"url": token, "token": "t0ken"},
		"nkey":     {"url": nkey, "nkey": identity("user.nk")},
		"creds":    {"url": decentral, "creds": secret},
		"jwt":      {"url": decentral, "user_jwt": jwt, "user_seed": strings.TrimSpace(string(seed))},
		"tls":      withTLS(private, false),
		"tlsfirst": withTLS(tlsFirst, true),
		"inbox":    {"url": open, "inbox_prefix": "_INBOX_alice"},
		"several":  {"url": "nats://127.0.0.1:1," + open, "description": "x", "color_scheme": "red", "a_new_field": []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			write(name, fields)
			nc, err := dialWith(t, "--context", name, "--actor", "alice")
			if err != nil {
				t.Fatal(err)
			}
			if nc.Opts.Name != "tsunamictl alice" || name == "inbox" && !strings.HasPrefix(nc.NewInbox(), "_INBOX_alice.") {
				t.Errorf("the connection is %s, an inbox %s", nc.Opts.Name, nc.NewInbox())
			}
			// Without one of its fields it doesn't get in.
			for field, value := range fields {
				if name == "inbox" || name == "several" || field == "url" || value == false {
					continue
				}
				less := map[string]any{}
				for k, v := range fields {
					if k != field {
						less[k] = v
					}
				}
				write("less", less)
				if _, err := dialWith(t, "--context", "less"); err == nil {
					t.Errorf("it gets in without %s", field)
				}
			}
		})
	}
	t.Run("flags go before", func(t *testing.T) {
		write("other", map[string]any{"url": "nats://127.0.0.1:1", "user": "eve", "password": "x", "token": "x"})
		if _, err := dialWith(t, "--context", "other", "--server", decentral, "--creds", secret); err != nil {
			t.Error(err)
		}
		t.Setenv("TSUNAMI_SERVER", open) // the environment isn't a flag
		if _, err := dialWith(t, "--context", "other"); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1 as context other says") {
			t.Errorf("got %v", err)
		}
		t.Setenv("NATS_CONTEXT", "other")
		if nc, err := dialWith(t); err != nil || nc.ConnectedUrl() != open {
			t.Errorf("got %v", err)
		}
	})
}

func TestContextMistakes(t *testing.T) {
	write := contexts(t)
	if _, err := dialWith(t, "--context", "prod"); err == nil || !strings.Contains(err.Error(), "there are no contexts") {
		t.Errorf("got %v", err)
	}
	write("prod", map[string]any{"url": 7})
	write("proxied", map[string]any{"socks_proxy": "127.0.0.1:1080"})
	write("domain", map[string]any{"jetstream_domain": "hub"})
	write("vault", map[string]any{"creds": "op://vault/item"})
	write("seedless", map[string]any{"nkey": "nowhere.nk"})
	write("secret", map[string]any{"url": "nats://alice:hidden@127.0.0.1:1"})
	for name, want := range map[string]string{
		"prdo":     "there is no context prdo: no file " + os.Getenv("XDG_CONFIG_HOME"),
		"nope":     "; there are domain, prod, proxied, secret, seedless, vault",
		"../prod":  `"../prod" isn't the name of a context`,
		"":         `"" isn't the name of a context`,
		"prod":     "prod.json isn't a context of the nats command",
		"proxied":  "has socks_proxy, which tsunamictl can't do",
		"domain":   "has jetstream_domain, which tsunamictl can't do",
		"vault":    "creds is a reference (op:…) that only the nats command follows",
		"seedless": "nkey: ",
		"secret":   "can't reach the broker at nats://127.0.0.1:1 as context secret says",
	} {
		_, err := dialWith(t, "--context", name)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

func TestContextDir(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "/home/alice")
	if dir, err := contextDir(); err != nil || dir != "/home/alice/.config/nats/context" {
		t.Errorf("got %s, %v", dir, err)
	}
	for in, want := range map[string]string{"": "", "~/a.creds": "/home/alice/a.creds", "file:///a": "/a", "$HOME/a": "/home/alice/a", "a~": "a~"} {
		if got := expand(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"nats://h:1": "nats://h:1", "nats://a:b@h:1,tls://t@g": "nats://h:1,tls://g", "a@h": "h"} {
		if got := redacted(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
