package notify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Trial is what came of an example that one receiver was sent.
type Trial struct {
	Receiver rollout.ID
	Answer   string // "" where it failed
	Err      error
	Took     time.Duration
}

// Try sends an example event of a kind to every receiver, whatever it asks to be
// told of, once, and says what came of each, in the file's order.
func Try(ctx context.Context, c *Config, k Kind) ([]Trial, error) {
	if !k.known() {
		return nil, fmt.Errorf("%q isn't an event: want one of %s", k, list(Kinds))
	}
	out := make([]Trial, len(c.Receivers))
	var all sync.WaitGroup
	for i := range c.Receivers {
		all.Go(func() {
			r, now := newReceiver(&c.Receivers[i]), time.Now()
			e := Example(k, now)
			body, err := r.render(e)
			t := Trial{Receiver: r.Name, Err: err}
			if err == nil {
				t.Answer, t.Err = r.sender.send(ctx, e, body, now)
			}
			t.Took = time.Since(now)
			out[i] = t
		})
	}
	all.Wait()
	return out, nil
}
