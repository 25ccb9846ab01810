package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/version"

	"github.com/tsunami-rollouts/tsunami/access"
)

// The headers of a webhook.
const (
	HeaderEvent     = "Tsunami-Event"
	HeaderID        = "Tsunami-Event-Id"
	HeaderSignature = "Tsunami-Signature"
)

// Bounds of an exchange.
const (
	maxAnswer     = 16 << 10 // of an answer's body that is read, in bytes
	maxQuoted     = 200      // of it in an error
	maxRetryAfter = 5 * time.Minute
)

// failure is why an event wasn't taken.
type failure struct {
	err   error
	final bool          // trying again is no use
	after time.Duration // the receiver asks for this much patience
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func final(format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), final: true}
}

// poster sends to a webhook. Its files are read anew for each attempt, so that a
// secret is replaced without a restart.
type poster struct {
	config  *Webhook
	timeout time.Duration
}

// read is what the webhook's files hold now.
func (w *Webhook) read() (*request, error) {
	r := &request{url: w.URL, header: http.Header{}, client: &http.Client{
		// Where a redirect leads nobody has said, and a POST would become a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if w.URLFile != "" {
		b, err := access.ReadSecret(w.URLFile)
		if err != nil {
			return nil, fmt.Errorf("urlFile: %w", err)
		}
		r.url = strings.TrimSpace(string(b))
		if err := checkURL(r.url); err != nil {
			return nil, fmt.Errorf("urlFile: what %s holds %w", w.URLFile, err)
		}
	}
	if w.HeadersFile != "" {
		b, err := access.ReadSecret(w.HeadersFile)
		if err != nil {
			return nil, fmt.Errorf("headersFile: %w", err)
		}
		if err := addHeaders(r.header, string(b)); err != nil {
			return nil, fmt.Errorf("headersFile: %s: %w", w.HeadersFile, err)
		}
	}
	if w.SecretFile != "" {
		b, err := access.ReadSecret(w.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("secretFile: %w", err)
		}
		if r.secret = bytes.TrimSpace(b); len(r.secret) < minSecret {
			return nil, fmt.Errorf("secretFile: %s holds %d bytes: want at least %d, such as `openssl rand -hex 32` gives", w.SecretFile, len(r.secret), minSecret)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // events are rare
	if w.CA != "" {
		b, err := os.ReadFile(w.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", w.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	r.client.Transport = transport
	return r, nil
}

// minSecret keeps somebody from signing with a word, in bytes.
const minSecret = 16

func addHeaders(h http.Header, text string) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || !token(name) {
			return fmt.Errorf("line %d isn't a header: want Name: value", n)
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return nil
}

// token says whether s can be a header's name.
func token(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// request is what all attempts have in common.
type request struct {
	url    string
	header http.Header
	secret []byte
	client *http.Client
}

// send makes one attempt. It says what was answered, or returns a *failure.
func (p *poster) send(ctx context.Context, e Event, body []byte, now time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	r, err := p.config.read()
	if err != nil {
		return "", &failure{err: err} // somebody may put it right
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return "", final("the request can't be made: %w", bare(err))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tsunamid/"+version.Version)
	maps.Copy(req.Header, r.header)
	req.Header.Set(HeaderEvent, string(e.Kind))
	req.Header.Set(HeaderID, e.ID)
	if r.secret != nil {
		req.Header.Set(HeaderSignature, sign(r.secret, now, body))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return "", &failure{err: bare(err)}
	}
	defer func() { _ = resp.Body.Close() }() // what it says doesn't change anything
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch status := resp.StatusCode; {
	case status >= 200 && status < 300:
		return resp.Status, nil // however its body ends
	case status >= 300 && status < 400:
		return "", final("it answered %s: redirects aren't followed, give the URL that it leads to", resp.Status)
	case status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests:
		return "", final("it answered %s%s", resp.Status, quoted(answer))
	case err != nil:
		return "", &failure{err: fmt.Errorf("it answered %s, and the rest was lost: %w", resp.Status, err)}
	default:
		return "", &failure{err: fmt.Errorf("it answered %s%s", resp.Status, quoted(answer)), after: retryAfter(resp.Header, now)}
	}
}

// bare leaves the URL out of an error: it may be a secret.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func quoted(answer []byte) string {
	if s := cut(plain(string(answer)), maxQuoted); s != "" {
		return ": " + s
	}
	return ""
}

// retryAfter reads the header in both its forms, and bounds it.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil {
		return min(time.Duration(max(0, min(n, 1<<20)))*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(0, t.Sub(now)), maxRetryAfter)
	}
	return 0
}

// sign gives t=<seconds since 1970>,v1=<HMAC-SHA256 of them, a dot and the body>.
func sign(secret []byte, now time.Time, body []byte) string {
	t := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
