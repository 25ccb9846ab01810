package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const joinUsage = `Usage: tsunami-agent join --server https://HOST:8422 --token-file FILE [--config FILE]
                         [--host NAME] [--role ROLE] [--ca FILE] [--creds FILE] [--trust FILE] [--force]

Makes this host's key and exchanges a join token ("tsunamictl access enroll
--token") for credentials. The private key never leaves the host.

  --server URL       where tsunamid serves HTTP; over TLS, but for loopback
  --token-file FILE  the join token; - reads it from standard input
  --token TOKEN      the same, for everyone to see who lists processes
  --config FILE      the agent's file: host, role, ca, creds and trust
  --host NAME        this host's DNS name, lower case (default: the machine's own)
  --role ROLE        what the host is for
  --ca FILE          the authorities whose certificates the server may show
                     (default: the machine's)
  --creds FILE       where the credentials go (default ` + defaultCreds + `)
  --trust FILE       where the keys that seal desired state go (default ` + defaultTrust + `)
  --force            replace credentials that still work
  --help             print this

Exit codes: 0 joined, 1 failed, 2 wrong usage, 3 refused.
`

const (
	defaultCreds = "/etc/tsunami/agent.creds"
	defaultTrust = "/etc/tsunami/trust.txt"

	maxToken   = 4 << 10
	maxAnswer  = 64 << 10
	joinBound  = 30 * time.Second
	maxSaid    = 512 // of what the server says, in an error
	keySuffix  = ".joining"
	jsonFormat = "application/json"
)

// errRefused says that the server answered, with a no.
var errRefused = errors.New("the server refused")

func runJoin(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	say := func(code int, err error) int {
		fmt.Fprintf(stderr, "tsunami-agent join: %v\n", err)
		if code == exitUsage {
			fmt.Fprintln(stderr, `Try "tsunami-agent join --help".`)
		}
		return code
	}
	j, err := parseJoin(args, os.Stdin)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, joinUsage)
		return exitDone
	}
	if err != nil {
		return say(exitUsage, err)
	}
	err = j.join(ctx)
	switch {
	case errors.Is(err, errRefused):
		return say(exitRefused, err)
	case err != nil:
		return say(exitFailed, err)
	}
	fmt.Fprintf(stdout, `%s has joined. Wrote %s and %s.
The agent takes them from its file:
  creds: %s
  trust: %s
`, j.config.Host, j.config.Creds, j.config.Trust, j.config.Creds, j.config.Trust)
	return exitDone
}

// joining is one attempt to join.
type joining struct {
	config hostagent.Config
	server *url.URL
	token  string
	force  bool
}

func parseJoin(args []string, stdin io.Reader) (*joining, error) {
	var f flags
	var j joining
	var server, token, tokenFile string
	set := flag.NewFlagSet("tsunami-agent join", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	for name, to := range map[string]*string{
		"server": &server, "token": &token, "token-file": &tokenFile, "config": &f.config,
		"host": &f.host, "role": &f.role, "ca": &f.ca, "creds": &f.creds, "trust": &f.trust,
	} {
		set.StringVar(to, name, "", "")
	}
	set.BoolVar(&j.force, "force", false, "")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("%q: it takes no arguments, only flags", set.Arg(0))
	}
	var err error
	if j.server, err = parseServer(server); err != nil {
		return nil, err
	}
	if j.token, err = readToken(token, tokenFile, stdin); err != nil {
		return nil, err
	}
	if j.config, err = f.configuration(); err != nil {
		return nil, err
	}
	if j.config.Creds == "" {
		j.config.Creds = defaultCreds
	}
	if j.config.Trust == "" {
		j.config.Trust = defaultTrust
	}
	if j.config.Trust == hostagent.NoTrust {
		return nil, errors.New("trust is none, and joining writes the keys that seal desired state: name a file by --trust")
	}
	return &j, j.config.Validate()
}

// parseServer refuses what would show the token on the network.
func parseServer(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("--server is missing: want the URL at which tsunamid serves HTTP, such as https://tsunami.example.net:8422")
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("--server: want a URL such as https://tsunami.example.net:8422")
	}
	ip := net.ParseIP(u.Hostname())
	switch loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); {
	case u.Scheme == "https", u.Scheme == "http" && loopback:
		return u, nil
	case u.Scheme == "http":
		return nil, errors.New("--server: over plain http anybody on the way could use the token: want https://")
	}
	return nil, fmt.Errorf("--server: %q isn't a scheme that is known here: want https://", u.Scheme)
}

