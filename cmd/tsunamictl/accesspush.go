package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/access"
)

// push sends the accounts to the nats-server at --server, as a user of the system
// account that lives for this alone.
func (x *accessApp) push(ctx context.Context, s *access.Store) error {
	p, err := s.Pusher(time.Now())
	if err != nil {
		return err
	}
	opts := []nats.Option{
		nats.Name("tsunamictl access"), nats.CustomInboxPrefix(p.Inbox),
		nats.UserJWT(func() (string, error) { return p.JWT, nil }, p.Sign),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what fails is said where it was asked for
	}
	if x.ca != "" {
		opts = append(opts, nats.RootCAs(x.ca))
	}
	nc, err := nats.Connect(x.server, opts...)
	if err != nil {
		return fmt.Errorf("can't reach the nats-server at %s: %w; nothing was pushed: 'tsunamictl access push --server URL' tries again", redacted(x.server), err)
	}
	defer nc.Close()
	ctx, cancel := x.bounded(ctx)
	defer cancel()
	for _, account := range p.Accounts {
		if err := pushAccount(ctx, nc, account); err != nil {
			return fmt.Errorf("the nats-server at %s: %w", redacted(x.server), err)
		}
	}
	x.say("the nats-server at %s has the identities as they are now", redacted(x.server))
	return nil
}

func pushAccount(ctx context.Context, nc *nats.Conn, account string) error {
	m, err := nc.RequestWithContext(ctx, access.PushSubject, []byte(account))
	if err != nil {
		return fmt.Errorf("it didn't take the identities: %w; has it a resolver of type full, as nats-server.conf says?", err)
	}
	var answer struct {
		Data struct {
			Code int `json:"code"`
		} `json:"data"`
		Error struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("its answer: %w", err)
	}
	if answer.Data.Code != 200 {
		return fmt.Errorf("it refused the identities: %s", answer.Error.Description)
	}
	return nil
}
