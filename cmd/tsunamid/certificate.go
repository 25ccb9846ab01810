package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is the server's, read again when its files change: whoever renews
// it need not restart anything.
type certificate struct {
	cert, key string // files
	logger    *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	stamp  [2]time.Time // of the files that loaded is from
	said   string       // about files that can't be taken
}

// serverTLS is the configuration of everything that listens. With a file of
// client authorities whoever shows a certificate has to show one of theirs.
func serverTLS(cert, key, clientCA string, logger *slog.Logger) (*tls.Config, error) {
	c := &certificate{cert: cert, key: key, logger: logger}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	if clientCA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(clientCA)
	if err != nil {
		return nil, fmt.Errorf("--tls-client-ca: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-client-ca: there is no certificate in %s", clientCA)
	}
	t.ClientAuth = tls.VerifyClientCertIfGiven
	return t, nil
}

// load reads the files. Where they aren't a pair, as between the writing of the
// one and of the other, what was read before stays.
func (c *certificate) load() error {
	stamp, err := modified(c.cert, c.key) // before they are read: what changes meanwhile is seen next time
	if err != nil || stamp == c.stamp {
		return err
	}
	loaded, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	if c.loaded != nil {
		c.logger.Info("took the changed certificate", "file", c.cert)
	}
	c.loaded, c.stamp, c.said = &loaded, stamp, ""
	return nil
}

// get is called at each handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil && err.Error() != c.said {
		c.said = err.Error()
		c.logger.Error("the changed certificate isn't taken; the one before stays", "err", err)
	}
	return c.loaded, nil
}

func modified(cert, key string) (stamp [2]time.Time, err error) {
	for i, file := range []string{cert, key} {
		info, err := os.Stat(file)
		if err != nil {
			return stamp, err
		}
		stamp[i] = info.ModTime()
	}
	return stamp, nil
}
