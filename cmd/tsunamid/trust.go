package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
)

// lookEvery is how often the account's file is looked at: a revoked identity is
// gone within a second.
const lookEvery = 250 * time.Millisecond

// trust is who is known, as the access directory has it now.
type trust struct {
	dir       string
	server    atomic.Pointer[access.Server]
	authority atomic.Pointer[access.Authority]
}

// loadTrust reads what an access directory holds for servers.
func loadTrust(dir string) (*trust, error) {
	t := &trust{dir: dir}
	s, err := access.LoadServer(dir)
	if err != nil {
		return nil, err
	}
	return t, t.take(s)
}

// take makes another reading of the directory the one that counts.
func (t *trust) take(s *access.Server) error {
	a, err := s.Authority()
	if err != nil {
		return fmt.Errorf("the access directory %s: %w", t.dir, err)
	}
	t.server.Store(s)
	t.authority.Store(a)
	return nil
}

// identity is what a part connects with: its credentials file, and the prefix
// of the subjects on which it hears answers.
func (t *trust) identity(part string) (file, inbox string, err error) {
	if file, err = t.server.Load().Credentials(part); err != nil {
		return "", "", fmt.Errorf("the credentials of %s: %w", part, err)
	}
	c, err := access.LoadCredentials(file)
	if err != nil {
		return "", "", fmt.Errorf("the credentials of %s: %w", part, err)
	}
	return file, c.Inbox(part == access.PartConsole), nil // the console is a viewer, and those are people
}

// watch takes the account's file whenever it changes, and hands it on, until ctx
// ends. What can't be read or handed on is said once and tried again.
func (t *trust) watch(ctx context.Context, logger *slog.Logger, hand func(*access.Server) error) error {
	said := ""
	for tick := time.NewTicker(lookEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
		if !t.server.Load().Changed() {
			continue
		}
		s, err := access.LoadServer(t.dir)
		if err == nil {
			// The broker first: where it refuses the account, nobody takes it.
			err = hand(s)
		}
		if err == nil {
			err = t.take(s)
		}
		switch {
		case err == nil:
			said = ""
			logger.Info("took the changed account", "access", t.dir)
		case err.Error() != said:
			said = err.Error()
			logger.Error("the changed account isn't taken; the one before counts on", "access", t.dir, "err", err)
		}
	}
}
