package scheduler

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/tsunami-rollouts/tsunami/control"
)

type tmpClient struct{ nc *nats.Conn }

func (c tmpClient) Call(ctx context.Context, v control.Verb, req, resp any) error {
	b, _ := json.Marshal(req)
	m, err := c.nc.Request("tsunami.api.alice."+string(v), b, 10*time.Second)
	if err != nil {
		return err
	}
	if m.Header.Get("Nats-Service-Error-Code") != "" {
		var e control.Error
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return err
		}
		return &e
	}
	if resp == nil {
		return nil
	}
	return json.Unmarshal(m.Data, resp)
}
