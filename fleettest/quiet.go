package fleettest

import (
	"sync"
	"sync/atomic"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/nats-io/nats-server/v2/server"
)

// What an idle broker does by itself, measured with the race detector on two
// cores, in real seconds for two simulated weeks:
//
//	 168  three sources' heartbeats, every second each (see broker.sleep)
//	  42  bus.Consume on two streams (see consume)
//	   9  statistics of the process, every ten seconds
//	   5  looking whether caches have expired, every ten seconds each
//	   4  forgetting rate-limited log lines, every second
//
// The last three have no option, so they are reached by name. If a version of
// the broker has them no more, this doesn't link, and what is left of it can go.

//go:linkname statsHBInterval github.com/nats-io/nats-server/v2/server.statsHBInterval
var statsHBInterval time.Duration

//go:linkname changeRateLimitLogInterval github.com/nats-io/nats-server/v2/server.(*Server).changeRateLimitLogInterval
func changeRateLimitLogInterval(s *server.Server, d time.Duration)

// The server's clock for caches and ages, and how many use it: with one user
// from the start nobody begins to tick it.
//
//go:linkname accessTime github.com/nats-io/nats-server/v2/server/ats.utime
var accessTime atomic.Int64

//go:linkname accessUsers github.com/nats-io/nats-server/v2/server/ats.refs
var accessUsers atomic.Int64

// accessClock ticks the server's clock for caches, which would tick ten times a
// second: when something happens, and once more soon after the last thing that
// did, then so far that every cache has expired.
type accessClock struct {
	mu      sync.Mutex
	pending bool
}

func (c *accessClock) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	accessTime.Store(time.Now().UnixNano())
	if c.pending {
		return
	}
	c.pending = true
	time.AfterFunc(9*time.Second, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending = false
		accessTime.Store(time.Now().Add(time.Hour).UnixNano())
	})
}

// seldom is longer than any simulation.
const seldom = 366 * 24 * time.Hour

func init() { statsHBInterval = seldom }