func readToken(token, file string, stdin io.Reader) (string, error) {
	switch {
	case (token == "") == (file == ""):
		return "", errors.New("want one of --token-file and --token; 'tsunamictl access enroll --token' makes a token")
	case file == "-":
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		defer f.Close() // it was only read
		stdin = f
	default:
		stdin = strings.NewReader(token)
	}
	b, err := io.ReadAll(io.LimitReader(stdin, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || len(b) > maxToken {
		return "", errors.New("the token is empty, or too long for one")
	}
	return string(b), nil
}

// join gets the host's identity and writes it. The error wraps errRefused where
// the server has answered with a no.
func (j *joining) join(ctx context.Context) error {
	if err := j.mayReplace(time.Now()); err != nil {
		return err
	}
	client, err := j.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	// The key is on disk before it is shown to anybody: a token that was used and
	// whose answer was lost is good for the same key again.
	keyFile := j.config.Creds + keySuffix
	signer, seed, err := access.HostKey(keyFile)
	if err != nil {
		return fmt.Errorf("this host's key: %w", err)
	}
	defer clear(seed)
	answer, err := j.ask(ctx, client, signer)
	if err != nil {
		return err
	}
	creds, err := j.credentials(answer, seed)
	if err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	defer clear(creds)
	// A running agent looks at the credentials, and then needs the keys.
	if err := access.WriteSecret(j.config.Trust, []byte(answer.Trust)); err != nil {
		return fmt.Errorf("writing the pinned keys: %w", err)
	}
	if err := access.WriteSecret(j.config.Creds, creds); err != nil {
		return fmt.Errorf("writing the credentials: %w", err)
	}
	if err := os.Remove(keyFile); err != nil {
		return fmt.Errorf("the host has joined, and the copy of its key that isn't needed any more stays: remove it: %w", err)
	}
	return nil
}

// mayReplace says why the credentials that are there shouldn't be replaced.
func (j *joining) mayReplace(now time.Time) error {
	if j.force {
		return nil
	}
	old, err := access.LoadCredentials(j.config.Creds)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("there are credentials already, which can't be read (--force replaces them): %w", err)
	case !old.Expires().IsZero() && !now.Before(old.Expires()):
		return nil
	}
	return fmt.Errorf("%s has credentials of %s, which haven't expired: --force replaces them", j.config.Creds, old.Name())
}

// client trusts the given authorities alone, and follows nobody elsewhere.
func (j *joining) client() (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if j.config.CA != "" {
		pem, err := os.ReadFile(j.config.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s has no certificate in PEM", j.config.CA)
		}
	}
	return &http.Client{
		Timeout:       joinBound,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, MaxResponseHeaderBytes: maxAnswer},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// ask shows the token, the public key, and the proof that the private one is
// here.
func (j *joining) ask(ctx context.Context, client *http.Client, signer *access.Signer) (*subjects.JoinAnswer, error) {
	body, err := subjects.Encode(subjects.JoinRequest{
		Token: j.token, Host: j.config.Host, Role: j.config.Role, Key: signer.Public(),
		Proof: access.SealJoin(signer, j.token, j.config.Host, j.config.Role),
	})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, j.server.JoinPath(subjects.JoinPath).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", jsonFormat)
	request.Header.Set("User-Agent", "tsunami-agent")
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the server (try again: the same key will be used): %w", err)
	}
	defer response.Body.Close() // it was only read
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the server's answer (try again: the same key will be used): %w", err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("the server's answer has more than %d bytes", maxAnswer)
	case response.StatusCode >= http.StatusInternalServerError:
		return nil, fmt.Errorf("the server answered %s: %s", response.Status, said(text))
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s", errRefused, said(text))
	}
	answer, err := subjects.Decode[subjects.JoinAnswer](text)
	if err != nil {
		return nil, fmt.Errorf("the server's answer: %w", err)
	}
	return answer, nil
}

// said is what the server's error says, fit for a terminal.
func said(body []byte) string {
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
		answer.Message = string(body)
	}
	return fmt.Sprintf("%.*q", maxSaid, answer.Message)
}

// credentials makes the credentials file, and checks that it is this host's.
func (j *joining) credentials(answer *subjects.JoinAnswer, seed []byte) ([]byte, error) {
	if _, err := access.ParseKeyring([]byte(answer.Trust)); err != nil {
		return nil, fmt.Errorf("the keys that seal desired state: %w", err)
	}
	file, err := access.FormatCredentials(answer.JWT, seed)
	if err != nil {
		return nil, fmt.Errorf("the JWT: %w", err)
	}
	creds, err := access.ParseCredentials(file)
	if err != nil {
		return nil, err
	}
	if creds.Name() != string(j.config.Host) {
		return nil, fmt.Errorf("it names %q, and this is %s", creds.Name(), j.config.Host)
	}
	return file, nil
}
