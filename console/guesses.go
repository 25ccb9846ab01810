package console

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Bounds of failed attempts to join. A token is sealed and can't be guessed:
// they keep the guessing from costing much.
const (
	guessWindow  = time.Minute
	mostGuesses  = 20   // of one address in a window
	mostGuessers = 4096 // whose guesses are counted in a window
)

// guesses counts failed attempts by address.
type guesses struct {
	mu    sync.Mutex
	since time.Time
	count map[netip.Prefix]int
}

// allows says whether an address has guesses left.
func (g *guesses) allows(from netip.Prefix, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn(now)
	return g.count[from] < mostGuesses
}

// failed counts one. Beyond mostGuessers a new address isn't counted: whoever
// has so many could else keep everybody from joining.
func (g *guesses) failed(from netip.Prefix, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn(now)
	if g.count[from] > 0 || len(g.count) < mostGuessers {
		g.count[from]++
	}
}

func (g *guesses) turn(now time.Time) {
	if g.count == nil || now.Sub(g.since) >= guessWindow || now.Before(g.since) {
		g.since, g.count = now, map[netip.Prefix]int{}
	}
}

// origin is where a request comes from: an address, or for IPv6 the network of
// one, since whoever has one has the whole.
func origin(r *http.Request) netip.Prefix {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}
