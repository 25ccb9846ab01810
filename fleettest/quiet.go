package fleettest

import (
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
//	   4  forgetting rate-limited log lines, every second
//
// The last two have no option, so they are reached by name. If a version of the
// broker has them no more, this doesn't link, and what is left of it can go.

//go:linkname statsHBInterval github.com/nats-io/nats-server/v2/server.statsHBInterval
var statsHBInterval time.Duration

//go:linkname changeRateLimitLogInterval github.com/nats-io/nats-server/v2/server.(*Server).changeRateLimitLogInterval
func changeRateLimitLogInterval(s *server.Server, d time.Duration)

// seldom is longer than any simulation.
const seldom = 366 * 24 * time.Hour

func init() { statsHBInterval = seldom }
