package hostagent

import (
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// gatedProvider is an in-process connection that a test can cut and shut.
type gatedProvider struct {
	inner nats.InProcessConnProvider
	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func (g *gatedProvider) InProcessConn() (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isCut {
		return nil, errors.New("the way is shut")
	}
	c, err := g.inner.InProcessConn()
	if err == nil {
		g.conns = append(g.conns, c)
	}
	return c, err
}

func (g *gatedProvider) shut(is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isCut = is
}

func (g *gatedProvider) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}
